//! What a configuration may say, and what is refused.

use std::{io::Write as _, os::unix::fs::PermissionsExt as _, time::Duration};

use super::*;

const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kvd.toml"));

fn refusal(text: &str) -> String {
    let source = Source::new("kvd.toml", text.to_owned());
    let refused = source.parse().and_then(|config| config.validate());
    source.locate(refused.expect_err("the configuration is refused")).to_string()
}

#[test]
fn the_example_says_the_defaults() {
    let example = Config::parse(EXAMPLE, "deploy/kvd.toml").expect("the example parses");
    assert_eq!(example, Config::default());
    example.validate().expect("the example is valid");
}

#[test]
fn the_example_names_every_key() {
    let every_key = Config {
        admin: Some(([127, 0, 0, 1], 9).into()),
        requirepass: Some("x".into()),
        requirepass_file: Some("x".into()),
        node: Some(cluster_tests::node("a", &[("b", "east")])),
        replication: ReplicationConfig {
            first_master: larder_types::NodeId::new("a"),
            ..ReplicationConfig::default()
        },
        ..Config::default()
    };
    let printed = every_key.to_toml().expect("the defaults can be printed");
    let known = known_keys();
    for key in printed.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        assert!(EXAMPLE.contains(&format!("{key} = ")), "{key} is not in deploy/kvd.toml");
        assert!(known.iter().any(|(_, known)| known == key), "{key} is never suggested");
    }
}

#[test]
fn what_is_printed_parses_to_the_same() {
    let config = Config {
        admin: Some(([127, 0, 0, 1], 9_121).into()),
        namespace: NamespaceConfig { durability: Durability::Interval(Duration::from_millis(50)) },
        ..Config::default()
    };
    let printed = config.to_toml().expect("it can be printed");
    assert_eq!(Config::parse(&printed, "printed").expect("it parses"), config);
}

#[test]
fn a_misspelt_key_is_refused_with_its_place_and_the_right_one() {
    let message = refusal("data = \"/d\"\n[log]\n  segment_byte = 1\n");
    assert!(message.starts_with("kvd.toml:3:3: unknown field `segment_byte`"), "{message}");
    assert!(message.ends_with("did you mean `segment_bytes`?"), "{message}");
    let message = refusal("[tracing]\nformat = \"jsn\"\n");
    assert!(message.contains(":2:") && message.ends_with("did you mean `json`?"), "{message}");
    let message = refusal("zzz = 1");
    assert!(!message.contains("did you mean"), "{message}");
}

#[test]
fn a_key_of_another_table_is_refused_with_the_table_it_belongs_to() {
    let message = refusal("segment_bytes = 1");
    assert!(message.ends_with("did you mean `segment_bytes` in [log]?"), "{message}");
    let message = refusal("[log]\nrequire_pass = \"x\"");
    assert!(message.ends_with("did you mean `requirepass`, above all tables?"), "{message}");
    let message = refusal("[[node.peers]]\nresp = \"127.0.0.1:1\"\nadress = \"x\"");
    assert!(message.ends_with("did you mean `address`?"), "{message}");
}

#[test]
fn values_that_do_not_fit_name_their_place_and_key() {
    let starts = |text: &str, start: &str| {
        let message = refusal(text);
        assert!(message.starts_with(start), "{message}");
    };
    starts("\n max_clients = 0", "kvd.toml:2:2: max_clients: 0 is not between 1");
    starts("[log]\nsegment_bytes = 5", "kvd.toml:2:1: log.segment_bytes: 5 is not between");
    starts("log.segment_bytes = 5", "kvd.toml:1:5: log.segment_bytes: 5 is not between");
    starts("[state]\nhot_cache_bytes = \"32 TiB\"", "kvd.toml:2:1: state.hot_cache_bytes: ");
    starts("[log]\nreserve_bytes = \"32 TiB\"", "kvd.toml:2:1: log.reserve_bytes: ");
    starts("[tracing]\nlevel = \"debugg\"", "kvd.toml:2:1: tracing.level: \"debugg\" is neither");
    starts("\nresp = \"here\"", "kvd.toml:2:8: resp: invalid socket address syntax");
    starts("resp = \"0.0.0.0:7000\"", "kvd.toml:1:1: resp = \"0.0.0.0:7000\": others can reach");
    starts("[log]\nsegment_bytes = -5", "kvd.toml:2:17: log.segment_bytes: ");
    let peer = "[node]\nid = \"a\"\n[[node.peers]]\nid = \"b\"\nresp = \"there\"";
    starts(peer, "kvd.toml:5:8: node.peers.resp: invalid socket address syntax");
    // A key that is missing has the place of its table.
    starts("\n[replication]\nlevel = \"all\"", "kvd.toml:2:2: replication: there is no [node]");
}

#[test]
fn one_address_is_not_listened_on_twice() {
    let both = |resp: &str, admin: &str| {
        format!("requirepass = \"x\"\nresp = \"{resp}\"\nadmin = \"{admin}\"")
    };
    for admin in ["127.0.0.1:7000", "0.0.0.0:7000"] {
        let message = refusal(&both("127.0.0.1:7000", admin));
        assert!(message.starts_with("kvd.toml:3:1: admin: resp has this port too"), "{message}");
    }
    for (resp, admin) in [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:7000", "127.0.0.2:7000")] {
        let config = Config::parse(&both(resp, admin), "x").expect("it parses");
        config.validate().expect("it is accepted");
    }
}

#[test]
fn values_out_of_bounds_say_what_is_expected() {
    assert!(refusal("[log]\nsegment_bytes = -5").contains("expected a number of bytes"));
    assert!(refusal("[log]\nsegment_bytes = \"5 apples\"").contains("write 67108864 or"));
    assert!(refusal("[namespace]\ndurability = \"interval:0\"").contains("no durability"));
}

#[test]
fn what_would_take_too_long_to_open_after_a_crash_is_refused_with_the_most_that_does_not() {
    for (table, key, most) in [
        ("log", "segment_bytes", SEGMENT_BYTES_MAX),
        ("state", "layer_bytes", LAYER_BYTES_MAX),
        ("state", "unapplied_bytes_max", UNAPPLIED_BYTES_MAX),
    ] {
        let unapplied = format!("unapplied_bytes_max = {UNAPPLIED_BYTES_MAX}\n");
        let others = if key == "layer_bytes" { unapplied.as_str() } else { "" };
        let text = |value: u64| format!("[{table}]\n{others}{key} = {value}");
        let config = Config::parse(&text(most), "x").expect("it parses");
        config.validate().expect("it is accepted");
        let (beyond, line) = (most + 1, 2 + others.lines().count());
        let expected = format!(
            "kvd.toml:{line}:1: {table}.{key}: {beyond} is more than {most}, up to which a start \
             after a crash takes less than 5 s; write \"{} MiB\" or less",
            most >> 20
        );
        assert_eq!(refusal(&text(beyond)), expected);
    }
}

#[test]
fn sizes_are_integers_or_have_a_unit() {
    let config = Config::parse("[log]\nsegment_bytes = \"128 MiB\"\nreserve_bytes = 1024", "x");
    let config = config.expect("it parses");
    assert_eq!(config.log.segment_bytes, ByteSize(128 << 20));
    assert_eq!(config.log.reserve_bytes, ByteSize(1 << 10));
    assert!("99999999999 TiB".parse::<ByteSize>().is_err());
}

#[test]
fn an_address_that_others_reach_needs_a_password() {
    for key in ["resp", "admin"] {
        let message = refusal(&format!("{key} = \"0.0.0.0:7000\""));
        assert!(message.contains("no password is set"), "{message}");
        let with = format!("{key} = \"0.0.0.0:7000\"\nrequirepass = \"secret\"");
        Config::parse(&with, "x").and_then(|config| config.validate()).expect("it is accepted");
        let empty = format!("{key} = \"[::]:7000\"\nrequirepass = \"\"");
        assert!(refusal(&empty).contains("no password is set"));
    }
}

#[test]
fn a_password_file_is_read_when_only_its_owner_can() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"secret\r\nsecond line\n").expect("written");
    let config = Config { requirepass_file: Some(file.path().to_owned()), ..Config::default() };
    let password = config.password().expect("it is read").expect("there is one");
    assert!(password.matches(b"secret") && !password.matches(b"secret\r"));
    assert!(!password.matches(b"") && !format!("{password:?}").contains("secret"));

    let readable = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(file.path(), readable).expect("the mode is changed");
    let message = config.password().expect_err("others can read it").to_string();
    assert!(message.contains("chmod 600"), "{message}");
}

#[test]
fn two_passwords_or_an_empty_file_are_refused() {
    assert!(refusal("requirepass = \"a\"\nrequirepass_file = \"/b\"").contains("keep one"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display();
    assert!(refusal(&format!("requirepass_file = \"{path}\"")).contains("is empty"));
}

#[test]
fn a_password_file_that_is_too_large_is_refused_and_not_cut() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_owned();
    let line = "p".repeat(4_096);
    file.write_all(line.as_bytes()).expect("written");
    let config = Config { requirepass_file: Some(path.clone()), ..Config::default() };
    let password = config.password().expect("it is read").expect("there is one");
    assert!(password.matches(line.as_bytes()));
    file.write_all(b"p").expect("written");
    let refused = refusal(&format!("requirepass_file = \"{}\"", path.display()));
    assert!(refused.contains("is larger than 4096 bytes"), "{refused}");
}

#[test]
fn a_password_is_not_printed() {
    let config = Config { requirepass: Some("secret".into()), ..Config::default() };
    assert!(!config.to_toml().expect("it is printed").contains("secret"));
}
