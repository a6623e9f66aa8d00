//! A redis-server of the test's own, and calls of the `kv` that was built.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A redis-server on a free loopback port, in a directory of its own; ends with this value.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    _scratch: TempDir,
}

impl Redis {
    /// Starts one; `None` where there is no redis-server, which with `CI=true` is a failure.
    pub(crate) fn start(extra: &[&str]) -> Option<Self> {
        let binary = std::env::var("LARDER_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        if let Err(error) = Command::new(&binary).arg("--version").output() {
            let reason = format!("{binary} cannot be run ({error}): apt-get install redis-server");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
            // Not captured, as what is printed would be.
            let _ = writeln!(std::io::stderr(), "SKIPPED kv against redis-server: {reason}");
            return None;
        }
        // Another process may take a free port before redis does: then it ends, and we try again.
        (0..20).find_map(|_| Self::try_start(&binary, extra)).or_else(|| panic!("no free port"))
    }

    fn try_start(binary: &str, extra: &[&str]) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let scratch = TempDir::with_prefix("larder-kv-").unwrap();
        let child = Command::new(binary)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(scratch.path())
            .args(extra)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut redis = Self { child, port, _scratch: scratch };
        // Ends with the process, at the latest when redis is ended by `drop`.
        let mut lines = BufReader::new(redis.child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept")));
        std::thread::spawn(move || lines.count());
        ready.then_some(redis)
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs `kv` against this server.
    pub(crate) fn kv(&self, arguments: &[&str]) -> Output {
        kv(&self.address(), arguments, b"")
    }

    /// A connection that bypasses `kv`.
    pub(crate) fn raw(&self) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Raw(BufReader::new(stream))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
