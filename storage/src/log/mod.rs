//! The durable log: a dense, numbered, checksummed series of records in segment files.
//!
//! ```text
//!  writer thread            sync thread                     any thread
//!  Appender ---- Batch ---> Syncer ---- mark + batch -----> Log: read, trim, watermarks
//!  encodes, no I/O          one write call, one fdatasync   Cursor: hot tail, else disk
//! ```
//!
//! - [`mod@format`] is the bytes; `docs/format/log.md` shows them as tables.
//! - The [`Preparer`]'s thread makes the next segment's file ahead; nobody waits for it.
//! - Every batch is preceded by a mark that names the tail which was durable before it. So only
//!   the last batch can be torn by a crash, and damage below a mark is told from a torn tail.
//! - Records form one chain of checksums through all segments; segments are sealed by footers.
//! - A failed write or sync poisons the log: nothing is retried, nothing is written after it.
//! - `trimmed <= durable <= appended`, asserted wherever one moves.

mod ahead;
mod append;
mod chain;
mod create;
mod cut;
mod error;
pub mod format;
mod frames;
mod handle;
mod hot;
mod read;
mod recover;
mod repair;
mod segment;
mod survey;
mod sync;
mod verify;

use std::path::PathBuf;

use larder_types::{Epoch, HybridTime, LogId, RegionId, SequenceNumber, limits};

pub use ahead::{Preparer, remove_left};
pub use append::{Appender, Batch};
pub use chain::CheckedFrames;
pub use create::{Extent, create, extent, head};
pub use cut::{Cut, cut};
pub use error::{AcceptError, AppendError, LogError, ReadError, ReserveError};
pub use format::RecordKind;
pub use frames::{OwnedRecord, Record};
pub use handle::Log;
pub use read::{Cursor, Frames};
pub use recover::open;
pub use segment::SegmentInfo;
pub use sync::Syncer;
pub use verify::{Dump, SegmentReport, TornReport, VerifyReport, dump, verify};

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment is sealed when it has grown to this size. Larger by up to one batch.
    pub segment_bytes: u64,
    /// Writes are refused while less than this is free on the disk; 0 for never.
    pub reserve_bytes: u64,
    /// Memory for the last records, so that readers near the tail need no disk; 0 for none.
    pub hot_tail_bytes: usize,
    /// The region whose records are appended.
    pub origin: RegionId,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            reserve_bytes: 256 << 20,
            hot_tail_bytes: 8 << 20,
            origin: RegionId::default(),
        }
    }
}

/// An open log's parts, one for each thread that has to do with it.
#[derive(Debug)]
pub struct OpenedLog {
    /// For the thread that evaluates writes.
    pub appender: Appender,
    /// For the thread that writes and syncs.
    pub syncer: Syncer,
    /// For a thread of its own, which makes what the syncer needs next.
    pub preparer: Preparer,
    /// For everyone.
    pub log: Log,
    /// What was found.
    pub recovered: Recovered,
}

/// What opening a log found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The log's identity.
    pub id: LogId,
    /// Whether there was no log and a new one was made.
    pub created: bool,
    /// The first record kept, or the tail if none is.
    pub first: SequenceNumber,
    /// The first unwritten number.
    pub tail: SequenceNumber,
    /// The epoch of the last record; `None` if there never was one.
    pub last_epoch: Option<Epoch>,
    /// The greatest stamp of any record; zero if there never was one.
    pub last_hybrid: HybridTime,
    /// Every epoch with a record in the log, and its first record's number, which may have been
    /// trimmed for the first of them. The last is also named when all its records are trimmed.
    pub epochs: Vec<(Epoch, SequenceNumber)>,
    /// Records given to the caller.
    pub replayed: u64,
    /// What a crash had left of a batch that was never acknowledged.
    pub torn: Option<TornTail>,
    /// A segment file without a whole header, moved here. It never held a record.
    pub set_aside: Option<PathBuf>,
}

/// Bytes cut from the end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file name.
    pub segment: String,
    /// Where it was cut, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
    /// Where they are now.
    pub quarantined_to: PathBuf,
}
