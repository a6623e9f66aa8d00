//! A stop ends in time, whatever is in its way.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::Signal,
};

use crate::support::{Kvd, Process, wait_for};

/// What a stop may take beside `drain_ms`.
const CLOSING_MAX: Duration = Duration::from_secs(20);
const KILLED: Option<i32> = Some(9);
const MIB: usize = 1 << 20;
/// Replies of 1 MiB that a client asks for and does not read: more than sockets hold.
const UNREAD: usize = 64;

/// A node that drains for so long, and a client that reads nothing of the 64 MiB it asked for, nor of
/// what it sent behind that, all in one piece.
fn unread(data: &Path, drain_ms: u64, behind: &str) -> (Kvd, TcpStream) {
    let file = data.join("kvd.toml");
    fs::write(&file, format!("drain_ms = {drain_ms}\n")).expect("written");
    let node =
        Kvd::start(&data.join("data"), &["--config", file.to_str().expect("a path in UTF-8")]);
    let set = format!("SETRANGE value {} x", MIB - 1);
    assert_eq!(node.client().ask(&set), format!(":{MIB}"));
    let mut silent = TcpStream::connect(node.resp).expect("kvd listens");
    let requests = "GET value\r\n".repeat(UNREAD) + behind;
    silent.write_all(requests.as_bytes()).expect("it is connected");
    wait_for("replies that are not read", || node.metric("larder_resp_replies_bytes") > 0);
    (node, silent)
}

#[test]
fn a_pipeline_that_nobody_reads_is_cut_after_drain_ms() {
    let data = tempfile::tempdir().expect("a directory");
    let (node, _silent) = unread(data.path(), 200, "");
    let began = Instant::now();
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log:?}");
    assert!(began.elapsed() < CLOSING_MAX, "it took {:?}", began.elapsed());
    assert!(log.iter().any(|line| line.contains("connections were cut")), "{log:?}");
}

#[test]
fn what_was_read_before_a_stop_is_done_and_answered() {
    const WRITES: usize = 100;
    let data = tempfile::tempdir().expect("a directory");
    let writes: String = (0..WRITES).map(|key| format!("SET key:{key} x\r\n")).collect();
    let (mut node, stream) = unread(data.path(), 60_000, &writes);
    assert_eq!(node.client().ask("DBSIZE"), ":1", "the writes wait behind what nobody reads");
    node.process().signal(Signal::TERM);
    node.process().says("kvd drains");

    let mut replies = Vec::new();
    { stream }.read_to_end(&mut replies).expect("the connection ends in order");
    let value = [format!("${MIB}\r\n").as_bytes(), &vec![0; MIB - 1], b"x\r\n"].concat();
    let expected = [value.repeat(UNREAD), b"+OK\r\n".repeat(WRITES)].concat();
    assert!(replies == expected, "{} bytes of {}", replies.len(), expected.len());
    let (status, log) = node.process().end();
    assert_eq!(status.code(), Some(0), "{log:?}");

    let again = Kvd::start(&data.path().join("data"), &[]);
    assert_eq!(again.client().ask("DBSIZE"), format!(":{}", WRITES + 1));
}

#[test]
fn a_second_signal_ends_the_process_at_once_and_loses_nothing() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut node, _silent) = unread(data.path(), 600_000, "");
    node.process().signal(Signal::TERM);
    node.process().says("kvd drains");
    node.process().signal(Signal::INT);
    let (status, log) = node.process().end();
    assert_eq!(status.signal(), KILLED, "{log:?}");
    let told = log.iter().find(|line| line.contains("SIGINT came while it stopped"));
    assert!(told.expect("why is told").contains("1 clients, and "), "{told:?}");

    let again = Kvd::start(&data.path().join("data"), &[]);
    assert_eq!(again.client().get("value").map(|value| value.len()), Some(MIB));
}

/// A data directory whose opening waits until [`Self::go_on`]: its format file is a pipe, which
/// somebody has to write to first.
struct Held {
    format: PathBuf,
    kept: PathBuf,
}

impl Held {
    fn new(data: &Path) -> Self {
        let (format, kept) = (data.join("FORMAT"), data.join("../FORMAT"));
        fs::rename(&format, &kept).expect("a node wrote it");
        mknodat(CWD, &format, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        Self { format, kept }
    }

    fn go_on(&self) {
        let line = fs::read(&self.kept).expect("it is kept");
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        wait_for("kvd to read its format", || {
            options.open(&self.format).is_ok_and(|mut pipe| pipe.write_all(&line).is_ok())
        });
    }

    fn give_back(self) {
        fs::rename(self.kept, self.format).expect("it is kept");
    }
}

#[test]
fn a_stop_that_comes_before_a_large_log_is_replayed_ends_in_time_and_in_order() {
    const VALUES: usize = 60;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let node = Kvd::start(&data, &[]);
    let mut client = node.client();
    for key in 0..VALUES {
        let set = format!("SETRANGE key:{key} {} x", MIB - 1);
        assert_eq!(client.ask(&set), format!(":{MIB}"));
    }
    // It is killed: nothing is folded, because less than a layer was written.
    drop(node);
    let held = Held::new(&data);
    let mut process = Process::start(&data, &[]);
    process.says("metrics and health are served");
    process.signal(Signal::TERM);
    process.says("kvd drains");
    let began = Instant::now();
    held.go_on();
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(began.elapsed() < CLOSING_MAX, "it took {:?}", began.elapsed());
    let replayed = format!("records_replayed={} ", VALUES + 1);
    assert!(log.iter().any(|line| line.contains(&replayed)), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("kvd serves")), "{log:?}");

    held.give_back();
    let again = Kvd::start(&data, &[]);
    assert_eq!(again.metric("larder_opening_replayed_records"), 0);
    assert_eq!(again.client().get("key:59").map(|value| value.len()), Some(MIB));
}

#[test]
fn a_stop_while_the_opening_hangs_ends_by_itself_and_says_what_was_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    assert_eq!(Kvd::start(&data, &[]).stop().0, Some(0));
    let _held = Held::new(&data);
    let mut process = Process::start(&data, &[]);
    process.says("metrics and health are served");
    let began = Instant::now();
    process.signal(Signal::TERM);
    let (status, log) = process.end();
    assert_eq!(status.signal(), KILLED, "{log:?}");
    assert!(began.elapsed() >= CLOSING_MAX, "it took {:?}", began.elapsed());
    let told = log.iter().find(|line| line.contains("the stop took longer than 20s"));
    assert!(told.expect("why is told").contains("the opening of the store"), "{told:?}");
}
