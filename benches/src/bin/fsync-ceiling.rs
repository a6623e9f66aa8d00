//! Appends and fsyncs batches of a given size: the ceiling for any durable log on this disk.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;

/// Appends and fsyncs batches.
#[derive(Parser)]
struct Args {
    /// The directory to write a temporary file in; give the disk that is compared.
    #[arg(long)]
    dir: PathBuf,
    /// Bytes of a batch.
    #[arg(long)]
    batch_bytes: usize,
    /// Records that a batch stands for, for the rate that is printed.
    #[arg(long)]
    batch_records: u64,
    /// How long to go on.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let path = args.dir.join(format!("fsync-ceiling.{}", std::process::id()));
    let mut file = File::create_new(&path).context("create the file")?;
    let batch = vec![0x5a; args.batch_bytes];
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let began = Instant::now();
    let mut batches = 0_u64;
    while Instant::now() < deadline {
        file.write_all(&batch)?;
        file.sync_data()?;
        batches += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(&path)?;
    let rate = batches as f64 / seconds;
    println!(
        "{{\"batch_bytes\":{},\"batches_per_second\":{rate:.0},\"records_per_second\":{:.0}}}",
        args.batch_bytes,
        rate * args.batch_records as f64
    );
    Ok(())
}
