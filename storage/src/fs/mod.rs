//! The few file operations durability rests on, behind a seam.
//!
//! Two implementations: [`RealFs`] over the operating system, and `testing::SimFs`, which keeps
//! the files in memory, records every operation, and builds the disk images that a power cut
//! could leave. Nothing here retries: an error of a write or a sync means that what is on disk is
//! unknown, and only the caller knows what that makes of its file.

mod real;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

use std::{ffi::OsString, fmt, io, path::Path, sync::Arc};

pub use real::RealFs;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    Write,
    /// A file that must not exist yet, to be read and written.
    CreateNew,
}

/// A file system. Names become durable by [`Fs::sync_dir`], bytes by [`File::sync_data`].
pub trait Fs: fmt::Debug + Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Makes one directory. `AlreadyExists` if there is one, `NotFound` if the parent is missing.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals of names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing what has it. Durable after [`Fs::sync_dir`] of both.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Open handles stay usable.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order. `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Bytes that an unprivileged process can still write to the file system that holds `dir`.
    fn available_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. Every access names its offset: handles have no position.
pub trait File: fmt::Debug + Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads at most `buffer.len()` bytes; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at most `bytes.len()` bytes in one call and says how many it took.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts the file, or extends it with zeros. Durable after [`File::sync_data`].
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes every byte written so far, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes all of `bytes`, with one call where the system takes them at once.
///
/// # Errors
/// The first error of a write; some of the bytes may have been written by then.
pub fn write_all_at(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer` as far as the file goes, and says how many bytes that were.
///
/// # Errors
/// The first error of a read.
pub fn read_full_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Makes `dir` and what is missing above it, durably.
///
/// # Errors
/// The first error of making a directory or syncing its parent.
pub fn create_dir_durably(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    match fs.create_dir(dir) {
        Ok(()) => {}
        // It may have been made just before a crash, and its name not be durable yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(error);
            };
            create_dir_durably(fs, parent)?;
            fs.create_dir(dir)?;
        }
        Err(error) => return Err(error),
    }
    fs.sync_dir(parent_of(dir))
}

/// The directory that holds `path`'s name; `.` for a bare name, the path itself for a root.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Replaces the file `name` in `dir` by one with these bytes, so that after a crash there is
/// either the old file whole or the new one whole, and after the return the new one.
///
/// # Errors
/// The first error of a step: write `name.tmp`, sync it, rename it, sync the directory. The old
/// file is untouched unless the rename was reached.
pub fn write_atomic(fs: &dyn Fs, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let file = match fs.open(&temporary, OpenMode::CreateNew) {
        // Left behind by a crash: never named by anything, so it can be written over.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = fs.open(&temporary, OpenMode::Write)?;
            file.truncate(0)?;
            file
        }
        opened => opened?,
    };
    write_all_at(&*file, bytes, 0)?;
    file.sync_data()?;
    fs.rename(&temporary, &dir.join(name))?;
    fs.sync_dir(dir)
}
