//! Writes and fsyncs batches of a given size as kvd's log does: the ceiling for any durable log on this
//! disk. Small batches go into room that was made ahead, large ones make the file longer
//! (docs/adr/0008-room-ahead.md).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;

/// As `storage/src/log/sync.rs` has them.
const ROOM_BYTES: u64 = 256 << 10;
const ROOM_BATCH_BYTES: u64 = 64 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

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
    /// Another file is begun when one has grown to this size.
    #[arg(long, default_value_t = 64 << 20)]
    segment_bytes: u64,
    /// How long to go on.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// The file being written.
struct Segment {
    file: File,
    offset: u64,
    length: u64,
}

impl Segment {
    /// Begins another file in place of the one before.
    fn begin(path: &Path) -> io::Result<Self> {
        if path.exists() {
            fs::remove_file(path)?;
        }
        let file = File::create_new(path)?;
        file.sync_data()?;
        Ok(Self { file, offset: 0, length: 0 })
    }

    fn append(&mut self, batch: &[u8], segment_bytes: u64) -> io::Result<()> {
        self.make_room(batch.len() as u64, segment_bytes)?;
        self.file.write_all_at(batch, self.offset)?;
        self.offset += batch.len() as u64;
        self.length = self.length.max(self.offset);
        self.file.sync_data()
    }

    fn make_room(&mut self, batch_bytes: u64, segment_bytes: u64) -> io::Result<()> {
        let end = self.offset + batch_bytes;
        if end <= self.length || batch_bytes > ROOM_BATCH_BYTES {
            return Ok(());
        }
        let room_end = (end + ROOM_BYTES).min(segment_bytes);
        while self.length < room_end {
            let zeros = (room_end - self.length).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..zeros as usize], self.length)?;
            self.length += zeros;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let path = args.dir.join(format!("fsync-ceiling.{}", std::process::id()));
    let mut segment = Segment::begin(&path).context("create the file")?;
    let batch = vec![0x5a; args.batch_bytes];
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let began = Instant::now();
    let mut batches = 0_u64;
    while Instant::now() < deadline {
        if segment.offset >= args.segment_bytes {
            segment = Segment::begin(&path).context("begin another file")?;
        }
        segment.append(&batch, args.segment_bytes)?;
        batches += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(segment);
    fs::remove_file(&path)?;
    let rate = batches as f64 / seconds;
    println!(
        "{{\"batch_bytes\":{},\"batches_per_second\":{rate:.0},\"records_per_second\":{:.0}}}",
        args.batch_bytes,
        rate * args.batch_records as f64
    );
    Ok(())
}
