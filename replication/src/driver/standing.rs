//! What a replica must remember beside its log, on disk: one file, replaced as a whole.

use std::{sync::mpsc, thread};

use larder_storage::{AtomicFile, Directory, fs::RealFs};
use larder_types::DiskId;
use rand::Rng as _;

use super::{DriverError, engine::Input};
use crate::core::{Standing, Token};

const FILE: &str = "STANDING";
const VERSION: u32 = 1;
const BYTES_MAX: u64 = 64 << 10;

/// What was persisted last; that of a new directory, persisted before this returns, where nothing
/// was.
pub(super) fn load(directory: &Directory) -> Result<Standing, DriverError> {
    let file = file(directory);
    let failed = |why: String| DriverError::Standing { path: directory.root().to_owned(), why };
    if let Some(standing) = file.read(&RealFs).map_err(|error| failed(error.to_string()))? {
        return Ok(standing);
    }
    let standing = Standing::fresh(DiskId(rand::rng().random()));
    file.write(&RealFs, &standing).map_err(|error| failed(error.to_string()))?;
    Ok(standing)
}

fn file(directory: &Directory) -> AtomicFile {
    AtomicFile::new(directory.root(), FILE, VERSION, BYTES_MAX)
}

/// Takes what is to be persisted, in order.
pub(super) type Keeper = mpsc::Sender<(Standing, Token)>;

/// Starts the thread that persists: an fsync must not hold up the driver.
pub(super) fn keeper(
    directory: &Directory,
    inputs: tokio::sync::mpsc::Sender<Input>,
) -> Result<Keeper, DriverError> {
    let (sender, receiver) = mpsc::channel::<(Standing, Token)>();
    let file = file(directory);
    let path = directory.root().to_owned();
    let keep = move || {
        for (standing, token) in receiver {
            let input = match file.write(&RealFs, &standing) {
                Ok(()) => Input::Stored(token),
                Err(error) => {
                    let (path, why) = (path.clone(), error.to_string());
                    Input::Failed(DriverError::Standing { path, why })
                }
            };
            if inputs.blocking_send(input).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("standing".into()).spawn(keep).map_err(DriverError::Thread)?;
    Ok(sender)
}
