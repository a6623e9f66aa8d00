//! The data directory: its lock, its format version, and the places in it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::fs::{Fs, RealFs, create_dir_durably, parent_of, write_atomic};

/// The version of the data directory as a whole that this build writes and opens.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
/// A format file is one short line; more than this is not one.
const FORMAT_BYTES_MAX: u64 = 256;

/// Why a data directory was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The format file does not read as one.
    #[error(
        "{path}: not a format file: {found:?}; expected a line like {expected:?}. The directory is \
         damaged or not Larder's; restore it from a replica or a backup"
    )]
    Damaged {
        /// The format file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What this build writes.
        expected: String,
    },
    /// Files that are not Larder's.
    #[error(
        "{path}: neither empty nor a data directory (it has {found:?} but no {FORMAT_FILE}); give --data an empty directory"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was opened or made.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{path}: in use by another kvd; one process at a time may open a data directory")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Written by another version.
    #[error(
        "{path}: data format {found}, but this build opens format {supported}; start it with the version of kvd that wrote it"
    )]
    UnsupportedFormat {
        /// The format file.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// The version of this build.
        supported: u32,
    },
}

/// An open data directory, held by an exclusive lock until it is dropped.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// `None` where it is looked into and nobody ever locked it.
    _lock: Option<File>,
}

impl Directory {
    /// Locks the directory and checks its format. Where there is none, or an empty one, it is made.
    ///
    /// # Errors
    /// When it is in use, damaged, foreign, of another format, or cannot be made.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        // The start that wrote the format file had made all names above it durable.
        if !root.join(FORMAT_FILE).is_file() {
            make_root(&RealFs, root).map_err(at(root))?;
        }
        let path = root.join(LOCK_FILE);
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = lock(options.open(&path).map_err(at(&path))?, path)?;
        let directory = Self { root: root.to_path_buf(), _lock: Some(lock) };
        if !directory.has_format()? {
            directory.begin()?;
        }
        for part in [directory.log(), directory.quarantine()] {
            create_dir_durably(&RealFs, &part).map_err(at(&part))?;
        }
        Ok(directory)
    }

    /// Locks a data directory that is there and checks its format, to look into it: makes nothing in
    /// it, and needs no right to write. A copy without a lock file was never opened; it is not locked
    /// then, and whoever starts kvd on it meanwhile makes what is seen here meaningless, no more.
    ///
    /// # Errors
    /// When it is in use, is none, is damaged or of another format, or cannot be read.
    pub fn open_to_look(root: &Path) -> Result<Self, DirectoryError> {
        let path = root.join(LOCK_FILE);
        // For writing where that is allowed: NFS grants an exclusive lock on nothing else.
        let opened = File::options().write(true).open(&path).or_else(|why| match why.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => File::open(&path),
            _ => Err(why),
        });
        let lock = match opened {
            Err(why) if why.kind() == ErrorKind::NotFound => None,
            opened => Some(lock(opened.map_err(at(&path))?, path)?),
        };
        let directory = Self { root: root.to_path_buf(), _lock: lock };
        if !directory.has_format()? {
            return Err(at(&root.join(FORMAT_FILE))(ErrorKind::NotFound.into()));
        }
        Ok(directory)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the records of a log that parted from its master's are exported to.
    pub fn parted(&self) -> PathBuf {
        self.root.join("parted")
    }

    /// Where log and state lie that a snapshot has taken the place of.
    pub fn set_aside(&self) -> PathBuf {
        self.root.join("set-aside")
    }

    /// Where a snapshot is gathered before it is installed.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Where the snapshots are that others fetch.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Where the log's segments are.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where the state's database is.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Where damaged bytes are set aside.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Whether there is a format file, which then is of this build's format.
    fn has_format(&self) -> Result<bool, DirectoryError> {
        let path = self.root.join(FORMAT_FILE);
        let mut found = String::new();
        let expected = format_line(FORMAT_VERSION);
        match File::open(&path)
            .and_then(|file| file.take(FORMAT_BYTES_MAX).read_to_string(&mut found).map(|_| ()))
        {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let found = "bytes that are not text".into();
                return Err(DirectoryError::Damaged { path, found, expected });
            }
            Err(source) => return Err(DirectoryError::Io { path, source }),
        }
        match parse_format(&found) {
            Some(FORMAT_VERSION) => Ok(true),
            Some(version) => Err(DirectoryError::UnsupportedFormat {
                path,
                found: version,
                supported: FORMAT_VERSION,
            }),
            None => Err(DirectoryError::Damaged { path, found, expected }),
        }
    }

    /// Writes the format file of a new directory. Data without a format file is not taken over:
    /// it is another program's, or its format file was lost.
    fn begin(&self) -> Result<(), DirectoryError> {
        for entry in fs::read_dir(&self.root).map_err(at(&self.root))? {
            let name = entry.map_err(at(&self.root))?.file_name();
            let known = [LOCK_FILE, "lost+found"].iter().any(|known| name == **known);
            if !known && !name.to_string_lossy().starts_with(FORMAT_FILE) {
                let found = name.to_string_lossy().into_owned();
                return Err(DirectoryError::Foreign { path: self.root.clone(), found });
            }
        }
        let line = format_line(FORMAT_VERSION);
        write_atomic(&RealFs, &self.root, FORMAT_FILE, line.as_bytes()).map_err(at(&self.root))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_path_buf();
    move |source| DirectoryError::Io { path, source }
}

/// Makes the directory and what is missing above it, so that a power cut leaves their names. One that
/// was there may be in a directory that is not ours to read: its name is its maker's to sync then.
fn make_root(fs: &dyn Fs, root: &Path) -> io::Result<()> {
    let was_there = fs.list(root).is_ok();
    match create_dir_durably(fs, root) {
        Err(why) if was_there && is_not_to_sync(&why) => {}
        made => made?,
    }
    // A start that was killed may have made those above, and not synced their names yet.
    let above = root.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    for above in above {
        match fs.sync_dir(parent_of(above)) {
            Err(why) if is_not_to_sync(&why) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Whether a directory cannot be synced because it is not ours, or of a file system without writes.
fn is_not_to_sync(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidInput
    )
}

fn lock(file: File, path: PathBuf) -> Result<File, DirectoryError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(DirectoryError::Io { path, source }),
    }
}

fn format_line(version: u32) -> String {
    let text = format!("larder data format {version}");
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// The version in a format line whose checksum is right.
fn parse_format(line: &str) -> Option<u32> {
    let version = line.strip_prefix("larder data format ")?.split(' ').next()?.parse().ok()?;
    (format_line(version) == line).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::testing::{Image, SimFs};

    /// Whether all disks that a power cut after [`make_root`] could leave have the whole path.
    fn survives(fs: &SimFs, root: &Path) -> bool {
        make_root(fs, root).unwrap();
        let crashes = fs.crashes();
        let mut survives = true;
        crashes.each(crashes.points(), &mut |_, image: Image| {
            survives &= root.ancestors().all(|name| image.dirs.contains(name));
        });
        survives
    }

    #[test]
    fn the_names_of_a_new_data_directory_survive_a_power_cut() {
        let root = Path::new("/srv/larder/data");
        assert!(survives(&SimFs::default(), root));
        let forgetful = SimFs::default();
        forgetful.skip_dir_syncs();
        assert!(!survives(&forgetful, root), "the test would not notice");
    }

    #[test]
    fn the_names_that_a_killed_start_had_made_survive_a_power_cut() {
        let made = ["/srv", "/srv/larder", "/srv/larder/data"];
        for killed_after in 1..=made.len() {
            let fs = SimFs::default();
            made[..killed_after].iter().for_each(|dir| fs.create_dir(Path::new(dir)).unwrap());
            assert!(survives(&fs, Path::new("/srv/larder/data")), "{killed_after}");
        }
    }

    #[test]
    fn a_directory_that_is_in_use_is_not_looked_into() {
        let temporary = tempfile::tempdir().unwrap();
        let open = Directory::open(temporary.path()).unwrap();
        let refused = Directory::open_to_look(temporary.path()).unwrap_err();
        assert!(matches!(refused, DirectoryError::Locked { .. }), "{refused}");
        drop(open);
        let looked_into = Directory::open_to_look(temporary.path()).unwrap();
        assert!(matches!(Directory::open(temporary.path()), Err(DirectoryError::Locked { .. })));
        drop(looked_into);
    }

    #[test]
    fn looking_into_what_is_no_data_directory_does_not_make_it_one() {
        let temporary = tempfile::tempdir().unwrap();
        Directory::open_to_look(temporary.path()).unwrap_err();
        Directory::open_to_look(&temporary.path().join("absent")).unwrap_err();
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_is_opened_by_one_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("new");
        let first = Directory::open(&root).unwrap();
        assert!(matches!(Directory::open(&root), Err(DirectoryError::Locked { .. })));
        drop(first);
        Directory::open(&root).unwrap();
    }

    #[test]
    fn a_format_of_the_future_is_refused_by_its_number() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join(FORMAT_FILE), format_line(FORMAT_VERSION + 1)).unwrap();
        let refused = Directory::open(temporary.path()).unwrap_err();
        assert!(matches!(refused, DirectoryError::UnsupportedFormat { found: 2, .. }), "{refused}");
    }

    #[test]
    fn a_flipped_bit_in_the_format_file_is_refused() {
        let line = format_line(FORMAT_VERSION);
        for position in 0..line.len() * 8 {
            let temporary = tempfile::tempdir().unwrap();
            let mut damaged = line.clone().into_bytes();
            damaged[position / 8] ^= 1 << (position % 8);
            fs::write(temporary.path().join(FORMAT_FILE), damaged).unwrap();
            assert!(Directory::open(temporary.path()).is_err(), "bit {position}");
        }
    }

    #[test]
    fn a_directory_of_another_program_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("dump.rdb"), "x").unwrap();
        let refused = Directory::open(temporary.path()).unwrap_err();
        assert!(matches!(refused, DirectoryError::Foreign { .. }), "{refused}");
    }
}
