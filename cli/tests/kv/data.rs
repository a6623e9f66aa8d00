//! `kv` for people and scripts, against a real redis-server and a real kvd.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;

use crate::support::{command, kv, outcome, servers, servers_with, stderr};
use serde_json::Value as Json;

fn ok(text: &str) -> (i32, String) {
    (0, text.to_owned())
}

fn json(output: &std::process::Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_value_is_set_read_and_deleted() {
    for server in servers() {
        assert_eq!(outcome(&server.kv(&["set", "a", "hello world"])), ok("OK\n"));
        assert_eq!(outcome(&server.kv(&["get", "a"])), ok("hello world"));
        assert_eq!(outcome(&server.kv(&["del", "a", "b"])), ok("deleted 1 of 2\n"));
        let missing = server.kv(&["get", "a"]);
        assert_eq!(outcome(&missing), (1, String::new()));
        assert!(stderr(&missing).contains("no such key: a"));
        assert_eq!(server.kv(&["del", "a", "b"]).status.code(), Some(1));
    }
}

#[test]
fn any_bytes_come_back_as_they_were() {
    for server in servers() {
        let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let address = server.address();
        assert_eq!(outcome(&kv(address, &["set", "bin", "--stdin"], &all)), ok("OK\n"));
        assert_eq!(server.kv(&["get", "bin"]).stdout, all);
        assert_eq!(server.kv(&["get", "bin", "--raw"]).stdout, all);
        kv(address, &["set", "short", "--stdin"], b"\xff\0\n");
        let shown = json(&server.kv(&["-o", "json", "get", "short"]));
        assert_eq!(shown, serde_json::json!({"key": "short", "value_base64": "/wAK"}));
        kv(address, &["set", "empty", "--stdin"], b"");
        assert_eq!(outcome(&server.kv(&["get", "empty"])), ok(""));
    }
}

#[test]
fn a_key_of_any_bytes_is_reached() {
    use std::os::unix::ffi::OsStrExt;
    for server in servers() {
        let key = std::ffi::OsStr::from_bytes(b"\xff\xfe");
        let set = command(server.address()).arg("set").arg(key).arg("v").status().unwrap();
        assert!(set.success());
        let line = json(&server.kv(&["-o", "json", "scan"]));
        assert_eq!(line, serde_json::json!({"key_base64": "//4="}));
    }
}

#[test]
fn conditions_decide_and_the_exit_code_says_so() {
    for server in servers() {
        assert_eq!(server.kv(&["set", "k", "1", "--xx"]).status.code(), Some(1));
        assert_eq!(server.kv(&["set", "k", "1", "--nx"]).status.code(), Some(0));
        let second = server.kv(&["set", "k", "2", "--nx"]);
        assert_eq!(second.status.code(), Some(1));
        assert!(stderr(&second).contains("k exists already"));
        assert_eq!(outcome(&server.kv(&["set", "k", "3", "--nx", "--get"])), (1, "1".to_owned()));
        assert_eq!(outcome(&server.kv(&["set", "k", "4", "--xx", "--get"])), ok("1"));
        assert_eq!(outcome(&server.kv(&["set", "new", "5", "--get"])), ok(""));
        let shown = json(&server.kv(&["-o", "json", "set", "k", "6", "--nx", "--get"]));
        assert_eq!(shown, serde_json::json!({"key": "k", "stored": false, "previous": "4"}));
        assert_eq!(outcome(&server.kv(&["get", "k"])), ok("4"));
    }
}

#[test]
fn expiry_is_set_and_kept() {
    for server in servers() {
        server.kv(&["set", "a", "1", "--ex", "1000"]);
        server.kv(&["set", "b", "1", "--px", "1000000"]);
        server.kv(&["set", "a", "2", "--keepttl"]);
        let mut raw = server.raw();
        for key in ["a", "b"] {
            let ttl: i64 = raw.ask(&format!("TTL {key}"))[1..].parse().unwrap();
            assert!((900..=1000).contains(&ttl), "{key}: {ttl}");
        }
    }
}

#[test]
fn scan_lists_every_key_once_and_filters() {
    for server in servers() {
        let mut raw = server.raw();
        let expected: BTreeSet<String> = (0..2500).map(|n| format!("user:{n}")).collect();
        raw.ask_all(expected.iter().map(|key| format!("SET {key} v")));
        raw.ask("HSET other f v");
        let lines = |arguments: &[&str]| -> Vec<String> {
            let (code, text) = outcome(&server.kv(arguments));
            assert_eq!(code, 0);
            text.lines().map(str::to_owned).collect()
        };
        let listed = lines(&["scan", "--match", "user:*", "--count", "100"]);
        assert_eq!(listed.len(), expected.len());
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(lines(&["scan", "--type", "hash"]), ["other"]);
        assert_eq!(lines(&["scan", "--limit", "7"]).len(), 7);
        assert_eq!(lines(&["scan", "--match", "nothing*"]), Vec::<String>::new());
    }
}

#[test]
fn scan_shows_type_and_time_to_live() {
    for server in servers() {
        let mut raw = server.raw();
        raw.ask("SET s v PX 1000000");
        raw.ask("HSET h f v");
        let (code, table) = outcome(&server.kv(&["scan", "--long"]));
        assert_eq!(code, 0);
        for word in ["key", "type", "expires in", "hash", "string", "never", " 99"] {
            assert!(table.contains(word), "{word} in\n{table}");
        }
        let (_, lines) = outcome(&server.kv(&["-o", "json", "scan", "--long"]));
        let mut lines: Vec<Json> =
            lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        lines.sort_by_key(|line| line["key"].to_string());
        assert_eq!(lines[0], serde_json::json!({"key": "h", "type": "hash", "ttl_ms": null}));
        assert_eq!(lines[1]["type"], "string");
        assert!((900_000..=1_000_000).contains(&lines[1]["ttl_ms"].as_i64().unwrap()));
    }
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    for server in servers() {
        let mut raw = server.raw();
        let key = "a-rather-long-key-so-that-no-pipe-holds-all-of-them";
        raw.ask_all((0..20_000).map(|n| format!("SET {key}:{n} v")));
        let mut child = command(server.address())
            .arg("scan")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut few = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut few).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    }
}

#[test]
fn ping_and_info_answer() {
    for server in servers() {
        let (code, line) = outcome(&server.kv(&["ping"]));
        assert!(
            code == 0 && line.starts_with(&format!("PONG from {}", server.address())),
            "{line}"
        );
        assert!(json(&server.kv(&["-o", "json", "ping"]))["latency_us"].is_u64());
        let info = json(&server.kv(&["-o", "json", "info"]));
        assert_eq!(info["server"]["tcp_port"], server.address().rsplit_once(':').unwrap().1);
        let (_, table) = outcome(&server.kv(&["info", "server"]));
        assert!(table.contains("tcp_port") && !table.contains("used_memory"), "{table}");
        assert_eq!(server.kv(&["info", "nosuch"]).status.code(), Some(1));
    }
}

#[test]
fn errors_of_the_server_end_with_1() {
    for server in servers() {
        server.raw().ask("HSET h f v");
        let wrong = server.kv(&["get", "h"]);
        assert_eq!(wrong.status.code(), Some(1));
        assert!(stderr(&wrong).contains("WRONGTYPE"), "{}", stderr(&wrong));
    }
}

#[test]
fn credentials_are_taken_from_the_environment_and_never_shown() {
    for server in servers_with("s3cret") {
        let with = |password: &str, arguments: &[&str]| {
            let mut command = command(server.address());
            command.env("LARDER_PASSWORD", password).args(arguments).output().unwrap()
        };
        assert_eq!(with("s3cret", &["set", "k", "v"]).status.code(), Some(0));
        assert_eq!(with("s3cret", &["--user", "default", "get", "k"]).stdout, b"v");
        assert_eq!(server.kv(&["--password", "s3cret", "get", "k"]).stdout, b"v");
        assert_eq!(server.kv(&["get", "k"]).status.code(), Some(5));
        let wrong = with("guess-1", &["get", "k"]);
        assert_eq!(wrong.status.code(), Some(5));
        assert!(stderr(&wrong).contains("WRONGPASS") && !stderr(&wrong).contains("guess-1"));
        let help = with("s3cret", &["--help"]);
        assert!(outcome(&help).1.contains("LARDER_PASSWORD"));
        assert!(!outcome(&help).1.contains("s3cret"));
        assert_eq!(server.kv(&["--user", "default", "ping"]).status.code(), Some(2));
    }
}

#[test]
fn a_server_that_is_not_there_ends_with_3() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for arguments in [&["ping"][..], &["bench", "--seconds", "1", "--connections", "2"]] {
        let output = kv(&address, arguments, b"");
        assert_eq!(output.status.code(), Some(3));
        assert!(stderr(&output).contains(&address), "{}", stderr(&output));
    }
}

#[test]
fn a_connection_lost_before_the_reply_ends_with_4() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut some = [0; 16];
        stream.read_exact(&mut some).unwrap();
    });
    let output = kv(&address, &["set", "k", "v"], b"");
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("may or may not have taken place"));
    server.join().unwrap();
}

#[test]
fn a_server_that_says_nothing_ends_with_4_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let started = std::time::Instant::now();
    let output = kv(&address, &["--timeout-ms", "200", "ping"], b"");
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("no answer within 200 ms"));
    assert!(started.elapsed().as_secs() < 10);
    drop(listener);
}

#[test]
fn a_peer_that_speaks_something_else_is_an_error_and_no_panic() {
    let replies: [&[u8]; 4] =
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-7\r\n", b"*99999999999\r\n", b"\xff\xff\xff"];
    for reply in replies {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(reply).unwrap();
            // Until kv closes: a reset before it has read would be another situation.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let output = kv(&address, &["--timeout-ms", "2000", "scan"], b"");
        assert_eq!(output.status.code(), Some(4), "{reply:?}: {}", stderr(&output));
        server.join().unwrap();
    }
}

#[test]
fn wrong_arguments_end_with_2() {
    for arguments in [&["get"][..], &["--server", "nowhere", "ping"], &["frobnicate"]] {
        assert_eq!(kv("127.0.0.1:1", arguments, b"").status.code(), Some(2));
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = outcome(&kv("127.0.0.1:1", &["completion", shell], b""));
        assert!(code == 0 && script.contains("bench") && script.contains("playground"), "{shell}");
    }
}
