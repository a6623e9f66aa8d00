//! kvd as a process: what it answers, where it refuses to start, and what its exit codes say.

use std::{fs, path::Path};

use crate::support::{Kvd, ended};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).expect("copied");
        }
    }
}

#[test]
fn a_client_that_wants_no_replies_gets_none_to_its_quit_either() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    for mode in ["OFF", "SKIP"] {
        let mut client = node.client();
        assert_eq!(client.ask("PING"), "+PONG");
        assert_eq!(client.try_ask(&format!("CLIENT REPLY {mode}\r\nQUIT")), None, "{mode}");
    }
    let mut client = node.client();
    assert_eq!((client.ask("QUIT"), client.line()), ("+OK".to_owned(), String::new()));
}

#[test]
fn a_node_serves_tells_of_itself_and_finds_its_data_again() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    assert_eq!(client.ask("SET greeting hello"), "+OK");
    assert_eq!(client.ask("HSET numbers one 1 two 2"), ":2");
    let token = (client.ask("KV.TOKEN"), client.line()).1;
    let parts: Vec<&str> = token.split(':').collect();
    assert!(
        matches!(parts[..], [log, epoch, "3"] if log.len() == 32 && epoch.starts_with("1.1-")),
        "{token}"
    );
    assert_eq!(node.client().ask("KV.TOKEN"), "$-1", "a connection that has not written has none");
    assert!(node.http("/healthz").ends_with("ok\n"));
    assert!(node.http("/readyz").ends_with("ready\n"));
    let metrics = node.http("/metrics");
    for metric in [
        "larder_log_appended_seq 3",
        "larder_log_durable_seq 3",
        "larder_log_committed_seq 3",
        "larder_log_visible_seq 3",
        "larder_state_applied_seq ",
        "larder_state_persisted_seq ",
        "larder_log_trimmed_seq ",
        "larder_log_fsync_seconds_bucket{le=\"+Inf\"} ",
        "larder_resp_commands_total{command=\"hset\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(metric), "{metric} is not in {metrics}");
    }
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log:?}");
    assert_eq!(client.line(), "", "the connection is closed");

    let again = Kvd::start(data.path(), &[]);
    let mut client = again.client();
    assert_eq!((client.ask("GET greeting"), client.line()), ("$5".into(), "hello".into()));
    assert_eq!((client.ask("HGET numbers two"), client.line()), ("$1".into(), "2".into()));
    assert!(again.http("/metrics").contains("larder_opening_replayed_records 0\n"));
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let data = tempfile::tempdir().expect("a directory");
    let _node = Kvd::start(data.path(), &[]);
    let path = data.path().to_str().expect("a path in UTF-8");
    let (code, text) = ended(&["--data", path, "--resp", "127.0.0.1:0"]);
    assert!(code == 73 && text.contains("in use"), "{code}: {text}");
    let (code, text) = ended(&["inspect", "log", "--data", path]);
    assert!(code == 73 && text.contains("in use"), "{code}: {text}");
}

#[test]
fn wrong_command_lines_and_configurations_have_codes_of_their_own() {
    let (code, text) = ended(&["--no-such-option"]);
    assert!(code == 64 && text.contains("--no-such-option"), "{code}: {text}");
    let (code, text) = ended(&["--resp", "0.0.0.0:0"]);
    assert!(code == 78 && text.contains("no password is set"), "{code}: {text}");

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kvd.toml");
    fs::write(&file, "[log]\nsegment_byte = 1\n").expect("written");
    let path = file.to_str().expect("a path in UTF-8");
    let (code, text) = ended(&["--config", path, "--check-config"]);
    assert!(code == 78 && text.contains("kvd.toml:2:1"), "{code}: {text}");
    assert!(text.contains("did you mean `segment_bytes`?"), "{text}");

    fs::write(&file, "\n[tracing]\nlevel = \"debugg\"\n").expect("written");
    let (code, text) = ended(&["--config", path, "--check-config"]);
    assert!(code == 78 && text.contains("kvd.toml:3:1: tracing.level: "), "{code}: {text}");
    fs::write(&file, "resp = \"127.0.0.1:7000\"\n").expect("written");
    let (code, text) = ended(&["--config", path, "--admin", "127.0.0.1:7000", "--check-config"]);
    assert!(code == 78 && text.contains("kvd: admin: resp has this port"), "{code}: {text}");

    fs::write(&file, "max_clients = 7\n").expect("written");
    let (code, text) = ended(&["--config", path, "--durability", "interval:20", "--check-config"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("max_clients = 7") && text.contains("\"interval:20\""), "{text}");
    let (code, text) = ended(&["--print-default-config"]);
    assert!(code == 0 && text.contains("max_clients = 10000"), "{code}: {text}");
    assert_eq!(ended(&["--help"]).0, 0);
}

#[test]
fn a_flipped_bit_in_the_log_is_refused_with_its_place() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    for number in 0..20 {
        assert_eq!(client.ask(&format!("SET key:{number} some-value-of-{number}")), "+OK");
    }
    assert_eq!(node.stop().0, Some(0));
    let path = data.path().to_str().expect("a path in UTF-8");
    let (code, text) = ended(&["inspect", "log", "--data", path, "--verify"]);
    assert!(code == 0 && text.contains("every record decodes"), "{code}: {text}");
    let (code, text) = ended(&["inspect", "log", "--data", path, "--from", "3", "--limit", "1"]);
    assert!(code == 0 && text.contains("put \"key:1\""), "{code}: {text}");
    let (code, text) = ended(&["inspect", "state", "--data", path, "--verify", "-o", "json"]);
    assert!(code == 0 && text.contains("\"strings\":20"), "{code}: {text}");

    let segments = fs::read_dir(data.path().join("log")).expect("a log");
    let segment = segments.map(|entry| entry.expect("an entry").path()).min().expect("a segment");
    let mut bytes = fs::read(&segment).expect("it is readable");
    let place = bytes.windows(15).position(|part| part == b"some-value-of-5").expect("it is there");
    bytes[place] ^= 0x10;
    fs::write(&segment, bytes).expect("written");
    let (code, text) = ended(&["inspect", "log", "--data", path, "--verify"]);
    assert!(code == 65 && text.contains("damaged at offset"), "{code}: {text}");
    let (code, text) = ended(&["--data", path, "--resp", "127.0.0.1:0"]);
    assert!(code == 65 && text.contains("damaged at offset"), "{code}: {text}");
}

#[test]
fn a_data_directory_of_version_1_is_inspected_and_served() {
    let data = tempfile::tempdir().expect("a directory");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/fixtures/data-v1");
    copy(&fixture, data.path());
    let path = data.path().to_str().expect("a path in UTF-8");
    let (code, text) = ended(&["inspect", "log", "--data", path, "--verify"]);
    assert!(code == 0 && text.contains("every record decodes"), "{code}: {text}");
    assert!(text.contains("11 (from 1 to before 12)"), "{text}");
    let (code, text) = ended(&["inspect", "state", "--data", path, "--verify", "-o", "json"]);
    assert!(code == 0 && text.contains("\"strings\":3"), "{code}: {text}");

    let node = Kvd::start(data.path(), &[]);
    let mut client = node.client();
    assert_eq!((client.ask("GET string"), client.line()), ("$7".into(), "another".into()));
    assert_eq!((client.ask("HGET hash three"), client.line()), ("$1".into(), "3".into()));
    assert_eq!(client.ask("PEXPIRETIME expiring"), ":4102444800000");
    assert_eq!(client.ask("EXISTS gone torn"), ":0");
    assert_eq!(client.ask("DBSIZE"), ":4");
    assert!(node.http("/metrics").contains("larder_opening_replayed_records 6\n"));
}

#[test]
fn a_client_is_shown_to_others_with_the_subcommand_it_ran_last() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Kvd::start(data.path(), &[]);
    let (mut shown, mut other) = (node.client(), node.client());
    for (command, named) in [
        ("CLIENT SETNAME it", " cmd=client|setname "),
        ("CONFIG RESETSTAT", " cmd=config|resetstat "),
        ("ECHO it", " cmd=echo "),
    ] {
        shown.ask(command);
        if command.starts_with("ECHO") {
            shown.line();
        }
        other.ask("CLIENT LIST");
        let lines = [other.line(), other.line(), other.line()];
        let line = lines.iter().find(|line| line.contains(" name=it ")).expect("it is named");
        assert!(line.contains(named), "{line}");
    }
}

#[test]
fn a_client_too_many_is_told_so() {
    let data = tempfile::tempdir().expect("a directory");
    let file = data.path().join("kvd.toml");
    fs::write(&file, "max_clients = 1\n").expect("written");
    let path = file.to_str().expect("a path in UTF-8");
    let node = Kvd::start(&data.path().join("data"), &["--config", path]);
    let mut first = node.client();
    assert_eq!(first.ask("PING"), "+PONG");
    assert_eq!(node.client().line(), "-ERR max number of clients reached");
    assert_eq!(first.ask("PING"), "+PONG");
    assert!(node.http("/metrics").contains("larder_resp_connections_refused_total 1\n"));
}

#[test]
fn a_password_is_asked_for_and_can_be_changed() {
    let data = tempfile::tempdir().expect("a directory");
    let file = data.path().join("kvd.toml");
    fs::write(&file, "requirepass = \"secret\"\n").expect("written");
    let path = file.to_str().expect("a path in UTF-8");
    let node = Kvd::start(&data.path().join("data"), &["--config", path]);
    let mut client = node.client();
    assert_eq!(client.ask("GET x"), "-NOAUTH Authentication required.");
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(client.ask("AUTH wrong"), wrong);
    assert_eq!(client.ask("AUTH other secret"), wrong);
    assert!(client.ask("HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(client.ask("AUTH secret"), "+OK");
    assert_eq!(client.ask("GET x"), "$-1");
    assert_eq!(client.ask("CONFIG SET requirepass other"), "+OK");
    assert_eq!(client.ask("GET x"), "$-1", "who has authenticated stays so");
    let mut second = node.client();
    assert_eq!(second.ask("AUTH secret"), wrong);
    assert_eq!(second.ask("AUTH default other"), "+OK");
    assert!(node.http("/metrics").contains("larder_resp_authentications_failed_total 3\n"));
}

/// How many tables of this node's state RocksDB may have open, by what it notes of its options.
fn tables_open_max(data: &Path) -> u64 {
    let files = fs::read_dir(data.join("state")).expect("a state").flatten();
    let notes = files.filter(|file| file.file_name().to_string_lossy().starts_with("OPTIONS-"));
    let note = notes.map(|file| file.path()).max().expect("RocksDB notes its options");
    let text = fs::read_to_string(note).expect("it is readable");
    let value = text.lines().find_map(|line| line.trim().strip_prefix("max_open_files="));
    value.expect("it is noted").parse().expect("a bound")
}

#[test]
fn a_node_takes_all_open_files_that_the_system_allows_and_gives_tables_what_clients_leave() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kvd.toml");
    let config = file.to_str().expect("a path in UTF-8");
    // Of 4,096, beside 1,024 for all else.
    for (max_clients, fit, tables) in [(100, 100, 2_972), (10_000, 2_816, 256)] {
        fs::write(&file, format!("max_clients = {max_clients}\n")).expect("written");
        let data = directory.path().join(fit.to_string());
        let node =
            Kvd::start_behind("ulimit -n 4096 && ulimit -Sn 512", &data, &["--config", config]);
        assert_eq!(node.open_files_max(), 4_096);
        assert_eq!(node.client().info("clients", "maxclients"), fit);
        assert_eq!(tables_open_max(&data), tables);
    }
}
