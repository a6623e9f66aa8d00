//! A store on a data directory that outlives the process, so that it can be killed and started
//! again. `kvd` is what is tested; redis-server is what the harness itself is tried with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;
use crate::deadline::Deadline;
use crate::process::{Missing, READY_DEADLINE, Server, free_address, kvd_path};
use crate::redis::redis_path;

/// How long a flush of the little that tests write may take.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);

/// Which program serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The `kvd` at this path.
    Kvd(PathBuf),
    /// The redis-server at this path.
    Redis(PathBuf),
}

impl Engine {
    /// `kvd`, or redis-server where `LARDER_ENGINE=redis` asks for it.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn under_test() -> std::result::Result<Self, Missing> {
        if std::env::var("LARDER_ENGINE").is_ok_and(|engine| engine == "redis") {
            return redis_path().map(Self::Redis);
        }
        kvd_path().map(Self::Kvd)
    }

    /// Whether this is `kvd`, for what only it promises.
    pub fn is_kvd(&self) -> bool {
        matches!(self, Self::Kvd(_))
    }
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced.
    Fsync,
    /// Before that; synced every so many milliseconds (redis: whenever the system does).
    Interval(u64),
}

/// How a store is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program.
    pub engine: Engine,
    /// When it acknowledges.
    pub durability: Durability,
    /// Size at which `kvd` seals a segment of its log, in bytes.
    pub segment_bytes: u64,
    /// Room on the disk that `kvd` leaves, in bytes.
    pub reserve_bytes: u64,
    /// How much of its log `kvd` folds into its state at once, and flushes, in bytes.
    pub layer_bytes: u64,
}

impl Setup {
    /// Acknowledging what is synced, with segments and layers small enough that a test sees
    /// many of them sealed, flushed and trimmed.
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            durability: Durability::Fsync,
            segment_bytes: 1 << 20,
            reserve_bytes: 16 << 20,
            layer_bytes: 1 << 20,
        }
    }

    /// Starts it on `data` and waits until it answers.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(&self, data: &Path) -> Result<Server> {
        self.start_with(data, |command| command)
    }

    /// As [`Setup::start`], with `wrap` making the command that is run of the plain one.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(&self, data: &Path, wrap: impl FnOnce(Command) -> Command) -> Result<Server> {
        let scratch = TempDir::with_prefix("larder-store-")?;
        let address = free_address()?;
        let command = self.command(data, address.port(), scratch.path())?;
        let server = Server::start("the store", wrap(command), address, scratch)?;
        let mut client = server.client()?;
        Deadline::after(READY_DEADLINE).wait_for("the data set to be loaded", || {
            Ok((!client.call(&["PING"])?.text().starts_with(b"LOADING")).then_some(()))
        })?;
        Ok(server)
    }

    /// The command that serves `data` at a loopback port; its configuration goes to `scratch`.
    ///
    /// # Errors
    /// When the configuration or the data directory cannot be written.
    pub fn command(&self, data: &Path, port: u16, scratch: &Path) -> Result<Command> {
        match &self.engine {
            Engine::Kvd(binary) => {
                let file = scratch.join("kvd.toml");
                std::fs::write(&file, self.configuration(data, port))
                    .with_context(|| format!("writing {}", file.display()))?;
                let mut command = Command::new(binary);
                command.arg("--config").arg(file);
                Ok(command)
            }
            Engine::Redis(binary) => {
                std::fs::create_dir_all(data)?;
                let mut command = Command::new(binary);
                let sync = if self.durability == Durability::Fsync { "always" } else { "no" };
                command.args(["--save", "", "--appendonly", "yes", "--appendfsync", sync]);
                command.args(["--databases", "1", "--bind", "127.0.0.1"]);
                command.args(["--port", &port.to_string()]).arg("--dir").arg(data);
                Ok(command)
            }
        }
    }

    fn configuration(&self, data: &Path, port: u16) -> String {
        let durability = match self.durability {
            Durability::Fsync => "fsync".to_owned(),
            Durability::Interval(milliseconds) => format!("interval:{milliseconds}"),
        };
        format!(
            "data = \"{}\"\nresp = \"127.0.0.1:{port}\"\n\n[namespace]\ndurability = \
             \"{durability}\"\n\n[log]\nsegment_bytes = {}\nreserve_bytes = {}\n\n[state]\nlayer_bytes = {}\n",
            data.display(),
            self.segment_bytes,
            self.reserve_bytes,
            self.layer_bytes
        )
    }
}

/// Asks a server to end in good order (SIGTERM).
///
/// # Errors
/// When the signal cannot be sent.
pub fn terminate(server: &Server) -> Result<()> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, Signal::TERM).context("sending SIGTERM")
}

/// Has `kvd` flush its state, and waits until all that was written is in it on disk.
///
/// # Errors
/// When it is refused, or does not come in time.
pub fn flush(client: &mut Client) -> Result<()> {
    let watermark = |info: &str, name: &str| -> Result<u64> {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("{name} in INFO"))?.parse()?)
    };
    let written = watermark(&info(client)?, "log_visible_seq")?;
    client.expect_ok(&["BGSAVE"])?;
    let mut last = String::new();
    let flushed = Deadline::after(FLUSH_DEADLINE).wait_for("the state to be flushed", || {
        last = info(client)?;
        Ok((watermark(&last, "state_persisted_seq")? >= written).then_some(()))
    });
    flushed.with_context(|| format!("BGSAVE after record {written}; INFO at the end:\n{last}"))
}

fn info(client: &mut Client) -> Result<String> {
    Ok(String::from_utf8_lossy(client.expect_ok(&["INFO"])?.text()).into_owned())
}
