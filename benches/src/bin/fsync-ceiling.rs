//! Writes and fsyncs batches of a given size over bytes that are on the disk already, as kvd's log does
//! (docs/adr/0013-the-next-segment.md): the ceiling for any durable log on this disk.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;

/// Zeros written at a time before the measurement begins.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Writes and fsyncs batches.
#[derive(Parser)]
struct Args {
    /// The directory to write temporary files in; give the disk that is compared.
    #[arg(long)]
    dir: PathBuf,
    /// Bytes of a batch.
    #[arg(long)]
    batch_bytes: usize,
    /// Records that a batch stands for, for the rate that is printed.
    #[arg(long)]
    batch_records: u64,
    /// Bytes of the file that is written over, again and again.
    #[arg(long, default_value_t = 64 << 20)]
    segment_bytes: u64,
    /// How long to go on.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// A file of so many zeros, on the disk.
fn file_of_zeros(path: &Path, bytes: u64) -> io::Result<File> {
    let file = File::create_new(path)?;
    let mut length = 0;
    while length < bytes {
        let piece = (bytes - length).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..piece as usize], length)?;
        length += piece;
    }
    file.sync_all()?;
    Ok(file)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let path = args.dir.join(format!("fsync-ceiling.{}", std::process::id()));
    let bytes = args.batch_bytes as u64;
    ensure!(bytes > 0 && bytes <= args.segment_bytes, "a batch has 1 byte to --segment-bytes");
    let file = file_of_zeros(&path, args.segment_bytes).context("make the file")?;
    let batch = vec![0x5a; args.batch_bytes];
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let began = Instant::now();
    let (mut batches, mut offset) = (0_u64, 0);
    while Instant::now() < deadline {
        if offset + bytes > args.segment_bytes {
            offset = 0;
        }
        file.write_all_at(&batch, offset)?;
        file.sync_data()?;
        offset += bytes;
        batches += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(&path)?;
    let rate = batches as f64 / seconds;
    println!(
        "{{\"batch_bytes\":{},\"batches_per_second\":{rate:.0},\"records_per_second\":{:.0}}}",
        args.batch_bytes,
        rate * args.batch_records as f64
    );
    Ok(())
}
