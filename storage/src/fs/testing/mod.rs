//! A file system in memory that records every operation, fails where it is told to, and builds
//! the disks that a power cut could leave.
//!
//! The model: bytes are durable once [`File::sync_data`](super::File) of their file returned,
//! names once [`Fs::sync_dir`] of their directory did; until then each operation may be on the
//! disk or not, whatever others are, and a write may be there in part. That is more than any real
//! file system does to its users, so what survives here survives there.

mod crash;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

pub use crash::{Crashes, Tear, Variant};

use super::{File, Fs, OpenMode, parent_of};

/// A file's number in a [`SimFs`].
type Node = usize;

/// The files and directories of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Image {
    /// Files by path.
    pub files: BTreeMap<PathBuf, Arc<Vec<u8>>>,
    /// Directories.
    pub dirs: BTreeSet<PathBuf>,
}

impl Image {
    /// A number that differs between different images.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// One operation that changes the disk or makes a change durable.
#[derive(Clone, Debug)]
enum Op {
    CreateDir {
        dir: PathBuf,
    },
    Create {
        path: PathBuf,
        node: Node,
    },
    Write {
        node: Node,
        offset: usize,
        bytes: Arc<[u8]>,
    },
    Truncate {
        node: Node,
        len: usize,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    SyncData {
        node: Node,
    },
    /// A sync that failed: the kernel forgets what was written, and the next sync succeeds.
    SyncDataFailed {
        node: Node,
    },
    SyncDir {
        dir: PathBuf,
    },
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// EIO; nothing is done. A failed sync loses what it should have made durable.
    Io,
    /// ENOSPC. A write takes half of its bytes first, as a filling disk does.
    Full,
    /// A write takes half of its bytes and says so; anything else succeeds.
    ShortWrite,
}

/// An operation that fails, counted from when the fault is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How many operations succeed first.
    pub after: u64,
    /// What goes wrong.
    pub kind: FaultKind,
    /// Whether everything after it goes wrong too.
    pub lasting: bool,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Vec<u8>>,
    names: BTreeMap<PathBuf, Node>,
    dirs: BTreeSet<PathBuf>,
    /// The disk before the first recorded operation.
    base: Image,
    base_nodes: Vec<PathBuf>,
    ops: Vec<Op>,
    fault: Option<Fault>,
    counted: u64,
    /// After a write that was cut short by a full disk, the next one fails.
    full: bool,
    available: u64,
    skip_dir_syncs: bool,
}

/// Files in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct SimFs(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    node: Node,
    writable: bool,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new(&Image { dirs: BTreeSet::from([PathBuf::from("/")]), ..Image::default() })
    }
}

impl SimFs {
    /// A disk that holds `image`, all of it durable, with 1 GiB of room left.
    pub fn new(image: &Image) -> Self {
        let state = State {
            nodes: image.files.values().map(|bytes| bytes.to_vec()).collect(),
            names: image.files.keys().cloned().zip(0..).collect(),
            dirs: image.dirs.clone(),
            base: image.clone(),
            base_nodes: image.files.keys().cloned().collect(),
            available: 1 << 30,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The disk as processes see it, durable or not.
    pub fn image(&self) -> Image {
        let state = self.state();
        let files = state.names.iter();
        let files = files.map(|(path, &node)| (path.clone(), Arc::new(state.nodes[node].clone())));
        Image { files: files.collect(), dirs: state.dirs.clone() }
    }

    /// How many operations were recorded.
    pub fn operations(&self) -> usize {
        self.state().ops.len()
    }

    /// The disks that a power cut during what was recorded could leave.
    pub fn crashes(&self) -> Crashes {
        let state = self.state();
        Crashes::new(state.base.clone(), &state.base_nodes, state.ops.clone())
    }

    /// Lets an operation fail, or none any more.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.counted, state.full) = (fault, 0, false);
    }

    /// Sets what [`Fs::available_bytes`] says.
    pub fn set_available(&self, bytes: u64) {
        self.state().available = bytes;
    }

    /// Plants a bug: directories are not synced although it looks so.
    pub fn skip_dir_syncs(&self) {
        self.state().skip_dir_syncs = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    /// Counts an operation and says how it fails, if it does.
    fn failure(&mut self) -> Option<FaultKind> {
        let counted = self.counted;
        self.counted += 1;
        let fault = self.fault?;
        let hit = counted == fault.after || (fault.lasting && counted > fault.after);
        hit.then_some(fault.kind)
    }

    /// Counts an operation that either happens or fails.
    fn attempt(&mut self) -> io::Result<()> {
        match self.failure() {
            Some(FaultKind::Io) => Err(os_error(rustix::io::Errno::IO)),
            Some(FaultKind::Full) => Err(os_error(rustix::io::Errno::NOSPC)),
            Some(FaultKind::ShortWrite) | None => Ok(()),
        }
    }

    fn parent_must_exist(&self, path: &Path) -> io::Result<()> {
        let exists = self.dirs.contains(parent_of(path));
        exists.then_some(()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn os_error(errno: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

impl Fs for SimFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let node = match (state.names.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(&node), _) => node,
            (None, OpenMode::CreateNew) => {
                state.attempt()?;
                state.parent_must_exist(path)?;
                let node = state.nodes.len();
                state.nodes.push(Vec::new());
                state.names.insert(path.to_owned(), node);
                state.ops.push(Op::Create { path: path.to_owned(), node });
                node
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { fs: self.clone(), node, writable: mode != OpenMode::Read }))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.dirs.contains(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.parent_must_exist(dir)?;
        state.attempt()?;
        state.dirs.insert(dir.to_owned());
        state.ops.push(Op::CreateDir { dir: dir.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.attempt()?;
        if !state.skip_dir_syncs {
            state.ops.push(Op::SyncDir { dir: dir.to_owned() });
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.parent_must_exist(to)?;
        state.attempt()?;
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), node);
        state.ops.push(Op::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.attempt()?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.ops.push(Op::Remove { path: path.to_owned() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let paths = state.names.keys().filter(inside).chain(state.dirs.iter().filter(inside));
        Ok(paths.filter_map(|path| path.file_name().map(OsString::from)).collect())
    }

    fn available_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().available)
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.state().nodes[self.node].len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.fs.state();
        let bytes = &state.nodes[self.node];
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert!(self.writable, "the file was opened for reading");
        let mut state = self.fs.state();
        let failure = state.failure();
        if std::mem::take(&mut state.full) {
            return Err(os_error(rustix::io::Errno::NOSPC));
        }
        let taken = match failure {
            None => bytes.len(),
            Some(FaultKind::Io) => return Err(os_error(rustix::io::Errno::IO)),
            Some(kind) if bytes.len() > 1 => {
                state.full = kind == FaultKind::Full;
                bytes.len() / 2
            }
            Some(FaultKind::Full) => return Err(os_error(rustix::io::Errno::NOSPC)),
            Some(FaultKind::ShortWrite) => bytes.len(),
        };
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes: Arc<[u8]> = bytes[..taken].into();
        write_into(&mut state.nodes[self.node], offset, &bytes);
        state.ops.push(Op::Write { node: self.node, offset, bytes });
        Ok(taken)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        assert!(self.writable, "the file was opened for reading");
        let mut state = self.fs.state();
        state.attempt()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.nodes[self.node].resize(len, 0);
        state.ops.push(Op::Truncate { node: self.node, len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.fs.state();
        let attempt = state.attempt();
        state.ops.push(match attempt {
            Ok(()) => Op::SyncData { node: self.node },
            Err(_) => Op::SyncDataFailed { node: self.node },
        });
        attempt
    }
}

/// Writes with a hole of zeros where the file ends before `offset`.
fn write_into(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}
