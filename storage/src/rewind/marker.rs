//! The marker of a rewind: what has to be taken back, on disk before anything is.

use larder_types::{HybridTime, Position, SequenceNumber};
use serde::{Deserialize, Serialize};

use crate::{
    Applied, AtomicFile, Directory, FileError,
    fs::RealFs,
    parted::{from_hex, to_hex},
};

const VERSION: u32 = 1;
/// Touched keys beyond this many bytes are not listed: a snapshot is taken instead.
pub(super) const KEYS_BYTES_MAX: usize = 32 << 20;
/// Keys are hexadecimal, quoted; the shortest takes five bytes for one.
const FILE_BYTES_MAX: u64 = 6 * KEYS_BYTES_MAX as u64 + (1 << 20);

/// What has to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Only the log: nothing of what parted was folded.
    Log,
    /// The log, and every touched key.
    Keys,
    /// Everything: every key was deleted, too many were touched, or the records that would tell are
    /// gone. A snapshot is needed.
    Everything,
}

/// A rewind that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The first parted record.
    pub parting: SequenceNumber,
    /// What has to be taken back.
    pub scope: Scope,
    /// Whether the log has been cut.
    pub cut: bool,
    /// Whether every touched key has been fetched, and the state stands at a record of the log.
    pub settled: bool,
    /// The file of the exported records; empty where there were none.
    pub exported: String,
    /// The record that the state stands at once the keys have been fetched.
    pub(super) settle_at: Option<Place>,
    /// The earliest parting of those that have not been taken back.
    pub(super) changed_from: SequenceNumber,
    /// Compactions may have dropped what had expired by then, in milliseconds since the Unix epoch.
    pub(super) dropped_upto_ms: u64,
    /// The touched keys, in hexadecimal.
    pub(super) keys: Vec<String>,
}

impl Marker {
    /// Whether log and state fit together, so that the store can be opened before the rewind is over.
    pub const fn is_whole(&self) -> bool {
        self.settled && self.cut
    }

    /// The record that the state stands at once every key is in place; a key from before it would
    /// be put into a state that holds more.
    pub fn settles_at(&self) -> Option<SequenceNumber> {
        self.settle_at.map(|at| at.position.seq)
    }
}

/// [`Applied`] as the marker keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) hybrid: HybridTime,
}

impl From<Applied> for Place {
    fn from(Applied { position, hybrid }: Applied) -> Self {
        Self { position, hybrid }
    }
}

impl From<Place> for Applied {
    fn from(Place { position, hybrid }: Place) -> Self {
        Self { position, hybrid }
    }
}

fn file(directory: &Directory) -> AtomicFile {
    AtomicFile::new(directory.root(), "REWIND", VERSION, FILE_BYTES_MAX)
}

impl Marker {
    pub(super) fn read(directory: &Directory) -> Result<Option<Self>, FileError> {
        file(directory).read(&RealFs)
    }

    pub(super) fn write(&self, directory: &Directory) -> Result<(), FileError> {
        file(directory).write(&RealFs, self)
    }

    pub(super) fn remove(directory: &Directory) -> Result<(), FileError> {
        file(directory).remove(&RealFs)
    }

    /// The touched keys; `None` where they do not read as such.
    pub(super) fn keys(&self) -> Option<Vec<Vec<u8>>> {
        self.keys.iter().map(|key| from_hex(key)).collect()
    }

    pub(super) fn set_keys<'a>(&mut self, keys: impl Iterator<Item = &'a Vec<u8>>) {
        self.keys = keys.map(|key| to_hex(key)).collect();
    }
}
