//! What can go wrong with the state.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{keys::KeyError, row::RowError};

/// In RocksDB's account of a file that is not there.
const MISSING: &str = "No such file or directory";

/// Why an operation on the state failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// RocksDB failed. After a failed write or flush the database must be opened again and the
    /// log replayed.
    #[error("cannot {what} the state in {path}")]
    RocksDb {
        /// What was being done.
        what: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// RocksDB's own account.
        #[source]
        source: rocksdb::Error,
    },
    /// A file of the database could not be looked at.
    #[error("cannot look at the files of the state in {path}")]
    Files {
        /// The database's directory.
        path: PathBuf,
        /// The operating system's account.
        #[source]
        source: std::io::Error,
    },
    /// RocksDB reported errors of its background work.
    #[error(
        "RocksDB's flush or compaction failed ({errors} errors, see its LOG): \
         close the shard, open it again and replay the log"
    )]
    Background {
        /// RocksDB's counter.
        errors: u64,
    },
    /// A table is missing, or is not as long as it was written.
    #[error(
        "{file} is missing or of another length: {expected} bytes were written, {found} are there; \
         restore the state from a checkpoint or a replica"
    )]
    CutTable {
        /// The file.
        file: PathBuf,
        /// Bytes that were written.
        expected: u64,
        /// Bytes that are there; 0 where it is missing.
        found: u64,
    },
    /// A record of RocksDB's MANIFEST is damaged.
    #[error(
        "{file} is damaged at offset {offset}: the checksum of its record is wrong; \
         restore the state from a checkpoint or a replica"
    )]
    DamagedManifest {
        /// The file.
        file: PathBuf,
        /// Where the damaged record begins, in bytes from the start of the file.
        offset: u64,
    },
    /// The position in the database, or a record of the replica set, does not read back.
    #[error(
        "the applied position, or a record of the replica set, in the state in {path} is damaged: \
         restore the state from a checkpoint or a replica"
    )]
    DamagedPosition {
        /// The database's directory.
        path: PathBuf,
    },
    /// The state has failed and is being opened again.
    #[error("the state failed and is being opened again; try again")]
    Closed,
    /// There is nothing to take a checkpoint of.
    #[error("the state in {path} has no applied position: nothing has been folded into it yet")]
    NothingApplied {
        /// The database's directory.
        path: PathBuf,
    },
    /// RocksDB's own log holds data, which Larder never writes.
    #[error(
        "{file} holds {bytes} bytes: the state was written by something other than Larder; \
         restore it from a checkpoint or a replica"
    )]
    ForeignLog {
        /// The file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A stored row does not parse.
    #[error("the state holds a damaged row")]
    Row(#[from] RowError),
    /// A stored key does not parse.
    #[error("the state holds a damaged key")]
    Key(#[from] KeyError),
}

impl StateError {
    /// Whether the system failed a read, write or sync (exit code 74). A file that is missing is damage,
    /// though RocksDB tells of it as the system does.
    pub fn is_io(&self) -> bool {
        match self {
            Self::RocksDb { source, .. } => {
                source.kind() == rocksdb::ErrorKind::IOError && !source.as_ref().contains(MISSING)
            }
            Self::Files { .. } => true,
            _ => false,
        }
    }

    /// For `map_err`: RocksDB failed at doing `what` in `path`.
    pub(super) fn at(what: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::RocksDb { what, path: path.to_owned(), source }
    }
}
