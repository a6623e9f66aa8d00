//! Snapshots: a state at a position, for a replica whose log cannot be continued.
//!
//! The master makes a checkpoint of its state and holds the log from there on while anybody
//! fetches it; several may fetch the same one. The replica gathers the files beside its own data,
//! verifies every one, and puts them in place of its log and state, which are set aside.

mod incoming;
mod install;
mod manifest;

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use larder_types::SequenceNumber;
use parking_lot::Mutex;

pub(crate) use install::finish_install;

pub use self::{
    incoming::{Incoming, install_nothing},
    manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestFile},
};
use crate::{
    Directory, FileError, LogError, StateError, Store,
    fs::{RealFs, create_dir_durably},
    log::{
        ReadError,
        format::{ChainPoint, Header},
    },
    store::Pin,
};

/// Bytes of a file that are read at once to compute its checksum.
const CHECK_BYTES: usize = 1 << 20;

/// Why a snapshot was not made, fetched or installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// A manifest is not one, or not this build's.
    #[error("the snapshot's manifest is refused: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// A file is not what the manifest says. It is fetched again.
    #[error(
        "{name} of the snapshot is damaged: expected checksum {expected:#010x}, found {found:#010x}"
    )]
    Damaged {
        /// The file.
        name: String,
        /// The manifest's checksum.
        expected: u32,
        /// The checksum of what is there.
        found: u32,
    },
    /// Bytes came for a place other than the one asked for.
    #[error("bytes of the snapshot came for a place that was not asked for")]
    OutOfPlace,
    /// Another one is being put in place, and is needed until it is.
    #[error("another snapshot is still to be put in place")]
    Decided,
    /// It was decided for and is not in place yet: log and state may be of two histories until whoever
    /// opens the directory next has gone on with it.
    #[error("a snapshot is in place only in part, and the next start goes on with it: {0}")]
    Halfway(#[source] FileError),
    /// Files are still missing.
    #[error("the snapshot is not whole yet")]
    Incomplete,
    /// The state within the snapshot stands at another record than the manifest says.
    #[error("the state in the snapshot does not stand at the record that its manifest names")]
    OtherPosition,
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log could not be read or made.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The record that the state stands at is not in the log.
    #[error("the log does not know the record that the state stands at: {0}")]
    Read(#[from] ReadError),
    /// A file beside the data could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_path_buf();
    move |source| SnapshotError::Io { path, source }
}

/// A snapshot at the master; clones share it. While one of them lives its files are kept, and the log
/// from its position on as far as `retain_bytes_max` allows: beyond that it is of no use any more.
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

struct Inner {
    files: Files,
    manifest: Manifest,
    /// The file that was read last, by its place in the manifest: it is read piece by piece.
    opened: Mutex<Option<(usize, Arc<File>)>>,
    _pin: Pin,
}

/// The directory of a snapshot, removed once nobody needs it.
struct Files(PathBuf);

impl Store {
    /// Makes a snapshot of what the state has on disk; `id` is random. What is in flight is not in
    /// it: a replica gets that from the log.
    ///
    /// # Errors
    /// When nothing has been folded yet ([`StateError::NothingApplied`]), or files cannot be made or
    /// read.
    pub fn snapshot(&self, directory: &Directory, id: u64) -> Result<Snapshot, SnapshotError> {
        let persisted = self.watermarks().persisted;
        // What is persisted now is needed until the position of the snapshot is known.
        let early =
            self.pin_firmly(SequenceNumber::new(persisted).unwrap_or(SequenceNumber::FIRST));
        let parent = directory.snapshots();
        create_dir_durably(&RealFs, &parent).map_err(io_at(&parent))?;
        let files = Files(parent.join(format!("{id:016x}")));
        // Let go of before all is read, which takes long: whoever closes the state waits for it.
        let applied = self.database()?.checkpoint(&files.0)?;
        let seq = applied.position.seq;
        let pin = self.pin(seq.next());
        let (epoch, crc) = self.log().record_at(seq)?;
        drop(early);
        if epoch != applied.position.epoch {
            return Err(SnapshotError::OtherPosition);
        }
        let epochs = self.log().epochs();
        let start = epochs.iter().rev().find(|start| start.first <= seq).copied();
        let chain = ChainPoint { next: seq.next(), crc, epoch: start, hybrid: applied.hybrid };
        let head = Header { id: self.log().id(), origin: self.log().origin(), chain };
        let manifest = Manifest::new(id, &head, applied, files_of(&files.0, self)?);
        manifest.check()?;
        let opened = Mutex::default();
        Ok(Snapshot(Arc::new(Inner { files, manifest, opened, _pin: pin })))
    }
}

impl Snapshot {
    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// At most `bytes_max` bytes of a file from `offset` on; none at its end.
    ///
    /// # Errors
    /// When there is no such file or it cannot be read.
    pub fn read(&self, file: usize, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        let entry = self.0.manifest.files.get(file).ok_or(SnapshotError::OutOfPlace)?;
        let path = self.0.files.0.join(&entry.name);
        let left = entry.bytes.checked_sub(offset).ok_or(SnapshotError::OutOfPlace)?;
        let mut buffer = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max)];
        let file = self.open(file, &path)?;
        file.read_exact_at(&mut buffer, offset).map_err(io_at(&path))?;
        Ok(buffer.into())
    }

    fn open(&self, place: usize, path: &Path) -> Result<Arc<File>, SnapshotError> {
        let mut opened = self.0.opened.lock();
        if let Some((_, file)) = opened.as_ref().filter(|(of, _)| *of == place) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(path).map_err(io_at(path))?);
        *opened = Some((place, file.clone()));
        Ok(file)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            let dir = self.0.display();
            tracing::warn!(%error, "a snapshot in {dir} could not be removed; the next start does");
        }
    }
}

/// Takes one step of an installation that was decided for; false once there is none. For tests that
/// stop in the middle.
///
/// # Errors
/// When the operating system refuses.
#[cfg(any(test, feature = "test-util"))]
pub fn install_step(directory: &Directory) -> Result<bool, FileError> {
    install::step(directory)
}

/// Removes snapshots that an earlier process had made for others: nobody fetches them any more.
pub(crate) fn remove_stale(directory: &Directory) -> Result<(), FileError> {
    let dir = directory.snapshots();
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::Io { path: dir, source: error })
        }
        _ => Ok(()),
    }
}

/// The files of a checkpoint that belong to the state. RocksDB's account of its work, its lock, and
/// its own log, which is empty, do not. Reading them ends once the store is closed: by then nobody
/// wants the snapshot, and a stop waits for this.
fn files_of(dir: &Path, store: &Store) -> Result<Vec<ManifestFile>, SnapshotError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_at(dir))? {
        let name = entry.map_err(io_at(dir))?.file_name().to_string_lossy().into_owned();
        if name.starts_with("LOG") || name == "LOCK" || name.ends_with(".log") {
            continue;
        }
        let path = dir.join(&name);
        let file = File::open(&path).map_err(io_at(&path))?;
        let (bytes, hasher) = measure(&file, || store.is_open()).map_err(io_at(&path))?;
        files.push(ManifestFile { name, bytes, crc32: hasher.finalize() });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A file's size and checksum, read from where it stands, as long as somebody wants them.
fn measure(mut file: &File, is_wanted: impl Fn() -> bool) -> io::Result<(u64, crc32fast::Hasher)> {
    let (mut buffer, mut hasher, mut bytes) = (vec![0; CHECK_BYTES], crc32fast::Hasher::new(), 0);
    loop {
        if !is_wanted() {
            return Err(io::Error::other("nobody wants it any more: the state was closed"));
        }
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hasher));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_large_file_is_not_read_on_once_nobody_wants_the_snapshot() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * CHECK_BYTES as u64).unwrap();
        let reads = Cell::new(0);
        let is_wanted = || reads.replace(reads.get() + 1) < 2;
        assert!(measure(&file, is_wanted).is_err());
        assert_eq!(reads.get(), 3, "asked before each read");
        assert_eq!(measure(&file, || true).unwrap().0, 2 * CHECK_BYTES as u64, "the rest");
    }
}
