//! Data directories that are not to be opened.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use larder_tests::faults::store::{Engine, Setup};
use larder_tests::process::Server;
use tempfile::TempDir;

/// The exit code for a directory that is in use, or of another version.
const CANNOT_BE_HAD: i32 = 73;

/// How an attempt to start ended.
pub(crate) enum Attempt {
    /// It serves.
    Serves(Box<Server>),
    /// It ended by itself, with this exit code and these words.
    Refused(i32, String),
}

/// Starts `kvd` on `data`, which it may refuse.
///
/// # Errors
/// When it hangs, or is ended by a signal.
pub(crate) fn attempt(setup: &Setup, data: &Path) -> Result<Attempt> {
    match setup.start(data) {
        Ok(server) => Ok(Attempt::Serves(Box::new(server))),
        Err(error) => {
            let said = format!("{error:#}");
            // As the standard library words an `ExitStatus`.
            let code = said.rsplit("exit status: ").next().and_then(|rest| {
                rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()
            });
            Ok(Attempt::Refused(code.with_context(|| said.clone())?, said))
        }
    }
}

pub(crate) fn a_second_instance(binary: &Path, _seed: u64) -> Result<()> {
    let scratch = TempDir::with_prefix("larder-lock-")?;
    let data = scratch.path().join("data");
    let setup = Setup::new(Engine::Kvd(binary.to_path_buf()));
    let first = setup.start(&data)?;
    first.client()?.expect_ok(&["SET", "held", "by the first"])?;
    match attempt(&setup, &data)? {
        Attempt::Serves(_) => bail!("two processes serve one directory"),
        Attempt::Refused(code, said) => {
            ensure!(code == CANNOT_BE_HAD, "it ended with code {code}");
            ensure!(said.contains("LOCK") && said.contains("in use"), "it said: {said}");
        }
    }
    let reply = first.client()?.call(&["GET", "held"])?;
    ensure!(reply.text() == b"by the first", "the first no longer serves: {}", reply.describe());
    Ok(())
}

pub(crate) fn a_format_of_the_future(binary: &Path, _seed: u64) -> Result<()> {
    let scratch = TempDir::with_prefix("larder-format-")?;
    let data = scratch.path().join("data");
    let setup = Setup::new(Engine::Kvd(binary.to_path_buf()));
    drop(setup.start(&data)?);
    // A line of that version as its writer would have made it, checksum included.
    let text = "larder data format 999";
    let future = format!("{text} {:08x}\n", crc32(text.as_bytes()));
    fs::write(data.join("FORMAT"), &future)?;
    let log_before = fs::read_dir(data.join("log"))?.count();
    match attempt(&setup, &data)? {
        Attempt::Serves(_) => bail!("it serves a format that it cannot know"),
        Attempt::Refused(code, said) => {
            ensure!(code == CANNOT_BE_HAD, "it ended with code {code}");
            ensure!(said.contains("999") && said.contains("FORMAT"), "it said: {said}");
        }
    }
    ensure!(fs::read_to_string(data.join("FORMAT"))? == future, "the format file was changed");
    ensure!(fs::read_dir(data.join("log"))?.count() == log_before, "the log was changed");
    Ok(())
}

/// The CRC of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
