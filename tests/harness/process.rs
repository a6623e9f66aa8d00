//! Real server processes on free loopback ports. Each is ended by the handle that started it, by
//! pid, also when a test panics.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::client::Client;
use crate::deadline::Deadline;

/// How long a server may take until it answers PING. Opening any data directory takes under 5 s
/// by contract; the rest is room for a busy machine.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long an orderly end may take before it is reported as a hang.
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// What [`Server::stderr`] returns at most, from the end.
const STDERR_BYTES_SHOWN: usize = 8 << 10;

/// A running server process.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    address: SocketAddr,
    stderr: PathBuf,
    exit: Option<ExitStatus>,
    /// Dropped, and so deleted, after the process has ended.
    _scratch: TempDir,
}

impl Server {
    /// Starts `command`, which is expected to serve RESP at `address`, and waits until it answers
    /// PING (an error such as NOAUTH is an answer). Its output goes to files in `scratch`.
    ///
    /// # Errors
    /// When it cannot be started, ends before it is ready, or is not ready within
    /// [`READY_DEADLINE`]; the message carries its last output.
    pub fn start(
        name: &str,
        command: Command,
        address: SocketAddr,
        scratch: TempDir,
    ) -> Result<Self> {
        let mut server = Self::spawn(name, command, address, scratch)?;
        server.wait_until_ready()?;
        Ok(server)
    }

    /// The same, without waiting for an answer.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        name: &str,
        mut command: Command,
        address: SocketAddr,
        scratch: TempDir,
    ) -> Result<Self> {
        let stderr = scratch.path().join("stderr");
        let output = File::create(&stderr)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, address, stderr, exit: None, _scratch: scratch })
    }

    /// Waits until it answers PING.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn wait_until_ready(&mut self) -> Result<()> {
        Deadline::after(READY_DEADLINE)
            .wait_for("the first PONG", || {
                if let Some(status) = self.exit_status()? {
                    bail!("it ended with {status} before it was ready");
                }
                let answered =
                    Client::connect(self.address).and_then(|mut client| client.call(&["PING"]));
                Ok(answered.ok())
            })
            .with_context(|| format!("{}:\n{}", self.name, self.stderr()))?;
        Ok(())
    }

    /// Where it serves RESP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Opens a connection to it.
    ///
    /// # Errors
    /// When it does not accept one.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address)
    }

    /// The end of what it has printed.
    pub fn stderr(&self) -> String {
        let bytes = std::fs::read(&self.stderr).unwrap_or_default();
        let start = bytes.len().saturating_sub(STDERR_BYTES_SHOWN);
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the operating system cannot say.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().context("asking for the exit status")?;
        }
        Ok(self.exit)
    }

    /// Asserts that it still runs.
    ///
    /// # Errors
    /// When it has ended; the message carries its last output.
    pub fn expect_alive(&mut self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.stderr()),
        }
    }

    /// Waits for it to end by itself, as after SHUTDOWN.
    ///
    /// # Errors
    /// When it is still running after [`STOP_DEADLINE`].
    pub fn wait_until_ended(&mut self) -> Result<ExitStatus> {
        Deadline::after(STOP_DEADLINE)
            .wait_for("the end of the process", || self.exit_status())
            .with_context(|| format!("{}:\n{}", self.name, self.stderr()))
    }

    /// Ends it at once (SIGKILL), and reaps it.
    pub fn kill(&mut self) {
        if self.exit.is_none() {
            // Both fail only if it has ended already.
            let _ = self.child.kill();
            self.exit = self.child.wait().ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback address on which nothing listened a moment ago. Somebody else may take the port
/// before the server does; the server then ends and says so, which [`Server::start`] reports.
///
/// # Errors
/// When no port is free.
pub fn free_address() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?)
}

/// Ports that the system gives to no connection by itself, so that a server that was ended finds its
/// own free when it starts again.
const LASTING_PORTS: std::ops::Range<u32> = 10_000..32_000;
/// How many of them this process has looked at.
static PORTS_TRIED: AtomicU32 = AtomicU32::new(0);

/// As [`free_address`], for a server that is to be started again at the same one. No two are the
/// same, and nothing listened there for TCP or UDP a moment ago.
///
/// # Errors
/// When no port is free.
pub fn lasting_address() -> Result<SocketAddr> {
    let count = LASTING_PORTS.end - LASTING_PORTS.start;
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..count {
        let tried = PORTS_TRIED.fetch_add(1, Ordering::Relaxed);
        let port = LASTING_PORTS.start + begin.wrapping_add(tried) % count;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port)?));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("every port of {LASTING_PORTS:?} is taken")
}

/// Why a suite cannot run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(
    /// What is missing and what would provide it.
    pub String,
);

/// Says that a suite is skipped and why; with `CI=true` that is a failure instead.
///
/// # Panics
/// With `CI=true`.
pub fn skip(suite: &str, missing: &Missing) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{suite} cannot run, and CI=true forbids skipping: {}",
        missing.0
    );
    // Not captured, as what is printed would be. Where it is closed nobody wants to know.
    let _ = writeln!(std::io::stderr(), "SKIPPED {suite}: {}", missing.0);
}

/// The `kvd` under test: `LARDER_KVD`, or the release build in the target directory in use.
///
/// # Errors
/// When there is none; says where it was looked for.
pub fn kvd_path() -> std::result::Result<PathBuf, Missing> {
    program("kvd", "LARDER_KVD", "larder-server")
}

/// The `kv` under test: `LARDER_KV`, or the release build in the target directory in use.
///
/// # Errors
/// When there is none; says where it was looked for.
pub fn kv_path() -> std::result::Result<PathBuf, Missing> {
    program("kv", "LARDER_KV", "larder-cli")
}

/// Runs a command to its end, and returns what it printed.
///
/// # Errors
/// When it cannot be started, or fails; with what it said.
pub fn printed_by(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}{error}", output.status);
    Ok(said)
}

fn program(name: &str, variable: &str, package: &str) -> std::result::Result<PathBuf, Missing> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Missing(format!("{variable} names {}, which is not a file", path.display())))
        };
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let path = workspace.join(target).join("release").join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Missing(format!(
        "no {name} at {}: build it with `cargo build --release -p {package}`, or set {variable}",
        path.display()
    )))
}

/// Starts `kvd` on an empty data directory.
///
/// # Errors
/// As [`Server::start`].
pub fn start_kvd(binary: &Path) -> Result<Server> {
    let scratch = TempDir::with_prefix("larder-kvd-")?;
    let address = free_address()?;
    let mut command = Command::new(binary);
    command.arg("--data").arg(scratch.path().join("data")).arg("--resp").arg(address.to_string());
    Server::start("kvd", command, address, scratch)
}

/// Starts `kvd` from a configuration file. `configuration` makes its text from the data directory
/// and the address to serve at.
///
/// # Errors
/// As [`Server::start`].
pub fn start_kvd_configured(
    binary: &Path,
    configuration: impl FnOnce(&Path, SocketAddr) -> String,
) -> Result<Server> {
    let scratch = TempDir::with_prefix("larder-kvd-")?;
    let address = free_address()?;
    let file = scratch.path().join("kvd.toml");
    std::fs::write(&file, configuration(&scratch.path().join("data"), address))?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(&file);
    Server::start("kvd", command, address, scratch)
}
