//! What can go wrong with a log, by what a caller does about it.

use std::{error::Error, io, path::PathBuf};

use larder_types::{LogId, SequenceNumber};

/// An error of opening, writing, trimming or verifying a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system refused. After a write or a sync the log is poisoned: end the process
    /// and let recovery read what is on disk.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An earlier append or sync failed; nothing is written any more.
    #[error("the log is poisoned until the process restarts, because of: {cause}")]
    Poisoned {
        /// The first error.
        cause: String,
    },
    /// Bytes that were durable are not what was written. Nothing was changed: set the log aside
    /// and fetch it from another replica, or restore a backup.
    #[error(
        "log segment {segment} is damaged at offset {offset}: expected {expected}, found {found}"
    )]
    Corrupt {
        /// The segment's file name.
        segment: String,
        /// Bytes from the start of the file.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A segment belongs to another log. Nothing was changed: move the file out of the directory
    /// if it does not belong there.
    #[error("log segment {segment} belongs to log {found}, not to {expected}")]
    Foreign {
        /// The segment's file name.
        segment: String,
        /// The identity of the first segment.
        expected: LogId,
        /// The identity in this segment.
        found: LogId,
    },
    /// Written by another version of the format. Nothing was changed: use a binary that reads it.
    #[error("log segment {segment} has format version {found}; this binary reads {supported}")]
    UnsupportedVersion {
        /// The segment's file name.
        segment: String,
        /// The version in the file.
        found: u32,
        /// The version that this code reads.
        supported: u32,
    },
    /// A record of a kind this version does not know.
    #[error("log segment {segment} holds a record of unknown kind {kind} at offset {offset}")]
    UnsupportedKind {
        /// The segment's file name.
        segment: String,
        /// Bytes from the start of the file.
        offset: u64,
        /// The kind in the record.
        kind: u8,
    },
    /// A segment is missing. Nothing was changed: bring the file back, or refetch the log.
    #[error("log segment {segment} begins at record {found}, but record {expected} comes next")]
    MissingSegment {
        /// The file name of the segment after the hole.
        segment: String,
        /// The record that is missing.
        expected: SequenceNumber,
        /// The first record after the hole.
        found: SequenceNumber,
    },
    /// A file that looks like a segment but is named like none.
    #[error("{} is not named like a log segment; move it out of the log's directory", path.display())]
    UnexpectedFile {
        /// The file.
        path: PathBuf,
    },
    /// State and log do not meet: the log lacks records between what the state holds and what it
    /// keeps. Nothing was changed: restore a state that reaches the log, or the log.
    #[error("record {wanted} is needed next, but the log holds {first} up to before {tail}")]
    Gap {
        /// The first record that the caller asked to be replayed.
        wanted: SequenceNumber,
        /// The first record in the log.
        first: SequenceNumber,
        /// The first unwritten number.
        tail: SequenceNumber,
    },
    /// The caller refused a record.
    #[error("replaying log record {seq} failed")]
    Replay {
        /// The record.
        seq: SequenceNumber,
        /// What the caller said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl LogError {
    /// Whether the bytes on disk are at fault, and not the system or the caller.
    pub const fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Foreign { .. } | Self::MissingSegment { .. })
    }

    /// Whether the system failed a read, write or sync, now or before (exit code 74).
    pub const fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Poisoned { .. })
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

/// Why a record was not appended. Nothing of it is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The record would be larger than `limits::RECORD_BYTES_MAX`.
    #[error("a log record of {bytes} bytes exceeds the limit of {limit} bytes; write less at once")]
    TooLarge {
        /// Bytes of header and body.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// `Appender::begin_epoch` was not called since the log was opened, or since records of
    /// another node were accepted.
    #[error("this node has begun no epoch, or has followed another since: it may not append")]
    NoEpoch,
}

/// Frames of another node that do not continue this log, or are damaged. Nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset} of the frames received: expected {expected}, found {found}")]
pub struct AcceptError {
    /// Where the frame that is refused begins.
    pub offset: usize,
    /// What should stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

/// Why a log cannot be read from, or on from, a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The record has been trimmed: continue from a snapshot at or after `first`.
    #[error("the record has been trimmed; the log begins at {first}")]
    Trimmed {
        /// The first record still kept.
        first: SequenceNumber,
    },
    /// The record has not been made durable yet, nor is it the next one.
    #[error("the record lies beyond the durable tail {tail}")]
    Beyond {
        /// The first number that is not durable.
        tail: SequenceNumber,
    },
    /// The file could not be read, or is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The disk is too full to take writes. It passes when there is room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("disk is nearly full: {available} bytes left, {reserve} are kept in reserve")]
pub struct ReserveError {
    /// Bytes that can still be written.
    pub available: u64,
    /// Bytes that must stay free, what others may yet write included.
    pub reserve: u64,
}
