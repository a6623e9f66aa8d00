//! The state fails under load, for real: RocksDB's directory is taken away, so that its next flush
//! cannot make a file. The shard must open itself again with nothing lost and nobody cut off, and
//! must give up, with exit code 74, when that happens again at once.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const DEADLINE: Duration = Duration::from_secs(30);
const WRITERS: usize = 4;

/// A kvd that serves; killed when dropped.
struct Kvd {
    child: Child,
    resp: SocketAddr,
    admin: SocketAddr,
}

impl Kvd {
    fn start(data: &Path) -> Self {
        let data = data.to_str().expect("a path in UTF-8");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvd"))
            .args(["--data", data, "--resp", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kvd starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (lines, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("{line}");
                // The test reads no more than the addresses.
                let _ = lines.send(line);
            }
        });
        let admin = address_in(&log, "metrics and health are served");
        let resp = address_in(&log, "kvd serves");
        Self { child, resp, admin }
    }

    fn client(&self) -> Client {
        Client::connect(self.resp)
    }

    /// A figure of `/metrics`.
    fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.admin).expect("the admin port listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: kvd\r\nConnection: close\r\n\r\n")
            .expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the metric is there").parse().expect("a number")
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("kvd runs");
        assert_eq!(self.exit_code(), Some(0));
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut ended = None;
        wait_for("the end of kvd", || {
            ended = self.child.try_wait().expect("its status");
            ended.is_some()
        });
        ended.and_then(|status| status.code())
    }
}

impl Drop for Kvd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(log: &mpsc::Receiver<String>, message: &str) -> SocketAddr {
    loop {
        let line = log.recv_timeout(DEADLINE).expect("kvd says where it listens");
        if let Some((_, address)) = line.split_once("address=").filter(|_| line.contains(message)) {
            return address.trim().parse().expect("an address");
        }
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::yield_now();
    }
}

struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("kvd listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_nodelay(true).expect("no delay");
        Self { reader: BufReader::new(stream) }
    }

    /// Sends an inline command and reads one line of its reply; `None` where the connection ended.
    fn try_ask(&mut self, command: &str) -> Option<String> {
        write!(self.reader.get_mut(), "{command}\r\n").ok()?;
        let mut line = String::new();
        let bytes = self.reader.read_line(&mut line).ok()?;
        (bytes > 0).then(|| line.trim_end().to_owned())
    }

    fn ask(&mut self, command: &str) -> String {
        self.try_ask(command).expect("the connection is kept")
    }

    fn get(&mut self, key: &str) -> Option<String> {
        let head = self.ask(&format!("GET {key}"));
        if head == "$-1" {
            return None;
        }
        assert!(head.starts_with('$'), "{head}");
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the value");
        Some(line.trim_end().to_owned())
    }
}

/// Clients that write numbered keys one after the other and count what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<[AtomicU64; WRITERS]>,
    writers: Vec<JoinHandle<(u64, bool)>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<[AtomicU64; WRITERS]> = Arc::default();
        let writers = (0..WRITERS).map(|writer| {
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let mut client = Client::connect(address);
            thread::spawn(move || {
                let (mut number, mut refusals) = (0, 0);
                while !stop.load(Ordering::Acquire) {
                    match client.try_ask(&format!("SET {writer}:{number} value-{number}")) {
                        Some(reply) if reply == "+OK" => {
                            number += 1;
                            acknowledged[writer].store(number, Ordering::Release);
                        }
                        Some(reply) => {
                            assert!(reply.contains("try again"), "{reply}");
                            refusals += 1;
                        }
                        None => return (refusals, true),
                    }
                }
                (refusals, false)
            })
        });
        let writers = writers.collect();
        Self { stop, acknowledged, writers }
    }

    fn counts(&self) -> [u64; WRITERS] {
        std::array::from_fn(|writer| self.acknowledged[writer].load(Ordering::Acquire))
    }

    fn wait_for_more(&self, more: u64) {
        let before = self.counts();
        wait_for("further acknowledgements", || {
            self.counts().iter().zip(before).all(|(now, before)| *now >= before + more)
        });
    }

    /// What was acknowledged to each, how often they were refused, and how many were cut off.
    fn end(self) -> ([u64; WRITERS], u64, usize) {
        self.stop.store(true, Ordering::Release);
        let ends: Vec<(u64, bool)> =
            self.writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
        let counts = std::array::from_fn(|at| self.acknowledged[at].load(Ordering::Acquire));
        let refusals = ends.iter().map(|(refusals, _)| refusals).sum();
        (counts, refusals, ends.iter().filter(|(_, cut_off)| *cut_off).count())
    }
}

fn assert_all_there(node: &Kvd, counts: [u64; WRITERS]) {
    let mut client = node.client();
    for (writer, count) in counts.into_iter().enumerate() {
        for number in 0..count {
            let found = client.get(&format!("{writer}:{number}"));
            assert_eq!(found, Some(format!("value-{number}")), "{writer}:{number} of {count}");
        }
    }
}

/// Takes RocksDB's directory away and asks for a flush, which then fails.
fn break_state(data: &Path, client: &mut Client, name: &str) {
    fs::rename(data.join("state"), data.join(name)).expect("the state is moved away");
    assert_eq!(client.ask("BGSAVE"), "+Background saving started");
}

#[test]
fn a_state_that_fails_is_opened_again_and_nothing_acknowledged_is_lost() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let node = Kvd::start(&data);
    let mut client = node.client();
    let load = Load::start(node.resp);
    load.wait_for_more(200);
    assert_eq!(client.ask("BGSAVE"), "+Background saving started");
    wait_for("a flush", || node.metric("larder_state_persisted_seq") > 0);
    load.wait_for_more(50);

    break_state(&data, &mut client, "gone");
    wait_for("the state to be opened again", || node.metric("larder_state_reopened_total") == 1);
    load.wait_for_more(200);
    assert_eq!(client.get("0:0").as_deref(), Some("value-0"), "a connection from before");
    assert_eq!(node.metric("larder_state_failed"), 0);
    let (counts, refusals, cut_off) = load.end();
    println!("acknowledged {counts:?}, refused {refusals}, cut off {cut_off}");
    assert_eq!(cut_off, 0);
    assert_all_there(&node, counts);
    node.stop();
    assert!(data.join("state").is_dir());
    let node = Kvd::start(&data);
    assert_all_there(&node, counts);
}

#[test]
fn a_stop_while_the_state_is_opened_again_ends_in_order() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let node = Kvd::start(&data);
    let mut client = node.client();
    let load = Load::start(node.resp);
    load.wait_for_more(100);
    break_state(&data, &mut client, "gone");
    // RocksDB waits a second before it lets a database that failed be closed.
    wait_for("the failure", || node.metric("larder_state_failed") == 1);
    assert_eq!(client.get("0:0").as_deref(), Some("value-0"), "what is in memory is readable");
    node.stop();
    let (counts, ..) = load.end();
    let node = Kvd::start(&data);
    assert_all_there(&node, counts);
}

#[test]
fn a_state_that_fails_again_at_once_ends_the_process_and_the_restart_has_everything() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let mut node = Kvd::start(&data);
    let mut client = node.client();
    let load = Load::start(node.resp);
    load.wait_for_more(100);
    break_state(&data, &mut client, "gone");
    wait_for("the state to be opened again", || node.metric("larder_state_reopened_total") == 1);
    load.wait_for_more(100);
    break_state(&data, &mut client, "gone-too");
    assert_eq!(node.exit_code(), Some(74));
    let (counts, _, cut_off) = load.end();
    assert_eq!(cut_off, WRITERS);
    let node = Kvd::start(&data);
    assert_all_there(&node, counts);
}
