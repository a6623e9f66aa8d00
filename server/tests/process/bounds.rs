//! What one connection may ask for, and what it is told beyond that.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Client, Kvd, request, wait_for};

const MIB: usize = 1 << 20;
/// Values of 1 MiB that the replies of one transaction have room for.
const MIB_VALUES_MAX: usize = 63;
const ECHO_BYTES: usize = 60_000;
const ECHOES: usize = 20;

/// A node with this limit.
fn limited(data: &Path, limit: &str) -> Kvd {
    let file = data.join("kvd.toml");
    fs::write(&file, format!("[limits]\n{limit}\n")).expect("written");
    let file = file.to_str().expect("a path in UTF-8");
    Kvd::start(&data.join("data"), &["--config", file])
}

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
fn what_a_command_names_again_and_again_is_answered_as_far_as_a_reply_has_room() {
    const TIMES: usize = 300_000;
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    let id = client.ask("CLIENT ID").trim_start_matches(':').to_owned();
    let refusal = "-ERR the reply would be larger than 67108864 bytes";
    let listed: [(&[&str], &str, &str); 2] =
        [(&["CLIENT", "LIST", "ID"], &id, "$"), (&["COMMAND", "INFO"], "client", "*300")];
    for (command, name, head) in listed {
        let naming = |times: usize| request(&[command, &vec![name; times][..]].concat());
        assert!(client.ask(&naming(TIMES)).starts_with(refusal), "{command:?}");
        assert_eq!(client.ask("MULTI"), "+OK");
        assert_eq!(client.ask(&naming(TIMES)), "+QUEUED");
        assert_eq!(client.ask("ECHO others"), "+QUEUED");
        assert_eq!(client.ask("EXEC"), "*2");
        assert!(client.line().starts_with(refusal), "{command:?}");
        assert_eq!((client.line(), client.line()), ("$6".to_owned(), "others".to_owned()));
        assert!(node.client().ask(&naming(300)).starts_with(head), "{command:?}");
    }
}

#[test]
fn a_pattern_that_takes_long_to_match_is_refused_also_where_names_are_few() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    let class = format!("*[{}", "x".repeat(4_000));
    for command in ["CONFIG GET", "COMMAND LIST FILTERBY PATTERN"] {
        let refused = client.ask(&format!("{command} {class}"));
        assert!(refused.starts_with("-ERR matching the pattern takes too many steps"), "{refused}");
        assert_eq!(client.ask(&format!("{command} no-such-[a-z]*")), "*0", "{command}");
    }
}

#[test]
fn a_name_longer_than_its_bound_is_refused_wherever_a_client_gives_it() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    let (fits, long) = ("n".repeat(1_024), "n".repeat(1_025));
    let told = " of 1025 bytes is larger than the limit of 1024";
    for command in ["CLIENT SETNAME", "CLIENT SETINFO LIB-NAME", "CLIENT SETINFO LIB-VER"] {
        assert_eq!(client.ask(&format!("{command} {fits}")), "+OK");
        let refused = client.ask(&format!("{command} {long}"));
        assert!(refused.starts_with("-ERR a ") && refused.ends_with(told), "{refused}");
    }
    assert_eq!(client.ask("MULTI"), "+OK");
    for command in [&*format!("HELLO 3 SETNAME {long}"), "GET absent"] {
        assert_eq!(client.ask(command), "+QUEUED");
    }
    assert_eq!(client.ask("EXEC"), "*2");
    assert!(client.line().ends_with(told));
    assert_eq!(client.line(), "$-1", "the protocol is that of before");
    assert_eq!((client.ask("CLIENT GETNAME"), client.line()), ("$1024".to_owned(), fits));
}

#[test]
fn more_clients_than_the_system_has_files_for_cannot_be_allowed() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let refused = node.client().ask("CONFIG SET maxclients 4294967295");
    let expected = "-ERR CONFIG SET failed (possibly related to argument 'maxclients') - The \
                    operating system is not able to handle the specified number of clients, try with ";
    let fit = refused.strip_prefix(expected).expect(&refused);
    assert_eq!(node.client().ask(&format!("CONFIG SET maxclients {fit}")), "+OK");
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
    let node = limited(data.path(), "replies_bytes = \"128 MiB\"");
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

const NO_ROOM: &str = "-ERR the requests of all clients together";

/// Queues a transaction of so many commands of 60 KB each; the first refusal, if there is one.
fn queue(client: &mut Client, commands: usize) -> Option<String> {
    assert_eq!(client.ask("MULTI"), "+OK");
    let set = format!("SET large {}", "v".repeat(60_000));
    (0..commands).map(|_| client.ask(&set)).find(|reply| reply != "+QUEUED")
}

/// A node whose clients' requests may take 64 MiB, and clients that take 55 of them for transactions.
fn nearly_full(data: &Path) -> (Kvd, Vec<Client>) {
    let node = limited(data, "requests_bytes = \"64 MiB\"");
    let mut hostile: Vec<Client> = (0..4).map(|_| node.client()).collect();
    for client in &mut hostile {
        assert_eq!(queue(client, 240), None);
    }
    // The buffers of what was received are given back, now or a little later.
    wait_for("their requests to be counted alone", || requests_bytes(&node) < 56 * MIB as u64);
    (node, hostile)
}

fn requests_bytes(node: &Kvd) -> u64 {
    node.metric("larder_resp_requests_bytes")
}

#[test]
fn requests_of_all_clients_together_are_bounded() {
    let data = tempfile::tempdir().expect("a directory");
    let (node, mut hostile) = nearly_full(data.path());
    let held = || requests_bytes(&node);
    let before = held();
    let mut client = node.client();
    assert_eq!(client.ask("SET small yes"), "+OK");
    let refused = queue(&mut client, 278).expect("there is no room");
    assert!(refused.starts_with(NO_ROOM), "{refused}");
    assert!(client.ask("EXEC").starts_with("-EXECABORT"));
    wait_for("what was queued to be given back", || held() <= before);

    let mut waiting = node.client();
    thread::scope(|scope| {
        scope.spawn(|| {
            let value = "v".repeat(7 * MIB);
            let mset = request(&["MSET", "a", &value, "b", &value]);
            assert_eq!(waiting.ask(&mset), "+OK", "it is received once there is room");
        });
        wait_for("the rest to be taken", || held() >= before + 3 * MIB as u64);
        assert!(held() <= 64 * MIB as u64);
        assert_eq!(client.ask("SET small yes"), "+OK", "small requests go on");
        hostile.truncate(2);
    });
    drop(hostile);
    wait_for("the budget to be given back", || held() == 0);
    assert_eq!(queue(&mut client, 278), None);
    assert_eq!(client.ask("EXEC"), "*278");
}

#[test]
fn a_transaction_is_given_up_where_there_is_no_room_to_receive_more_of_it() {
    let data = tempfile::tempdir().expect("a directory");
    let (node, _hostile) = nearly_full(data.path());
    let before = requests_bytes(&node);
    let mut client = node.client();
    assert_eq!(queue(&mut client, 90), None);
    // Of these either has room, and not both.
    let large = request(&["SET", "large", &"v".repeat(4 * MIB)]);
    let refused = client.ask(&large);
    assert!(refused.starts_with(NO_ROOM), "{refused}");
    wait_for("all of it to be given back", || requests_bytes(&node) <= before);
    assert_eq!(client.ask("SET small yes"), "+QUEUED");
    assert!(client.ask("EXEC").starts_with("-EXECABORT"));
    assert_eq!(client.ask(&large), "+OK");
}

/// Names of keys, of which a command can name `count`.
fn keys(prefix: char, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn a_command_that_changes_more_than_a_record_may_hold_changes_nothing() {
    const CHANGES_MAX: usize = 262_144;
    let refusal = format!(
        "-ERR the transaction changes more rows and fields than the limit of {CHANGES_MAX}; split it"
    );
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    assert_eq!(client.ask("SET kept yes"), "+OK");
    let others = keys('k', CHANGES_MAX);
    let of_all: Vec<&str> =
        ["DEL", "kept"].into_iter().chain(others.iter().map(String::as_str)).collect();
    assert_eq!(client.ask(&request(&of_all)), refusal);
    assert_eq!(client.get("kept").as_deref(), Some("yes"));
    assert_eq!(client.ask(&request(&of_all[..of_all.len() - 1])), ":1", "as many as it may");

    // Either has room, and not both.
    assert_eq!(client.ask("MULTI"), "+OK");
    for prefix in ['a', 'b'] {
        let keys = keys(prefix, CHANGES_MAX / 2 + 1);
        let mset: Vec<&str> =
            ["MSET"].into_iter().chain(keys.iter().flat_map(|key| [key.as_str(), "v"])).collect();
        assert_eq!(client.ask(&request(&mset)), "+QUEUED");
    }
    assert_eq!(client.ask("EXEC"), "*2");
    assert_eq!((client.line(), client.line()), ("+OK".to_owned(), refusal));
    assert_eq!(client.ask("DBSIZE"), format!(":{}", CHANGES_MAX / 2 + 1));
}

#[test]
fn an_idle_node_with_the_default_configuration_stays_small() {
    const RESIDENT_BYTES_MAX: u64 = 64 << 20;
    const WATCHED: Duration = Duration::from_secs(2);
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    assert!(node.http("/readyz").ends_with("ready\n"));
    let until = Instant::now() + WATCHED;
    let mut most = 0;
    wait_for("the end of the watch", || {
        most = most.max(node.metric("larder_process_resident_memory_bytes"));
        Instant::now() >= until
    });
    println!("at most {most} bytes were resident");
    assert!(most < RESIDENT_BYTES_MAX, "{most} bytes were resident");
}
