//! Replies of large values, which are sent out of the store and not copied: byte for byte right wherever
//! they stand, and whatever becomes of the value meanwhile.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
};

use crate::support::{DEADLINE, Kvd, request, wait_for};

/// From here on values are not copied.
const BOUND: usize = 16 << 10;
const MIB: usize = 1 << 20;
/// Below, at and above the bound; more than is counted of a client, more than is sent at a time, and more
/// than its writer answers at a time.
const SIZES: [usize; 6] = [BOUND - 1, BOUND, BOUND + 1, 40 << 10, 300 << 10, 2 * MIB];

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// A text in which no part is like another.
fn text(name: &str, bytes: usize) -> String {
    let mut text = String::new();
    for number in 0.. {
        if text.len() >= bytes {
            break;
        }
        text += &format!("{name}{number}\n");
    }
    text.truncate(bytes);
    text
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Commands as words, and what they are to be answered.
#[derive(Default)]
struct Talk {
    sent: String,
    expected: String,
}

impl Talk {
    fn say(&mut self, words: &[&str], reply: &str) -> &mut Self {
        self.sent += &request(words);
        self.sent += "\r\n";
        self.expected += reply;
        self
    }

    /// Sends all of it at once.
    fn hold(&self, node: &Kvd) {
        let mut stream = connect(node);
        thread::scope(|scope| {
            let mut sending = stream.try_clone().expect("another handle");
            scope.spawn(move || sending.write_all(self.sent.as_bytes()).expect("it is connected"));
            expect(&mut stream, &self.expected);
        });
    }
}

fn connect(node: &Kvd) -> TcpStream {
    let stream = TcpStream::connect(node.resp).expect("kvd listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
}

/// Reads these replies, and makes sure that none is behind them.
fn expect(stream: &mut TcpStream, expected: &str) {
    let last = "+PONG\r\n";
    let mut replies = vec![0; expected.len()];
    stream.read_exact(&mut replies).expect("as many bytes");
    let differs = replies.iter().zip(expected.as_bytes()).position(|(one, other)| one != other);
    if let Some(at) = differs {
        let end = replies.len().min(at + 40);
        panic!("at {at} of {} bytes: {}", replies.len(), replies[at..end].escape_ascii());
    }
    stream.write_all(b"PING\r\n").expect("it is connected");
    let mut behind = vec![0; last.len()];
    stream.read_exact(&mut behind).expect("a reply");
    assert_eq!(behind.escape_ascii().to_string(), last.escape_default().to_string());
}

#[test]
fn large_values_are_answered_whole_alone_and_between_other_replies() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for bytes in SIZES {
        let value = text("v", bytes);
        let reply = bulk(&value);
        let mut stored = Talk::default();
        stored.say(&["FLUSHALL"], "+OK\r\n").say(&["SET", "key", &value], "+OK\r\n");
        stored.say(&["HSET", "hash", "field", &value, "small", "s"], ":2\r\n");
        stored.hold(&node);

        let reads = |talk: &mut Talk| {
            let hash = format!("*4\r\n{}{reply}{}{}", bulk("field"), bulk("small"), bulk("s"));
            talk.say(&["GET", "key"], &reply)
                .say(&["PING"], "+PONG\r\n")
                .say(&["MGET", "key", "absent", "key"], &format!("*3\r\n{reply}$-1\r\n{reply}"))
                .say(&["STRLEN", "key"], &format!(":{bytes}\r\n"))
                .say(&["GETRANGE", "key", "1", "-2"], &bulk(&value[1..bytes - 1]))
                .say(&["GETRANGE", "key", "5", "14"], &bulk(&value[5..15]))
                .say(&["GETEX", "key", "PERSIST"], &reply)
                .say(&["HGET", "hash", "field"], &reply)
                .say(&["HMGET", "hash", "small", "field"], &format!("*2\r\n{}{reply}", bulk("s")))
                .say(&["HVALS", "hash"], &format!("*2\r\n{reply}{}", bulk("s")))
                .say(&["HGETALL", "hash"], &hash)
                .say(&["GET", "hash"], WRONG_TYPE);
        };
        Talk::default().say(&["GET", "key"], &reply).hold(&node);
        let mut talk = Talk::default();
        reads(&mut talk);
        // From here on the writer answers.
        talk.say(&["SET", "other", "small"], "+OK\r\n");
        reads(&mut talk);
        talk.hold(&node);
    }
}

#[test]
fn a_large_value_is_answered_as_it_was_when_the_next_command_replaces_or_deletes_it() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for bytes in SIZES {
        let (one, other) = (text("one", bytes), text("other", bytes));
        let mut talk = Talk::default();
        talk.say(&["SET", "key", &one], "+OK\r\n")
            .say(&["GET", "key"], &bulk(&one))
            .say(&["SET", "key", &other], "+OK\r\n")
            .say(&["GETSET", "key", &one], &bulk(&other))
            .say(&["SET", "key", &other, "GET"], &bulk(&one))
            .say(&["GETRANGE", "key", "0", "-1"], &bulk(&other))
            .say(&["SETRANGE", "key", "0", "X"], &format!(":{bytes}\r\n"))
            .say(&["GETDEL", "key"], &bulk(&format!("X{}", &other[1..])))
            .say(&["GET", "key"], "$-1\r\n")
            .say(&["HSET", "hash", "field", &one], ":1\r\n")
            .say(&["HGET", "hash", "field"], &bulk(&one))
            .say(&["HSET", "hash", "field", &other], ":0\r\n")
            .say(&["HGET", "hash", "field"], &bulk(&other))
            .say(&["FLUSHALL"], "+OK\r\n")
            .say(&["HGET", "hash", "field"], "$-1\r\n");
        talk.hold(&node);
    }
}

#[test]
fn large_values_of_a_transaction_stand_where_their_commands_stood() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for bytes in SIZES {
        let (one, other) = (text("one", bytes), text("other", bytes));
        let commands: [(&[&str], String); 8] = [
            (&["GET", "key"], bulk(&one)),
            (&["PING"], "+PONG\r\n".to_owned()),
            (&["SET", "key", &other], "+OK\r\n".to_owned()),
            (&["ECHO", "echo"], bulk("echo")),
            (&["MGET", "key", "absent", "key"], format!("*3\r\n{0}$-1\r\n{0}", bulk(&other))),
            (&["HGET", "key", "field"], WRONG_TYPE.to_owned()),
            (&["GETDEL", "key"], bulk(&other)),
            (&["GET", "key"], "$-1\r\n".to_owned()),
        ];
        let mut talk = Talk::default();
        talk.say(&["SET", "key", &one], "+OK\r\n").say(&["MULTI"], "+OK\r\n");
        for (words, _) in &commands {
            talk.say(words, "+QUEUED\r\n");
        }
        let replies: String = commands.iter().map(|(_, reply)| reply.as_str()).collect();
        talk.say(&["EXEC"], &format!("*{}\r\n{replies}", commands.len()));
        talk.hold(&node);
    }
}

#[test]
fn of_large_values_that_client_reply_mutes_nothing_is_sent() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for bytes in SIZES {
        let value = text("v", bytes);
        let mut talk = Talk::default();
        talk.say(&["SET", "key", &value], "+OK\r\n")
            .say(&["GET", "key"], &bulk(&value))
            .say(&["CLIENT", "REPLY", "SKIP"], "")
            .say(&["GET", "key"], "")
            .say(&["GET", "key"], &bulk(&value))
            .say(&["CLIENT", "REPLY", "SKIP"], "")
            .say(&["GETSET", "key", &value], "")
            .say(&["GETSET", "key", &value], &bulk(&value))
            .say(&["CLIENT", "REPLY", "OFF"], "")
            .say(&["GET", "key"], "")
            .say(&["GETSET", "key", "small"], "")
            .say(&["MGET", "key", "key"], "")
            .say(&["CLIENT", "REPLY", "ON"], "+OK\r\n")
            .say(&["GETSET", "key", &value], &bulk("small"))
            .say(&["GET", "key"], &bulk(&value));
        talk.hold(&node);
    }
}

#[test]
fn a_reply_that_is_read_late_is_of_the_values_that_there_were_and_counts_until_then() {
    const TIMES: usize = 8;
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let held = || node.metric("larder_resp_replies_bytes");
    let value = text("v", 2 * MIB);
    Talk::default().say(&["SET", "key", &value], "+OK\r\n").hold(&node);

    let mut late = connect(&node);
    writeln!(late, "MGET{}", " key".repeat(TIMES)).expect("it is connected");
    let is_counted = || held() >= (TIMES * 2 * MIB - MIB) as u64;
    wait_for("the reply", is_counted);
    let mut others = Talk::default();
    others.say(&["SETRANGE", "key", "0", "other"], &format!(":{}\r\n", 2 * MIB));
    others.say(&["DEL", "key"], ":1\r\n").hold(&node);
    assert!(is_counted(), "whoever else has the values");
    expect(&mut late, &format!("*{TIMES}\r\n{}", bulk(&value).repeat(TIMES)));
    wait_for("the budget to be given back", || held() == 0);
}
