//! What one connection may ask for, and what it is told beyond that.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::support::{Client, Kvd, wait_for};

const MIB: usize = 1 << 20;
/// Values of 1 MiB that the replies of one transaction have room for.
const MIB_VALUES_MAX: usize = 63;
const ECHO_BYTES: usize = 60_000;
const ECHOES: usize = 20;

/// Reads a bulk reply whose first line was read, and answers how long it is.
fn rest_of_bulk(client: &mut Client, head: &str) -> usize {
    let length = head.strip_prefix('$').expect("a bulk reply").parse().expect("a length");
    assert_eq!(client.line().len(), length);
    length
}

#[test]
fn the_replies_of_a_transaction_are_bounded_together() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    assert_eq!(client.ask(&format!("SETRANGE value {} x", MIB - 1)), format!(":{MIB}"));
    assert_eq!(client.ask("MULTI"), "+OK");
    let echo = format!("ECHO {}", "e".repeat(ECHO_BYTES));
    let gets = std::iter::repeat_n("GET value", MIB_VALUES_MAX + 2);
    let echoes = std::iter::repeat_n(&*echo, ECHOES);
    for command in gets.chain(echoes).chain(["SET done yes"]) {
        assert_eq!(client.ask(command), "+QUEUED");
    }
    assert_eq!(client.ask("EXEC"), format!("*{}", MIB_VALUES_MAX + 2 + ECHOES + 1));
    let refusal = "-ERR the reply would be larger than 67108864 bytes";
    for _ in 0..MIB_VALUES_MAX {
        let head = client.line();
        assert_eq!(rest_of_bulk(&mut client, &head), MIB);
    }
    for _ in 0..2 {
        assert!(client.line().starts_with(refusal));
    }
    let echoed = (0..ECHOES).filter(|_| {
        let head = client.line();
        let is_refused = head.starts_with(refusal);
        if !is_refused {
            assert_eq!(rest_of_bulk(&mut client, &head), ECHO_BYTES);
        }
        !is_refused
    });
    let echoed = echoed.count();
    assert!(0 < echoed && echoed < ECHOES, "{echoed} of {ECHOES} were echoed");
    assert_eq!(client.line(), "+OK", "what writes is done");
    assert_eq!(client.get("done").as_deref(), Some("yes"));
    assert_eq!(client.get("value").map(|value| value.len()), Some(MIB));
}

#[test]
fn a_connection_watches_many_keys_quickly_and_no_more_than_its_bound() {
    const KEYS_MAX: usize = 65_536;
    const AT_ONCE: usize = 4_096;
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    let watch = |first: usize| {
        let keys: Vec<String> = (first..first + AT_ONCE).map(|key| format!("k{key}")).collect();
        format!("WATCH {}", keys.join(" "))
    };
    let began = Instant::now();
    for first in (0..KEYS_MAX).step_by(AT_ONCE) {
        assert_eq!(client.ask(&watch(first)), "+OK");
    }
    assert_eq!(client.ask(&watch(0)), "+OK", "what is watched already does not count");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let refusal = "-ERR a connection may watch 65536 keys";
    assert!(client.ask("WATCH one-more").starts_with(refusal));

    assert_eq!(node.client().ask("SET k40000 changed"), "+OK");
    assert_eq!(client.ask("MULTI"), "+OK");
    assert_eq!(client.ask("PING"), "+QUEUED");
    assert_eq!(client.ask("EXEC"), "*-1");
    assert_eq!(client.ask("WATCH one-more"), "+OK");
    let long = "x".repeat(60_000);
    let refused = (0..100).find(|key| client.ask(&format!("WATCH {key}{long}")) != "+OK");
    assert_eq!(refused, Some(4 * MIB / 60_001), "a key whose bytes are too many is refused");
    assert_eq!(client.ask("UNWATCH"), "+OK");
    assert_eq!(client.ask("WATCH one-more"), "+OK");
}

#[test]
fn of_the_replies_of_all_clients_those_are_given_up_of_which_one_client_holds_most() {
    const VALUE: usize = 8 * MIB;
    let data = tempfile::tempdir().expect("a directory");
    let file = data.path().join("kvd.toml");
    std::fs::write(&file, "[limits]\nreplies_bytes = \"128 MiB\"\n").expect("written");
    let path = file.to_str().expect("a path in UTF-8");
    let node = Kvd::start(&data.path().join("data"), &["--config", path]);
    let held = || node.metric("larder_resp_replies_bytes");
    let mut client = node.client();
    assert_eq!(client.ask(&format!("SETRANGE value {} x", VALUE - 1)), format!(":{VALUE}"));

    // 56 MiB, then 48, then 40 that are not read: one too many.
    let unread = |values: usize| {
        let mut stream = TcpStream::connect(node.resp).expect("kvd listens");
        let before = held();
        writeln!(stream, "MGET{}", " value".repeat(values)).expect("it is connected");
        let more = ((values - 1) * VALUE) as u64;
        wait_for("the replies", || {
            held() >= before + more || node.metric("larder_resp_evicted_total") > 0
        });
        stream
    };
    let (mut most, mut other, mut last) = (unread(7), unread(6), unread(5));
    wait_for("one to be closed", || node.metric("larder_resp_evicted_total") == 1);
    wait_for("its replies to be given back", || held() <= 128 * MIB as u64);
    assert_eq!(client.get("value").map(|value| value.len()), Some(VALUE), "reads go on");
    assert!(client.ask("CLIENT LIST").starts_with('$'));

    let whole = |values: usize| values * (VALUE + "$8388608\r\n\r\n".len()) + "*7\r\n".len();
    let read = |stream: &mut TcpStream| {
        stream.shutdown(Shutdown::Write).expect("it is connected");
        let mut replies = Vec::new();
        // Who was closed sees its connection reset, or ended before its replies are whole.
        let _ = stream.read_to_end(&mut replies);
        replies.len()
    };
    assert!(read(&mut most) < whole(7));
    assert_eq!((read(&mut other), read(&mut last)), (whole(6), whole(5)));
    wait_for("the budget to be given back", || held() == 0);
}

/// Queues a transaction of so many commands of 60 KB each; the first refusal, if there is one.
fn queue(client: &mut Client, commands: usize) -> Option<String> {
    assert_eq!(client.ask("MULTI"), "+OK");
    let set = format!("SET large {}", "v".repeat(60_000));
    (0..commands).map(|_| client.ask(&set)).find(|reply| reply != "+QUEUED")
}

#[test]
fn requests_of_all_clients_together_are_bounded() {
    const HALF_REQUESTS: usize = 8;
    let data = tempfile::tempdir().expect("a directory");
    let file = data.path().join("kvd.toml");
    std::fs::write(&file, "[limits]\nrequests_bytes = \"64 MiB\"\n").expect("written");
    let path = file.to_str().expect("a path in UTF-8");
    let node = Kvd::start(&data.path().join("data"), &["--config", path]);
    let held = || node.metric("larder_resp_requests_bytes");

    let head = format!("*5\r\n$4\r\nMSET\r\n$1\r\na\r\n${0}\r\n", 7 * MIB);
    let second = format!("\r\n$1\r\nb\r\n${}\r\n", 7 * MIB);
    let value = vec![b'v'; 7 * MIB];
    let part = [head.as_bytes(), &value, second.as_bytes(), &value[MIB..]].concat();
    let connect = |_| TcpStream::connect(node.resp).expect("kvd listens");
    let hostile: Vec<TcpStream> = (0..HALF_REQUESTS).map(connect).collect();
    thread::scope(|scope| {
        for mut stream in &hostile {
            let part = &part;
            // Cut off below, while it waits for room.
            scope.spawn(move || stream.write_all(part));
        }
        wait_for("the budget to be taken", || held() >= 52 * MIB as u64);
        assert!(held() <= 64 * MIB as u64);
        let mut client = node.client();
        assert_eq!(client.ask("SET small yes"), "+OK", "small requests go on");
        let refused = queue(&mut client, 278).expect("there is no room");
        assert!(refused.starts_with("-ERR the requests of all clients together"), "{refused}");
        assert!(client.ask("EXEC").starts_with("-EXECABORT"));
        for stream in &hostile {
            stream.shutdown(Shutdown::Both).expect("it is connected");
        }
    });
    wait_for("the budget to be given back", || held() == 0);
    let mut client = node.client();
    assert_eq!(queue(&mut client, 278), None);
    assert_eq!(client.ask("EXEC"), "*278");
}
