//! `kv replica`, `shard` and `log`, against an admin port.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Output;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value as Json, json};

use crate::fixture::{Admin, Asked};
use crate::support::{command, outcome, stderr};

/// What a promotion could lose at the fixture, and the term that it would begin.
const AT_RISK: u64 = 12;
const NEXT_TERM: u64 = 4;

fn replication(role: &str) -> Json {
    let member = |node: &str, state: &str, lag: Option<u64>| {
        json!({
            "node": node, "region": node.trim_end_matches("-1"), "voter": node != "shanghai-1",
            "state": state, "acked": 40, "lag_records": lag, "lag_bytes": lag.map(|n| n * 100),
            "lag_ms": lag.map(|n| n as f64 / 4.0), "session_age_ms": lag.map(|_| 61_500),
            "full_syncs": 2, "detached": state == "detached", "resp": "127.0.0.1:6381",
        })
    };
    json!({
        "node": "shenzhen-1", "region": "shenzhen", "role": role, "log": "5f", "term": 3,
        "epoch": "3.1.9f", "tail": 42, "durable": 41, "committed": 40, "level": "majority",
        "lease_ms_left": 2400, "master": "tianjin-1",
        "members": [
            member("shenzhen-1", "master", Some(0)),
            member("tianjin-1", "streaming", Some(7)),
            member("shanghai-1", "detached", None),
        ],
        "alerts": ["shanghai-1 is detached\u{1b}[2J"],
    })
}

fn parted() -> Json {
    json!([{"name": "3-41", "from": 41, "to": 52, "records": 12, "bytes": 900, "epoch": "2.1.77",
            "at_ms": 1_764_362_644_999_u64}])
}

/// An admin port as kvd's, of a slave whose promotion could lose records.
fn node() -> Admin {
    Admin::start(|asked| {
        let path = asked.path.as_str();
        match (asked.method.as_str(), path) {
            ("GET", "/replication") => (200, replication("slave")),
            ("POST", "/replication/promote") => promotion(&asked.body),
            ("POST", "/replication/switchover") => (200, json!({"master": asked.body["to"]})),
            ("POST", "/replication/members") => (200, json!({"added": asked.body["node"]})),
            ("DELETE", "/replication/members/tianjin-1") => (204, Json::Null),
            ("POST", "/replication/members/tianjin-1/resync") => (202, json!({})),
            ("GET", "/replication/parted") => (200, parted()),
            ("GET", "/replication/parted/3-41") => {
                let record = json!({"seq": 41, "key": "user:1\n", "effect": {"set": "Ada"}});
                (200, json!({"records": [record, {"seq": 42, "key": "b"}]}))
            }
            ("POST", "/replication/parted/3-41/reapply") => {
                (200, json!({"records": 12, "dry_run": asked.body["dry_run"]}))
            }
            ("POST", "/replication/parted/1-9/reapply") if asked.body["force"] == true => {
                (200, json!({"records": 9, "dry_run": false}))
            }
            ("POST", "/replication/parted/1-9/reapply") => {
                (409, json!({"error": "nobody can tell whether the records of 1-9 parted"}))
            }
            _ => (404, json!({"error": format!("{path}: there is no such thing")})),
        }
    })
}

fn promotion(body: &Json) -> (u16, Json) {
    match body["force_term"].as_u64() {
        // Its log reaches further than that of the node that was asked.
        Some(NEXT_TERM) => (200, json!({"master": "tianjin-1", "term": NEXT_TERM})),
        Some(other) => (409, json!({"error": format!("{other} is not the next term")})),
        None => {
            let error = format!("{AT_RISK} acknowledged records could be lost");
            (409, json!({"error": error, "records_at_risk": AT_RISK, "term": NEXT_TERM}))
        }
    }
}

fn kv(admin: &Admin, arguments: &[&str]) -> Output {
    at(&admin.address(), arguments)
}

fn at(address: &str, arguments: &[&str]) -> Output {
    let mut command = command("127.0.0.1:1");
    // Nobody is there to answer a question.
    command.env("LARDER_ADMIN", address).args(arguments).stdin(std::process::Stdio::null());
    command.output().unwrap()
}

/// Runs `kv` with a terminal on which somebody types.
fn typed(admin: &Admin, arguments: &[&str], text: &str) -> Output {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let other_end = File::options().read(true).write(true).open(path).unwrap();
    File::from(terminal.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    let mut command = command("127.0.0.1:1");
    command.env("LARDER_ADMIN", admin.address()).args(arguments).stdin(other_end);
    command.output().unwrap()
}

fn asked(method: &str, path: &str, body: Json) -> Asked {
    Asked { method: method.to_owned(), path: path.to_owned(), body, authorization: None }
}

#[test]
fn the_replicas_are_listed_with_how_late_each_is() {
    let admin = node();
    let (code, text) = outcome(&kv(&admin, &["replica", "list"]));
    assert_eq!(code, 0);
    for words in [
        "shenzhen-1 (shenzhen) is slave, term 3, level majority",
        "tail 42, durable 41, committed 40; lease 2400 ms; master tianjin-1",
        "lag records",
        "streaming",
        "detached",
        "700",
        "1.8",
        "61.5 s",
        "alert: shanghai-1 is detached\\u{1b}[2J",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let (code, text) = outcome(&kv(&admin, &["-o", "json", "replica", "list"]));
    assert_eq!((code, serde_json::from_str(&text).unwrap()), (0, replication("slave")));
}

#[test]
fn a_replica_is_added_removed_and_given_everything_anew() {
    let admin = node();
    for (arguments, said) in [
        (&["replica", "add", "tianjin-1"][..], "tianjin-1 is a replica now\n"),
        (&["replica", "add", "report-1", "--no-vote"], "report-1 is a replica now\n"),
        (&["replica", "remove", "tianjin-1"], "tianjin-1 is no replica any more\n"),
        (&["replica", "resync", "tianjin-1"], "tianjin-1 takes a snapshot\n"),
    ] {
        assert_eq!(outcome(&kv(&admin, arguments)), (0, said.to_owned()));
    }
    assert_eq!(
        admin.asked(),
        [
            asked("POST", "/replication/members", json!({"node": "tianjin-1", "voter": true})),
            asked("POST", "/replication/members", json!({"node": "report-1", "voter": false})),
            asked("DELETE", "/replication/members/tianjin-1", Json::Null),
            asked("POST", "/replication/members/tianjin-1/resync", json!({})),
        ]
    );
    let unknown = kv(&admin, &["replica", "remove", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("there is no such thing"));
}

#[test]
fn a_promotion_that_could_lose_writes_needs_the_term() {
    let admin = node();
    let refused = kv(&admin, &["shard", "promote", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = stderr(&refused);
    assert!(told.contains("12 acknowledged records could be lost"), "{told}");
    assert!(told.contains("--force --term 4"), "{told}");

    let untyped = kv(&admin, &["shard", "promote", "--force"]);
    assert_eq!(untyped.status.code(), Some(2));
    assert!(stderr(&untyped).contains("give --term"), "{}", stderr(&untyped));

    let wrong = kv(&admin, &["shard", "promote", "--force", "--term", "3"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(stderr(&wrong).contains("3 is not the next term"), "{}", stderr(&wrong));

    let forced = kv(&admin, &["shard", "promote", "--force", "--term", "4"]);
    assert_eq!(outcome(&forced), (0, "tianjin-1 is master now\n".to_owned()));
    let promotions: Vec<_> =
        admin.asked().into_iter().filter(|asked| asked.method == "POST").map(|a| a.body).collect();
    let body = |term: Option<u64>| json!({"force_term": term});
    assert_eq!(promotions, [body(None), body(None), body(Some(3)), body(Some(4))]);
}

#[test]
fn a_promotion_asks_first_unless_told_not_to() {
    let admin = node();
    let unasked = kv(&admin, &["shard", "promote"]);
    assert_eq!(unasked.status.code(), Some(2));
    assert!(stderr(&unasked).contains("give --yes"), "{}", stderr(&unasked));
    assert!(admin.asked().iter().all(|asked| asked.method == "GET"));
}

#[test]
fn a_person_is_asked_and_the_answer_decides() {
    let admin = node();
    let declined = typed(&admin, &["shard", "promote"], "n\n");
    assert_eq!(declined.status.code(), Some(1));
    let told = stderr(&declined);
    assert!(told.contains("shenzhen-1 (shenzhen)") && told.contains("tianjin-1"), "{told}");
    assert!(told.contains("nothing was done"), "{told}");
    let mistyped = typed(&admin, &["shard", "promote", "--force"], "3\n");
    assert_eq!(mistyped.status.code(), Some(1));
    assert!(stderr(&mistyped).contains("12 acknowledged records"), "{}", stderr(&mistyped));
    let forced = |admin: &Admin| {
        let bodies = admin.asked().into_iter().map(|asked| asked.body["force_term"].clone());
        bodies.filter(|term| !term.is_null()).collect::<Vec<_>>()
    };
    assert_eq!(forced(&admin), Vec::<Json>::new());
    let right = typed(&admin, &["shard", "promote", "--force"], "4\n");
    assert_eq!(outcome(&right), (0, "tianjin-1 is master now\n".to_owned()));
    assert_eq!(forced(&admin), [NEXT_TERM]);
}

#[test]
fn a_master_is_not_promoted_again() {
    let admin = Admin::start(|_| (200, replication("master")));
    let output = kv(&admin, &["shard", "promote", "--force", "--term", "4"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("master already"), "{}", stderr(&output));
    assert!(admin.asked().iter().all(|asked| asked.method == "GET"));
}

#[test]
fn a_switchover_names_the_next_master() {
    let admin = node();
    let output = kv(&admin, &["-o", "json", "shard", "switchover", "tianjin-1"]);
    assert_eq!(outcome(&output), (0, "{\"master\":\"tianjin-1\"}\n".to_owned()));
    let body = json!({"to": "tianjin-1"});
    assert_eq!(admin.asked(), [asked("POST", "/replication/switchover", body)]);
}

#[test]
fn parted_records_are_listed_shown_and_applied_again() {
    let admin = node();
    let (code, list) = outcome(&kv(&admin, &["log", "parted", "list"]));
    assert_eq!(code, 0);
    for words in ["name", "3-41", "12", "900", "2.1.77", "2025-11-28 20:44:04Z"] {
        assert!(list.contains(words), "{words} in\n{list}");
    }
    let (code, show) = outcome(&kv(&admin, &["log", "parted", "show", "3-41"]));
    assert!(code == 0 && show.contains("user:1\\n") && show.contains(r#"{"set":"Ada"}"#), "{show}");
    let (code, dry) = outcome(&kv(&admin, &["log", "parted", "reapply", "3-41", "--dry-run"]));
    assert!(code == 0 && dry.contains("true"), "{dry}");
    let again = kv(&admin, &["-o", "json", "log", "parted", "reapply", "3-41"]);
    let answer = json!({"records": 12, "dry_run": false});
    assert_eq!(outcome(&again), (0, format!("{answer}\n")));
    let strange = kv(&admin, &["log", "parted", "show", "../promote?"]);
    assert_eq!(strange.status.code(), Some(1));
    assert_eq!(admin.asked().pop().unwrap().path, "/replication/parted/..%2Fpromote%3F");
}

#[test]
fn records_that_may_be_in_the_log_already_are_applied_again_by_force_alone() {
    let admin = node();
    let refused = kv(&admin, &["log", "parted", "reapply", "1-9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("nobody can tell"), "{}", stderr(&refused));
    let (code, forced) = outcome(&kv(&admin, &["log", "parted", "reapply", "1-9", "--force"]));
    assert!(code == 0 && forced.contains('9'), "{forced}");
    let path = "/replication/parted/1-9/reapply";
    let bodies = [false, true].map(|force| json!({"dry_run": false, "force": force}));
    assert_eq!(admin.asked(), bodies.map(|body| asked("POST", path, body)));
}

#[test]
fn an_empty_list_says_so() {
    let admin = Admin::start(|_| (200, json!([])));
    let (code, text) = outcome(&kv(&admin, &["log", "parted", "list"]));
    assert_eq!((code, text.as_str()), (0, "none\n"));
    assert_eq!(outcome(&kv(&admin, &["-o", "json", "log", "parted", "list"])).1, "[]\n");
}

#[test]
fn the_password_goes_along_and_a_wrong_one_ends_with_5() {
    let admin = Admin::start(|asked| match asked.authorization.as_deref() {
        Some("Bearer s3cret") => (200, json!({})),
        _ => (401, json!({"error": "a password is needed"})),
    });
    let with = |password: &str| {
        let mut command = command("127.0.0.1:1");
        command.env("LARDER_ADMIN", admin.address()).env("LARDER_PASSWORD", password);
        command.args(["replica", "add", "x"]).output().unwrap()
    };
    assert_eq!(with("s3cret").status.code(), Some(0));
    let wrong = with("guess-1");
    assert_eq!(wrong.status.code(), Some(5));
    assert!(stderr(&wrong).contains("a password is needed") && !stderr(&wrong).contains("guess-1"));
}

#[test]
fn an_admin_port_that_is_not_there_ends_with_3_and_a_silent_one_with_4() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = at(&address, &["--timeout-ms", "200", "replica", "list"]);
    assert_eq!(silent.status.code(), Some(4));
    assert!(stderr(&silent).contains("no answer within 200 ms"), "{}", stderr(&silent));
    drop(listener);
    let gone = at(&address, &["replica", "list"]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(stderr(&gone).contains(&address), "{}", stderr(&gone));
}

#[test]
fn answers_of_another_form_are_errors_and_no_panic() {
    for (answer, code) in [
        (&b"-ERR unknown command 'GET'\r\n"[..], 4),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", 4),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", 1),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 1),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"members\":[7]", 1),
        (b"", 4),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut some = [0; 16];
            stream.read_exact(&mut some).unwrap();
            stream.write_all(answer).unwrap();
        });
        let output = at(&address, &["replica", "list"]);
        let shown = String::from_utf8_lossy(answer);
        assert_eq!(output.status.code(), Some(code), "{shown}: {}", stderr(&output));
        server.join().unwrap();
    }
}

#[test]
fn an_answer_without_end_is_not_taken_into_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n").unwrap();
        // Until kv has enough.
        let mut sent = 0_usize;
        while stream.write_all(&[b' '; 1 << 16]).is_ok() {
            sent += 1 << 16;
        }
        sent
    });
    let output = at(&address, &["replica", "list"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(server.join().unwrap() < 256 << 20);
}

#[test]
fn wrong_arguments_of_operators_end_with_2() {
    for arguments in [
        &["replica", "add"][..],
        &["replica", "add", "Node"],
        &["shard", "promote", "--term", "3"],
        &["shard", "switchover"],
        &["shard", "switchover", "a/b"],
        &["log", "parted", "show"],
        &["ca", "issue", "x", "--dir", "a", "--out", "b", "--days", "0"],
        &["ca", "init", "--cluster", "a.b", "--dir", "x"],
        &["playground", "cut", "shenzhen", "shenzhen"],
        &["playground", "cut", "shenzhen", "beijing"],
        &["playground", "--port", "80"],
        &["playground", "--level", "some"],
        &["playground", "--wan", "none", "status"],
    ] {
        let output = at("127.0.0.1:1", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
}
