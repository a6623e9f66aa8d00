//! Clients that are silent: those that wait in a command are counted, and those that are gone noticed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use rustix::net::sockopt::set_socket_linger;

use crate::support::{Client, Kvd, wait_for};

/// The token of a write that comes after so many others.
fn token_ahead(client: &mut Client, others: u64) -> String {
    assert_eq!(client.ask("SET k v"), "+OK");
    let token = (client.ask("KV.TOKEN"), client.line()).1;
    let (log_and_epoch, seq) = token.rsplit_once(':').expect("a token");
    let seq: u64 = seq.parse().expect("a number");
    format!("{log_and_epoch}:{}", seq + others + 1)
}

/// A client that waits in this command, and has sent more since.
fn waiting(node: &Kvd, observer: &mut Client, command: &str) -> TcpStream {
    let mut stream = TcpStream::connect(node.resp).expect("kvd listens");
    write!(stream, "{command}\r\n").expect("it is connected");
    wait_for("the client to wait", || observer.info("clients", "blocked_clients") == 1);
    stream.write_all(b"PING\r\nPING\r\n").expect("it is connected");
    stream
}

#[test]
fn a_client_that_waits_sends_more_and_goes_gives_its_place_back() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut observer = node.client();
    let after = format!("KV.AFTER {} 600000", token_ahead(&mut observer, 1_000));
    let gone = |observer: &mut Client| {
        wait_for("its place", || observer.info("clients", "connected_clients") == 1);
        assert_eq!(observer.info("clients", "blocked_clients"), 0);
    };
    for command in ["WAIT 1 0", after.as_str()] {
        drop(waiting(&node, &mut observer, command));
        gone(&mut observer);

        let reset = waiting(&node, &mut observer, command);
        set_socket_linger(&reset, Some(std::time::Duration::ZERO)).expect("it is connected");
        drop(reset);
        gone(&mut observer);

        let half = waiting(&node, &mut observer, command);
        half.shutdown(Shutdown::Write).expect("it is connected");
        gone(&mut observer);
    }
}

#[test]
fn a_client_is_counted_as_blocked_while_it_waits_and_no_longer() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let (mut client, mut observer) = (node.client(), node.client());
    let mut blocked = || observer.info("clients", "blocked_clients");
    assert_eq!(client.ask("WAIT 1 1"), ":0");
    assert_eq!(blocked(), 0);
    for command in ["MULTI", "WAIT 1 0"] {
        client.ask(command);
    }
    assert_eq!((client.ask("EXEC"), client.line()), ("*1".into(), ":0".into()));
    assert_eq!(blocked(), 0, "a transaction does not block");
    let _waits = waiting(&node, &mut observer, "WAIT 1 0");
    assert_eq!(observer.info("clients", "blocked_clients"), 1);
}

/// The line of a client in CLIENT LIST.
fn described(observer: &mut Client, id: &str) -> String {
    let head = observer.ask(&format!("CLIENT LIST ID {}", id.trim_start_matches(':')));
    assert!(head.starts_with('$'), "{head}");
    let described = observer.line();
    assert_eq!(observer.line(), "");
    described
}

#[test]
fn a_client_that_waits_is_listed_as_blocked_in_its_command() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let (mut client, mut observer) = (node.client(), node.client());
    let id = client.ask("CLIENT ID");
    let shows = |observer: &mut Client, parts: [&str; 2]| {
        wait_for(parts[0], || {
            let described = described(observer, &id);
            parts.iter().all(|part| described.contains(part))
        });
    };
    shows(&mut observer, [" flags=N ", " cmd=client|id "]);
    client.send(&format!("KV.AFTER {} 600000", token_ahead(&mut observer, 0)));
    shows(&mut observer, [" flags=b ", " cmd=kv.after "]);
    assert_eq!(observer.ask("SET k v"), "+OK");
    assert_eq!(client.line(), "+OK");
    shows(&mut observer, [" flags=N ", " cmd=kv.after "]);
    client.send("WAIT 1 0");
    shows(&mut observer, [" flags=b ", " cmd=wait "]);
}

#[test]
fn a_command_that_waits_is_not_answered_where_its_reply_is_to_be_skipped() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    let after = format!("KV.AFTER {} 1", token_ahead(&mut client, 1_000));
    for command in ["WAIT 0 0", "WAIT 1 1", "WAIT x 1", &*after] {
        client.send(&format!("PING\r\nCLIENT REPLY SKIP\r\n{command}\r\nECHO next"));
        assert_eq!(client.line(), "+PONG");
        assert_eq!((client.line(), client.line()), ("$4".into(), "next".into()), "{command}");
    }
    client.send("PING\r\nCLIENT REPLY OFF\r\nWAIT 1 1\r\nCLIENT REPLY ON");
    assert_eq!((client.line(), client.line()), ("+PONG".into(), "+OK".into()));
}

/// What the kernel counts down for a connection, by the ports of this end and of the peer.
fn timer(port: u16, peer: u16) -> Option<(String, u64)> {
    let connections = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let (port, peer) = (format!(":{port:04X}"), format!(":{peer:04X}"));
    connections.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields[1].ends_with(&port) && fields[2].ends_with(&peer);
        let (kind, ticks) = fields[5].split_once(':')?;
        is_it.then(|| (kind.to_owned(), u64::from_str_radix(ticks, 16).expect("a number") / 100))
    })
}

#[test]
fn a_client_that_is_silent_is_asked_after_300_s_whether_it_is_there() {
    /// The timer of keepalive, where nothing waits to be sent again.
    const KEEPALIVE: &str = "02";
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut stream = TcpStream::connect(node.resp).expect("kvd listens");
    stream.write_all(b"PING\r\n").expect("it is connected");
    stream.read_exact(&mut [0; 7]).expect("an answer");
    let peer = stream.local_addr().expect("an address").port();
    wait_for("the kernel to watch it", || {
        timer(node.resp.port(), peer)
            .is_some_and(|(kind, seconds)| kind == KEEPALIVE && (200..=300).contains(&seconds))
    });
}
