//! `kv bench` against a real redis-server and a real kvd: does it ask what it says, and measure what a user waits?

use std::net::TcpListener;
use std::process::{Child, Stdio};

use crate::support::{Raw, Server, command, kv, outcome, servers, stderr};
use serde_json::Value as Json;

/// What a file holds before a report is written to it: longer than one.
static OLDER_REPORT: [u8; 100_000] = [b'x'; 100_000];

/// How long the server is stopped in the tests of latency, milliseconds.
const PAUSE_MS: u64 = 1000;

fn spawn(server: &Server, arguments: &[&str]) -> Child {
    command(server.address())
        .args(["-o", "json", "bench", "--runs", "1", "--warmup-seconds", "0", "--keys", "1000"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn report(child: Child) -> Json {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn wait_for_load(raw: &mut Raw) {
    // SETs and GETs, because INFO itself is counted among the commands.
    raw.wait_for_info("commandstats", |info| {
        let calls = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.split([',', '=']).nth(1)?.parse::<u64>().ok()
        };
        calls("cmdstat_set:").unwrap_or(0) + calls("cmdstat_get:").unwrap_or(0) > 300
    });
}

/// Loads a server, stops it for [`PAUSE_MS`] meanwhile, and gives the report.
fn report_of_a_stopped_server(arguments: &[&str]) -> Json {
    let redis = Server::redis(&[]).expect("the caller has looked");
    let mut raw = redis.raw();
    let child = spawn(&redis, arguments);
    wait_for_load(&mut raw);
    assert_eq!(raw.ask(&format!("CLIENT PAUSE {PAUSE_MS} ALL")), "+OK");
    report(child)
}

#[test]
fn the_rate_is_kept_and_every_request_is_counted() {
    for server in servers() {
        let arguments = ["--rate", "2000", "--connections", "7", "--seconds", "2", "--populate"];
        let report = report(spawn(&server, &arguments));
        let run = &report["runs"][0];
        let (reads, writes) =
            (run["reads"]["count"].as_u64().unwrap(), run["writes"]["count"].as_u64().unwrap());
        // An open loop sends what its schedule says: no more, and, however slow the machine, no less.
        let left = run["unsent"].as_u64().unwrap() + run["unanswered"].as_u64().unwrap();
        assert_eq!(reads + writes + left, 4000);
        assert!(reads > 1700 && writes > 1700, "{reads} reads, {writes} writes");
        assert_eq!(run["reads_missing"], 0);
        assert_eq!(report["settings"]["rate"], 2000);
        let mut raw = server.raw();
        assert_eq!(raw.ask("DBSIZE"), ":1000");
        assert_eq!(raw.ask("STRLEN key:000000000999"), ":64");
    }
}

#[test]
fn an_open_loop_counts_the_waiting_of_requests_that_a_stopped_server_kept_from_being_sent() {
    if Server::redis(&[]).is_none() {
        return;
    }
    let arguments = ["--rate", "1000", "--connections", "5", "--seconds", "3"];
    let report = report_of_a_stopped_server(&arguments);
    // A third of all requests are due while the server stands; a sixth wait half of it or longer.
    for kind in ["reads", "writes"] {
        let p90 = report["runs"][0][kind]["p90_us"].as_u64().unwrap();
        assert!(p90 > PAUSE_MS * 1000 / 2, "{kind}: p90 {p90} us");
    }
}

#[test]
fn a_closed_loop_does_not_see_that_waiting_and_says_so() {
    if Server::redis(&[]).is_none() {
        return;
    }
    let arguments = ["--rate", "0", "--connections", "5", "--seconds", "3"];
    let report = report_of_a_stopped_server(&arguments);
    let writes = &report["runs"][0]["writes"];
    assert!(writes["max_us"].as_u64().unwrap() > PAUSE_MS * 1000 * 9 / 10, "{writes}");
    assert!(writes["p99_us"].as_u64().unwrap() < PAUSE_MS * 1000 / 2, "{writes}");
    assert!(report["latency_is"].as_str().unwrap().starts_with("service time"));
}

#[test]
fn a_rate_beyond_the_server_is_warned_about() {
    for server in servers() {
        let load = ["--rate", "50000000", "--connections", "2", "--seconds", "1"];
        let arguments = [&load[..], &["--timeout-ms", "300"]].concat();
        let output = spawn(&server, &arguments).wait_with_output().unwrap();
        let warned = stderr(&output);
        assert!(warned.contains("of 50000000 asked"), "{warned}");
        assert!(warned.contains("were due and never sent"), "{warned}");
    }
}

#[test]
fn errors_are_counted_by_their_first_word() {
    let Some(redis) = Server::redis(&["--maxmemory", "1"]) else { return };
    let arguments = ["--rate", "500", "--connections", "2", "--seconds", "1"];
    let output = spawn(&redis, &arguments).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Json = serde_json::from_slice(&output.stdout).unwrap();
    let run = &report["runs"][0];
    let refused = run["errors"]["OOM"].as_u64().unwrap();
    assert!(refused > 150, "{run}");
    assert_eq!(refused + run["reads"]["count"].as_u64().unwrap(), 500);
    assert_eq!(run["writes"]["count"], 0);
    assert!(stderr(&output).contains("failed with OOM"));
}

#[test]
fn a_lost_connection_is_counted_and_made_again() {
    let Some(redis) = Server::redis(&[]) else { return };
    let mut raw = redis.raw();
    let child = spawn(&redis, &["--rate", "1000", "--connections", "4", "--seconds", "3"]);
    wait_for_load(&mut raw);
    assert_eq!(raw.ask("CLIENT KILL TYPE normal SKIPME yes"), ":4");
    let output = child.wait_with_output().unwrap();
    let report: Json = serde_json::from_slice(&output.stdout).unwrap();
    let run = &report["runs"][0];
    assert_eq!(run["connections_lost"], 4);
    let lost = run["errors"]["LOST"].as_u64().unwrap_or(0);
    assert_eq!(output.status.code(), Some(1), "whether a request waited or not");
    assert!(stderr(&output).contains("4 connections were lost"), "{}", stderr(&output));
    let answered =
        run["reads"]["count"].as_u64().unwrap() + run["writes"]["count"].as_u64().unwrap();
    let left = run["unsent"].as_u64().unwrap() + run["unanswered"].as_u64().unwrap();
    assert_eq!(answered + lost + left, 3000);
    assert!(answered > 2500, "{answered} answered");
}

#[test]
fn large_values_in_a_deep_pipeline_do_not_come_to_a_halt() {
    for server in servers() {
        let arguments = ["--rate", "0", "--connections", "2", "--pipeline", "16", "--seconds", "1"];
        let large = ["--value-size", "1000000", "--keys", "20", "--populate"];
        let mut child = command(server.address());
        child.args(["-o", "json", "bench", "--runs", "1", "--warmup-seconds", "0"]);
        let child = child.args(arguments).args(large).stdout(Stdio::piped()).spawn().unwrap();
        let report = report(child);
        assert!(report["runs"][0]["reads"]["count"].as_u64().unwrap() > 10);
        assert!(report["runs"][0]["writes"]["count"].as_u64().unwrap() > 10);
        assert_eq!(report["runs"][0]["unanswered"], 0);
    }
}

#[test]
fn people_get_a_line_a_run_and_a_table_and_a_file_for_programs() {
    for server in servers() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("report.json");
        let path = path.to_str().unwrap();
        std::fs::write(path, OLDER_REPORT).unwrap();
        let arguments = ["bench", "--rate", "500", "--seconds", "1", "--runs", "2", "--keys", "10"];
        let output =
            server.kv(&[&arguments[..], &["--warmup-seconds", "0", "--json", path]].concat());
        let (code, text) = outcome(&output);
        assert_eq!(code, 0, "{}", stderr(&output));
        for part in ["run 1/2: ", "run 2/2: ", "p99.9", "read", "write", "intended start"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let report: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(report["runs"].as_array().unwrap().len(), 2);
        assert_eq!(report["settings"]["keys"], 10);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_load() {
    for server in servers() {
        let output =
            server.kv(&["bench", "--seconds", "3600", "--json", "/nonexistent/report.json"]);
        assert_eq!(output.status.code(), Some(6));
        assert!(stderr(&output).contains("/nonexistent/report.json"));
    }
}

#[test]
fn a_report_stays_until_there_is_another() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("report.json");
    std::fs::write(&path, OLDER_REPORT).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = kv(&closed, &["bench", "--json", path.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(std::fs::read(path).unwrap() == OLDER_REPORT);
}

#[test]
fn a_report_can_be_written_to_a_pipe() {
    for server in servers() {
        let arguments = ["bench", "--rate", "100", "--seconds", "1", "--runs", "1"];
        let more = ["--warmup-seconds", "0", "--json", "/dev/stdout"];
        let (code, text) = outcome(&server.kv(&[&arguments[..], &more].concat()));
        assert!(code == 0 && text.contains("\n}\nall 1 runs: "), "{text}");
    }
}
