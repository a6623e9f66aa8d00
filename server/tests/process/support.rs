//! A kvd as a process, and a client that speaks to it in lines.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// How long a poll waits before it looks again: long enough to leave the processor to whoever is
/// being waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A kvd that serves; killed when dropped.
pub(crate) struct Kvd {
    process: Process,
    pub(crate) resp: SocketAddr,
    admin: SocketAddr,
}

/// A kvd that has been started; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// What it has written to its standard error, line by line.
    log: mpsc::Receiver<String>,
}

fn kvd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The exit code of a kvd that ends by itself, and all that it wrote.
pub(crate) fn ended(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = kvd(arguments).output().expect("kvd runs");
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    (status.code().expect("kvd ends by itself"), text.into_owned())
}

impl Process {
    pub(crate) fn start(data: &Path, more: &[&str]) -> Self {
        Self::start_by(kvd(&[]), data, more)
    }

    fn start_by(mut kvd: Command, data: &Path, more: &[&str]) -> Self {
        let data = data.to_str().expect("a path in UTF-8");
        let arguments = ["--data", data, "--resp", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut child = kvd
            .args(arguments)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kvd starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (lines, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("{line}");
                // The test may have ended.
                let _ = lines.send(line);
            }
        });
        Self { child, log }
    }

    /// The next line of its log that contains `text`.
    pub(crate) fn says(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(DEADLINE).expect(text);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn address(&self, message: &str) -> SocketAddr {
        let line = self.says(message);
        let (_, address) = line.split_once("address=").expect("it has an address");
        address.trim().parse().expect("an address")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("kvd runs");
    }

    /// Waits for the end of the process, and answers what was logged and not looked at.
    pub(crate) fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let mut ended = None;
        wait_for("the end of kvd", || {
            ended = self.child.try_wait().expect("its status");
            ended.is_some()
        });
        // Until the standard error is closed.
        (ended.expect("it ended"), self.log.iter().collect())
    }
}

impl Kvd {
    pub(crate) fn start(data: &Path, more: &[&str]) -> Self {
        Self::of(Process::start(data, more))
    }

    /// Starts one behind a command of the shell that bounds what it may have.
    pub(crate) fn start_behind(bound: &str, data: &Path, more: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("{bound} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_kvd")]).stdin(Stdio::null());
        Self::of(Process::start_by(shell, data, more))
    }

    fn of(process: Process) -> Self {
        let admin = process.address("metrics and health are served");
        let resp = process.address("kvd serves");
        Self { process, resp, admin }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.resp)
    }

    /// The niceness of each thread of this name.
    pub(crate) fn niceness(&self, thread: &str) -> Vec<i32> {
        let tasks =
            fs::read_dir(format!("/proc/{}/task", self.process.child.id())).expect("kvd runs");
        let niceness = |task: fs::DirEntry| {
            // A thread may have ended since it was listed.
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
            // Field 19, of which the first two are the number and the name.
            let niceness = fields.split(' ').nth(19 - 3)?;
            (name == thread).then(|| niceness.parse().expect("a number"))
        };
        tasks.flatten().filter_map(niceness).collect()
    }

    /// How many files it may have open, before it would have to ask for more.
    pub(crate) fn open_files_max(&self) -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process.child.id()));
        let limits = limits.expect("kvd runs");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()).expect("it is bounded");
        soft.parse().expect("a number")
    }

    pub(crate) fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("the admin port listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: kvd\r\nConnection: close\r\n\r\n")
            .expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// A figure of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let answer = self.http("/metrics");
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the metric is there").parse().expect("a number")
    }

    /// Sends SIGTERM, and answers the exit code and what was logged since it served.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.process.signal(Signal::TERM);
        let (status, log) = self.process.end();
        (status.code(), log)
    }

    /// Waits for the end of the process.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.process.end().0.code()
    }

    /// To signal it and wait for its end.
    pub(crate) const fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until it holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::park_timeout(POLL_INTERVAL);
    }
}

/// A request as libraries send it, without its last line end.
pub(crate) fn request(arguments: &[&str]) -> String {
    let bulks = arguments.iter().map(|it| format!("\r\n${}\r\n{it}", it.len()));
    format!("*{}{}", arguments.len(), bulks.collect::<String>())
}

/// Sends inline commands and reads replies line by line.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("kvd listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_nodelay(true).expect("no delay");
        Self { reader: BufReader::new(stream) }
    }

    fn try_send(&mut self, command: &str) -> io::Result<()> {
        write!(self.reader.get_mut(), "{command}\r\n")
    }

    /// Sends a command.
    pub(crate) fn send(&mut self, command: &str) {
        self.try_send(command).expect("the connection is kept");
    }

    /// Sends a command and reads one line of its reply; `None` where the connection ended.
    pub(crate) fn try_ask(&mut self, command: &str) -> Option<String> {
        self.try_send(command).ok()?;
        let mut line = String::new();
        let bytes = self.reader.read_line(&mut line).ok()?;
        (bytes > 0).then(|| line.trim_end().to_owned())
    }

    /// Sends a command and reads one line of its reply.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.try_ask(command).expect("the connection is kept")
    }

    /// Reads one more line; empty where the connection ended.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a reply");
        line.trim_end().to_owned()
    }

    /// A figure of a section of INFO.
    pub(crate) fn info(&mut self, section: &str, name: &str) -> u64 {
        assert!(self.ask(&format!("INFO {section}")).starts_with('$'));
        let lines = std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty()));
        let lines: Vec<String> = lines.collect();
        let value = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.expect("the figure is there").parse().expect("a number")
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<String> {
        let head = self.ask(&format!("GET {key}"));
        if head == "$-1" {
            return None;
        }
        assert!(head.starts_with('$'), "{head}");
        Some(self.line())
    }
}
