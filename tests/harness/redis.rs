//! Debian's redis-server, the reference of the differential suite.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::process::{Missing, Server, free_address};

/// The version whose replies are the reference. Others differ in error texts and in commands.
pub const REFERENCE_VERSION: &str = "7.0.15";

/// The redis-server to compare with: `LARDER_REDIS_SERVER`, or the one in the path.
///
/// # Errors
/// When there is none, or it is not of [`REFERENCE_VERSION`].
pub fn redis_path() -> std::result::Result<PathBuf, Missing> {
    let path = std::env::var_os("LARDER_REDIS_SERVER")
        .map_or_else(|| "redis-server".into(), PathBuf::from);
    let output = Command::new(&path).arg("--version").output().map_err(|error| {
        Missing(format!("{} cannot be run ({error}): apt-get install redis-server", path.display()))
    })?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    if version.contains(&format!("v={REFERENCE_VERSION} ")) {
        return Ok(path);
    }
    Err(Missing(format!("the reference is redis {REFERENCE_VERSION}, this is {}", version.trim())))
}

/// Starts a redis-server that persists nothing, has one database as kvd has, and accepts the
/// password `password` where one is given.
///
/// # Errors
/// As [`Server::start`].
pub fn start_redis(binary: &std::path::Path, password: Option<&str>) -> Result<Server> {
    let scratch = TempDir::with_prefix("larder-redis-")?;
    let address = free_address()?;
    let mut command = Command::new(binary);
    command.args(["--save", "", "--appendonly", "no", "--databases", "1"]);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.arg("--dir").arg(scratch.path());
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    Server::start("redis-server", command, address, scratch)
}
