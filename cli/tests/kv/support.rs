//! Servers of a test's own, and calls of the `kv` that was built.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server of the test's own on a free loopback port, in a directory of its own; ends with this value.
pub(crate) struct Server {
    child: Child,
    address: String,
    _scratch: TempDir,
}

/// The servers that a case must hold for: a redis-server, then the kvd under test. Each starts when it
/// is its turn; one that is missing is left out.
pub(crate) fn servers() -> impl Iterator<Item = Server> {
    servers_with("")
}

/// The same with a password.
pub(crate) fn servers_with(password: &'static str) -> impl Iterator<Item = Server> {
    let redis: fn(&str) -> Option<Server> = |password| Server::redis(&["--requirepass", password]);
    // What a test prints is shown when it fails: so it says at which server.
    [("redis-server", redis), ("kvd", Server::kvd)]
        .into_iter()
        .inspect(|(name, _)| println!("against {name}:"))
        .filter_map(move |(_, start)| start(password))
}

/// Says why cases are left out; with `CI=true` that is a failure.
fn skip(server: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
    // Not captured, as what is printed would be.
    let _ = writeln!(std::io::stderr(), "SKIPPED kv against {server}: {reason}");
}

impl Server {
    /// Starts a redis-server; `None` where there is none, which with `CI=true` is a failure.
    pub(crate) fn redis(extra: &[&str]) -> Option<Self> {
        let binary = std::env::var("LARDER_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        if let Err(error) = Command::new(&binary).arg("--version").output() {
            let reason = format!("{binary} cannot be run ({error}): apt-get install redis-server");
            skip("redis-server", &reason);
            return None;
        }
        // Another process may take a free port before redis does: then it ends, and we try again.
        (0..20).find_map(|_| Self::try_redis(&binary, extra)).or_else(|| panic!("no free port"))
    }

    fn try_redis(binary: &str, extra: &[&str]) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let scratch = TempDir::with_prefix("larder-kv-").unwrap();
        let child = Command::new(binary)
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(scratch.path())
            .args(extra)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut redis = Self { child, address: address.to_string(), _scratch: scratch };
        let output = redis.child.stdout.take().unwrap();
        line_with("Ready to accept", output).map(|_| redis)
    }

    /// Starts the kvd that `LARDER_KVD` names; `None` where it names none, which with `CI=true` is a
    /// failure.
    fn kvd(password: &str) -> Option<Self> {
        let Some(binary) = std::env::var_os("LARDER_KVD") else {
            skip("kvd", "LARDER_KVD names none: cargo build --release -p larder-server");
            return None;
        };
        let scratch = TempDir::with_prefix("larder-kv-").unwrap();
        let config = scratch.path().join("kvd.toml");
        let password =
            if password.is_empty() { "" } else { &format!("requirepass = {password:?}") };
        std::fs::write(&config, password).unwrap();
        let child = Command::new(binary)
            .arg("--config")
            .arg(config)
            .args(["--resp", "127.0.0.1:0", "--data"])
            .arg(scratch.path().join("data"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut kvd = Self { child, address: String::new(), _scratch: scratch };
        let line = line_with("kvd serves", kvd.child.stderr.take().unwrap()).unwrap();
        line.rsplit_once("address=").unwrap().1.trim().clone_into(&mut kvd.address);
        Some(kvd)
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Runs `kv` against this server.
    pub(crate) fn kv(&self, arguments: &[&str]) -> Output {
        kv(&self.address, arguments, b"")
    }

    /// A connection that bypasses `kv`.
    pub(crate) fn raw(&self) -> Raw {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Raw(BufReader::new(stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line of what a process writes that has this text; what follows is taken and dropped.
fn line_with(text: &str, output: impl Read + Send + 'static) -> Option<String> {
    // Ends with the process, at the latest when that is ended by `drop`.
    let mut lines = BufReader::new(output).lines();
    let found = lines.find_map(|line| line.ok().filter(|line| line.contains(text)));
    std::thread::spawn(move || lines.count());
    found
}

/// Sends inline requests and reads replies of one line.
pub(crate) struct Raw(BufReader<TcpStream>);

impl Raw {
    /// The first line of the reply.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.0.get_mut().write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends requests that are answered with one line each, many at a time.
    pub(crate) fn ask_all(&mut self, requests: impl Iterator<Item = String>) {
        // What is answered meanwhile must have room at this end of the connection.
        const AT_A_TIME: usize = 1000;
        let requests: Vec<String> = requests.map(|request| request + "\r\n").collect();
        for some in requests.chunks(AT_A_TIME) {
            self.0.get_mut().write_all(some.concat().as_bytes()).unwrap();
            assert!(self.0.by_ref().lines().take(some.len()).all(|line| line.unwrap() == "+OK"));
        }
    }

    /// The text of a reply that is a bulk string.
    pub(crate) fn ask_text(&mut self, request: &str) -> String {
        let length: usize = self.ask(request)[1..].parse().unwrap();
        let mut text = vec![0; length + 2];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Asks until `reached` says yes of INFO's section.
    pub(crate) fn wait_for_info(&mut self, section: &str, reached: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !reached(&self.ask_text(&format!("INFO {section}"))) {
            assert!(started.elapsed() < DEADLINE, "INFO {section} never came to what is awaited");
        }
    }
}

/// `kv` with a clean environment.
pub(crate) fn command(server: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
    command.env_remove("LARDER_PASSWORD").env_remove("LARDER_ADMIN").env("LARDER_SERVER", server);
    command
}

/// Runs `kv` with this standard input.
pub(crate) fn kv(server: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = command(server)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its standard input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// Exit code and standard output.
pub(crate) fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
