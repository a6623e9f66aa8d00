//! Putting a gathered snapshot in place of log and state.
//!
//! One rename decides: that of the file `INSTALL`. Before it nothing has changed; after it the steps
//! are taken one by one, each durable before the next, and whoever opens the directory next goes on
//! with them. Nothing is deleted: log and state are set aside.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    AtomicFile, Directory, FileError,
    fs::{Fs, RealFs, create_dir_durably, parent_of},
    rewind,
};

const VERSION: u32 = 1;
const FILE_BYTES_MAX: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Order {
    /// Where log and state go to, within the directory for what is set aside.
    name: String,
}

fn order_file(directory: &Directory) -> AtomicFile {
    AtomicFile::new(directory.root(), "INSTALL", VERSION, FILE_BYTES_MAX)
}

/// Decides for what has been gathered. Log and state are set aside under `name`, or under one made
/// of it that is free.
pub(super) fn begin(directory: &Directory, name: &str) -> Result<(), FileError> {
    let taken = |name: &str| is_there(&directory.set_aside().join(name));
    let mut free = name.to_owned();
    let mut attempt = 1_u32;
    while taken(&free)? {
        attempt += 1;
        free = format!("{name}.{attempt}");
    }
    order_file(directory).write(&RealFs, &Order { name: free })
}

/// Whether one was decided for and is not over.
pub(super) fn is_decided(directory: &Directory) -> Result<bool, FileError> {
    Ok(order_file(directory).read::<Order>(&RealFs)?.is_some())
}

/// Goes on with an installation that was decided for, if there is one.
pub(crate) fn finish_install(directory: &Directory) -> Result<(), FileError> {
    while step(directory)? {}
    Ok(())
}

/// Takes the next step; false once there is none.
pub(super) fn step(directory: &Directory) -> Result<bool, FileError> {
    let Some(order) = order_file(directory).read::<Order>(&RealFs)? else { return Ok(false) };
    let aside = directory.set_aside().join(&order.name);
    let incoming = directory.incoming();
    for (part, place) in [("state", directory.state()), ("log", directory.log())] {
        let gathered = incoming.join(part);
        if !is_there(&gathered)? {
            continue;
        }
        if !is_free(&place)? {
            create_dir_durably(&RealFs, &aside).map_err(at(&aside))?;
            rename(&place, &aside.join(part))?;
        } else {
            rename(&gathered, &place)?;
        }
        return Ok(true);
    }
    // The marker of a rewind was for the state that is set aside.
    rewind::end(directory)?;
    match fs::remove_dir_all(&incoming) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&incoming)(error)),
        _ => order_file(directory).remove(&RealFs)?,
    }
    Ok(false)
}

fn is_there(path: &Path) -> Result<bool, FileError> {
    path.try_exists().map_err(at(path))
}

/// Whether nothing is at `place`. An empty directory, which opening the data directory makes, is
/// nothing, and is taken away.
fn is_free(place: &Path) -> Result<bool, FileError> {
    match fs::remove_dir(place) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(at(place)(error)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    RealFs.rename(from, to).map_err(at(from))?;
    for dir in [parent_of(to), parent_of(from)] {
        RealFs.sync_dir(dir).map_err(at(dir))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path: PathBuf = path.to_path_buf();
    move |source| FileError::Io { path, source }
}
