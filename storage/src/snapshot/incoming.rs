//! Gathering a snapshot at a replica, beside its own data.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Manifest, ManifestFile, SnapshotError, install, io_at, measure};
use crate::{
    AtomicFile, Directory,
    fs::{Fs, RealFs, create_dir_durably},
    log,
    state::{Database, DatabaseOptions},
};

const VERSION: u32 = 1;
/// What is written is synced after so much: a sync of more would make those of other logs on the same
/// disk wait, whose writes are acknowledged.
const SYNC_BYTES: u64 = 1 << 20;

/// A snapshot that is being fetched.
#[derive(Debug)]
pub struct Incoming {
    root: PathBuf,
    state: PathBuf,
    manifest: Manifest,
    /// How many files, from the first on, are whole and have been verified by this process.
    whole: usize,
    /// The file that bytes are written to.
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
    synced: u64,
    /// Of all that is in it.
    hasher: crc32fast::Hasher,
}

impl Incoming {
    /// Begins to fetch a snapshot, or goes on where one with the same manifest was begun. Another
    /// one that was begun is given up.
    ///
    /// # Errors
    /// When the manifest is refused, or files cannot be made; [`SnapshotError::Decided`] where one has
    /// been decided for and is not in place yet.
    pub fn begin(directory: &Directory, manifest: Manifest) -> Result<Self, SnapshotError> {
        manifest.check()?;
        if install::is_decided(directory)? {
            return Err(SnapshotError::Decided);
        }
        let root = directory.incoming();
        let state = root.join("state");
        let file = manifest_file(&root);
        // What does not read back is given up as well.
        if !matches!(file.read::<Manifest>(&RealFs), Ok(Some(begun)) if begun == manifest) {
            give_up(&root)?;
            create_dir_durably(&RealFs, &state).map_err(io_at(&state))?;
            file.write(&RealFs, &manifest)?;
        }
        Ok(Self { root, state, manifest, whole: 0, current: None })
    }

    /// What is fetched.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The file and the place in it that come next; `None` once every file is there, whole and
    /// verified.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when a file has come whole and is not what the manifest says: it
    /// is asked for again. When files cannot be read.
    pub fn missing(&mut self) -> Result<Option<(usize, u64)>, SnapshotError> {
        while let Some(entry) = self.manifest.files.get(self.whole).cloned() {
            let bytes = self.open_current()?.bytes;
            if bytes < entry.bytes {
                return Ok(Some((self.whole, bytes)));
            }
            self.finish_current(&entry)?;
        }
        Ok(None)
    }

    /// Takes bytes of the place that [`Incoming::missing`] named.
    ///
    /// # Errors
    /// When they are for another place, or more than the file has; when they cannot be written.
    pub fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let room = self.manifest.files.get(file).and_then(|entry| entry.bytes.checked_sub(offset));
        if file != self.whole || room.is_none_or(|room| room < bytes.len() as u64) {
            return Err(SnapshotError::OutOfPlace);
        }
        let current = self.open_current()?;
        if current.bytes != offset {
            return Err(SnapshotError::OutOfPlace);
        }
        current.file.write_all_at(bytes, offset).map_err(SnapshotError::writing)?;
        current.hasher.update(bytes);
        current.bytes += bytes.len() as u64;
        if current.bytes - current.synced >= SYNC_BYTES {
            current.file.sync_data().map_err(SnapshotError::writing)?;
            current.synced = current.bytes;
        }
        Ok(())
    }

    fn open_current(&mut self) -> Result<&mut Current, SnapshotError> {
        if self.current.is_none() {
            let path = self.state.join(&self.manifest.files[self.whole].name);
            let mut options = File::options();
            let opened = options.create(true).truncate(false).read(true).write(true).open(&path);
            let file = opened.map_err(io_at(&path))?;
            let (bytes, hasher) = measure(&file, || true).map_err(io_at(&path))?;
            self.current = Some(Current { file, bytes, synced: bytes, hasher });
        }
        Ok(self.current.as_mut().expect("it was just opened"))
    }

    fn finish_current(&mut self, entry: &ManifestFile) -> Result<(), SnapshotError> {
        let path = self.state.join(&entry.name);
        let current = self.current.take().expect("its length was just asked for");
        let Current { file, bytes, hasher, .. } = current;
        file.sync_all().map_err(io_at(&path))?;
        let found = hasher.finalize();
        if (bytes, found) != (entry.bytes, entry.crc32) {
            fs::remove_file(&path).map_err(io_at(&path))?;
            let (name, expected) = (entry.name.clone(), entry.crc32);
            return Err(SnapshotError::Damaged { name, expected, found });
        }
        self.whole += 1;
        Ok(())
    }

    /// Verifies the whole, and puts it in place of log and state, which are moved to
    /// `set-aside/NAME`, as is what an earlier call was interrupted in. Nobody may have them open.
    /// The log then goes on behind the snapshot; a rewind's marker is gone with the state it was for.
    ///
    /// # Errors
    /// When something is missing or the state in it does not open at its position: nothing has
    /// been replaced then. [`SnapshotError::Halfway`] when files cannot be moved: the next opening goes
    /// on with it.
    pub fn install(
        self,
        directory: &Directory,
        options: &DatabaseOptions,
        name: &str,
    ) -> Result<(), SnapshotError> {
        self.decide(directory, options, name)?;
        install::finish_install(directory).map_err(SnapshotError::Halfway)
    }

    /// The part of [`Incoming::install`] up to the rename that decides: the next opening does the
    /// rest.
    ///
    /// # Errors
    /// As [`Incoming::install`].
    pub fn decide(
        mut self,
        directory: &Directory,
        options: &DatabaseOptions,
        name: &str,
    ) -> Result<(), SnapshotError> {
        if self.missing()?.is_some() {
            return Err(SnapshotError::Incomplete);
        }
        RealFs.sync_dir(&self.state).map_err(io_at(&self.state))?;
        let found = Database::open_read_only(&self.state, options)?.persisted()?;
        if found != Some(self.manifest.applied()) {
            return Err(SnapshotError::OtherPosition);
        }
        let log = self.root.join("log");
        if log::head(&RealFs, &log)?.is_none() {
            log::create(&RealFs, &log, &self.manifest.head()?)?;
        }
        RealFs.sync_dir(&self.root).map_err(io_at(&self.root))?;
        decide(directory, name)
    }
}

/// Decides for an installation. Where that fails it may have been decided all the same: nothing goes on
/// then but by it.
fn decide(directory: &Directory, name: &str) -> Result<(), SnapshotError> {
    install::begin(directory, name).map_err(|error| match install::is_decided(directory) {
        Ok(false) => SnapshotError::File(error),
        _ => SnapshotError::Halfway(error),
    })
}

/// Puts nothing in place of log and state, as a snapshot is put there: what comes begins with an empty
/// log. Nobody may have them open, or gather a snapshot.
///
/// # Errors
/// As [`Incoming::install`].
pub fn install_nothing(directory: &Directory, name: &str) -> Result<(), SnapshotError> {
    let root = directory.incoming();
    give_up(&root)?;
    for part in ["state", "log"] {
        let part = root.join(part);
        create_dir_durably(&RealFs, &part).map_err(io_at(&part))?;
    }
    decide(directory, name)?;
    install::finish_install(directory).map_err(SnapshotError::Halfway)
}

/// Removes what was gathered.
fn give_up(root: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(root)(error)),
        _ => Ok(()),
    }
}

impl SnapshotError {
    fn writing(source: io::Error) -> Self {
        Self::Io { path: PathBuf::from("incoming"), source }
    }
}

fn manifest_file(root: &Path) -> AtomicFile {
    AtomicFile::new(root, "MANIFEST", VERSION, 2 * super::MANIFEST_BYTES_MAX as u64)
}
