//! Where the playground that runs is found: a directory of the user's own with a lock, a state file
//! and a socket. The lock is held as long as the playground lives, so a state file without it is
//! what a playground left that was killed.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::layout::{Ports, Region};
use super::links::Links;
use crate::args::Level;
use crate::failure::Failure;
use crate::output;

/// The form of the state file.
const VERSION: u32 = 1;
/// A state file larger than this is none.
const STATE_BYTES_MAX: u64 = 64 << 10;
/// Temporary data are in directories with names that begin so.
pub(crate) const TEMPORARY: &str = "larder-playground.";
/// How long somebody who only looks may hold the lock.
const LOOK: Duration = Duration::from_secs(1);
/// How long a playground may take to end its nodes and remove its data.
const END: Duration = Duration::from_secs(30);
/// Between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(20);

/// What runs, for those who look from another terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// [`VERSION`] of whoever wrote it.
    version: u32,
    /// The playground's process.
    pub(crate) pid: u32,
    /// The ports of the nodes.
    ports: Ports,
    /// The ack level of the namespace.
    pub(crate) level: Level,
    /// Where the data are.
    pub(crate) data: PathBuf,
    /// Whether they go with the playground.
    temporary: bool,
    /// The links, cut or whole.
    pub(crate) links: Links,
    /// The processes of the nodes that run, in the order of [`Region::ALL`].
    pids: [Option<u32>; 3],
}

impl State {
    /// The state of a playground of this process, before it has nodes.
    pub(crate) fn new(
        ports: Ports,
        level: Level,
        data: PathBuf,
        temporary: bool,
        links: Links,
    ) -> Self {
        let pid = std::process::id();
        Self { version: VERSION, pid, ports, level, data, temporary, links, pids: [None; 3] }
    }

    /// The ports of the nodes.
    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether the data go with the playground.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// The process of a region's node, while it runs.
    pub(crate) fn pid_of(&self, region: Region) -> Option<u32> {
        self.pids[region.index()]
    }

    /// Notes which process a region's node is.
    pub(crate) fn set_pid(&mut self, region: Region, pid: Option<u32>) {
        self.pids[region.index()] = pid;
    }

    /// Removes the data where they are temporary. What cannot be removed is told.
    fn remove_temporary_data(&self) {
        if !self.temporary || !is_temporary(&self.data) {
            return;
        }
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let at = self.data.display();
                output::note(&format!("kv: cannot remove the temporary data {at}: {error}"));
            }
            _ => {}
        }
    }
}

/// The directory in which a playground is found.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// The place of this user's playground; made where it is not there.
    ///
    /// # Errors
    /// It cannot be made, or it belongs to another user or is open to others.
    pub(crate) fn find() -> Result<Self, Failure> {
        let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        let uid = getuid().as_raw();
        Self::at(match own {
            Some(dir) => PathBuf::from(dir).join("larder-playground"),
            None => std::env::temp_dir().join(format!("larder-playground-{uid}")),
        })
    }

    fn at(dir: PathBuf) -> Result<Self, Failure> {
        let failed = |source| Failure::local(format!("cannot use {}", dir.display()), source);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&dir).map_err(failed)?;
        let is_own = found.uid() == getuid().as_raw() && found.mode() & 0o077 == 0;
        if !found.is_dir() || !is_own {
            let reason = "it must be a directory that only its owner, this user, can enter";
            return Err(failed(io::Error::other(reason)));
        }
        Ok(Self(dir))
    }

    /// Where the playground takes orders.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("orders")
    }

    /// Makes this process the one whose playground runs, and clears what a killed one left.
    ///
    /// # Errors
    /// Another one runs, or files fail.
    pub(crate) async fn claim(self) -> Result<Claim, Failure> {
        let deadline = Instant::now() + LOOK;
        let lock = loop {
            match self.try_lock()? {
                Some(lock) => break lock,
                None if Instant::now() < deadline => sleep(PAUSE).await,
                None => {
                    return Err(Failure::Unmet(
                        "a playground runs already: see kv playground status, or end it with \
                         kv playground stop"
                            .to_owned(),
                    ));
                }
            }
        };
        self.clear();
        Ok(Claim { place: self, _lock: lock })
    }

    /// The state of the playground that runs.
    ///
    /// # Errors
    /// None runs, or its state cannot be read.
    pub(crate) fn running(&self) -> Result<State, Failure> {
        if let Some(_lock) = self.try_lock()? {
            let left = if self.clear() { "; what a killed one had left is removed" } else { "" };
            return Err(Failure::Unmet(format!(
                "no playground runs: start one with kv playground{left}"
            )));
        }
        self.state()
    }

    /// Waits until the playground that runs has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub(crate) async fn wait_until_free(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + END;
        while self.try_lock()?.is_none() {
            if Instant::now() >= deadline {
                return Err(Failure::Process(format!(
                    "the playground has not ended within {} s",
                    END.as_secs()
                )));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    fn try_lock(&self) -> Result<Option<File>, Failure> {
        let path = self.0.join("lock");
        let failed = |source| Failure::local(format!("cannot lock {}", path.display()), source);
        let options = &mut File::options();
        let file = options.create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    fn state_file(&self) -> PathBuf {
        self.0.join("state.json")
    }

    fn state(&self) -> Result<State, Failure> {
        let path = self.state_file();
        let failed = |source| Failure::local(format!("cannot read {}", path.display()), source);
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = "the playground is only starting, or about to end: try again";
                return Err(Failure::Unmet(text.to_owned()));
            }
            other => other.map_err(failed)?,
        };
        if metadata.len() > STATE_BYTES_MAX {
            return Err(failed(io::Error::other("it is too large")));
        }
        let bytes = fs::read(&path).map_err(failed)?;
        let state: State = serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
        if state.version != VERSION {
            return Err(failed(io::Error::other("it is of another version of kv")));
        }
        Ok(state)
    }

    /// Removes what a killed playground left; whether there was anything. The lock is held.
    fn clear(&self) -> bool {
        if let Ok(state) = self.state() {
            state.remove_temporary_data();
        }
        let _ = fs::remove_file(self.socket());
        fs::remove_file(self.state_file()).is_ok()
    }
}

/// Whether a directory is one that a playground makes for itself.
fn is_temporary(path: &Path) -> bool {
    path.is_absolute()
        && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY))
}

/// This process's hold of the place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    place: Place,
    _lock: File,
}

impl Claim {
    /// The place that is held.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Tells others the state. They see the old or the new one, whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn publish(&self, state: &State) -> Result<(), Failure> {
        let path = self.place.state_file();
        let next = path.with_extension("new");
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec_pretty(state)?)?;
            fs::rename(&next, &path)
        };
        write().map_err(|error| Failure::local(format!("cannot write {}", path.display()), error))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.place.clear();
    }
}

#[cfg(test)]
mod tests;
