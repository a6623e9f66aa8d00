//! Versions of values as clients see them: over a connection, in a transaction, after a crash.

use crate::support::{Client, Kvd, wait_for};

/// What a KV.CAS that was refused answers in RESP2.
const REFUSED: &str = "$-1";

/// A client that speaks this version of the protocol.
fn speaking(node: &Kvd, protocol: u8) -> Client {
    let mut client = node.client();
    client.send(&format!("HELLO {protocol}\r\nECHO ready"));
    while client.line() != "ready" {}
    client
}

/// The rest of a bulk string, of whose reply the head has been read.
fn bulk(client: &mut Client, head: &str) -> String {
    let text = client.line();
    assert_eq!(head, format!("${}", text.len()), "{text}");
    text
}

/// The rest of what KV.GETV answers: value and version.
fn versioned(client: &mut Client, head: &str) -> (String, String) {
    assert_eq!(head, "*2");
    let mut next = || {
        let head = client.line();
        bulk(client, &head)
    };
    (next(), next())
}

fn getv(client: &mut Client, key: &str) -> (String, String) {
    let head = client.ask(&format!("KV.GETV {key}"));
    versioned(client, &head)
}

/// The version that a KV.CAS which is done answers.
fn cas(client: &mut Client, key: &str, version: &str, value: &str) -> String {
    let head = client.ask(&format!("KV.CAS {key} {version} {value}"));
    bulk(client, &head)
}

#[test]
fn a_value_is_replaced_by_who_names_its_version_in_both_protocols() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for (protocol, absent, refused) in [(2, "*-1", REFUSED), (3, "_", "_")] {
        let mut client = speaking(&node, protocol);
        let key = format!("key:{protocol}");
        assert_eq!(client.ask(&format!("KV.GETV {key}")), absent);
        let first = cas(&mut client, &key, "0", "one");
        assert_eq!(getv(&mut client, &key), ("one".to_owned(), first.clone()));
        let second = cas(&mut client, &key, &first, "two");
        assert_eq!(client.ask(&format!("KV.CAS {key} {first} three")), refused);
        assert_eq!(client.ask(&format!("KV.CAS {key} 0 three")), refused);
        assert_eq!(getv(&mut client, &key), ("two".to_owned(), second));
    }
}

#[test]
fn a_transaction_tells_versions_and_sees_its_own() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for (protocol, refused) in [(2, REFUSED), (3, "_")] {
        let mut client = speaking(&node, protocol);
        let first = cas(&mut client, &format!("key:{protocol}"), "0", "one");
        assert_eq!(client.ask("MULTI"), "+OK");
        for command in ["GETV", &format!("CAS {first} two"), &format!("CAS {first} three")] {
            let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
            assert_eq!(client.ask(&format!("KV.{name} key:{protocol} {rest}")), "+QUEUED");
        }
        assert_eq!((client.ask("EXEC"), client.line()), ("*3".to_owned(), "*2".to_owned()));
        assert_eq!(versioned(&mut client, "*2"), ("one".to_owned(), first.clone()));
        let head = client.line();
        let second = bulk(&mut client, &head);
        assert_eq!(client.line(), refused);
        let found = getv(&mut client, &format!("key:{protocol}"));
        assert_eq!(found, ("two".to_owned(), second));
    }
}

#[test]
fn a_version_outlives_a_crash_in_the_state_and_in_the_log() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    let write = |client: &mut Client, key: &str| {
        let stale = cas(client, key, "0", "one");
        (stale.clone(), cas(client, key, &stale, "two"))
    };
    let saved = write(&mut client, "saved");
    assert_eq!(client.ask("BGSAVE"), "+Background saving started");
    let written = node.metric("larder_log_durable_seq");
    wait_for("the save", || node.metric("larder_state_persisted_seq") >= written);
    let logged = write(&mut client, "logged");
    // It is killed.
    drop(node);

    let node = Kvd::start(data.path(), &[]);
    assert_eq!(node.metric("larder_opening_replayed_records"), 2, "one key is in the log alone");
    let mut client = node.client();
    for (key, (stale, version)) in [("saved", saved), ("logged", logged)] {
        assert_eq!(client.ask(&format!("KV.CAS {key} {stale} three")), REFUSED, "{key}");
        assert_eq!(getv(&mut client, key), ("two".to_owned(), version.clone()));
        let next = cas(&mut client, key, &version, "three");
        assert_eq!(getv(&mut client, key), ("three".to_owned(), next));
    }
}
