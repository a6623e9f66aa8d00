//! Where Larder refuses what Redis takes: the documented limits, hit one by one.

use larder_tests::client::encoded;
use larder_tests::process::skip;

const KEY_BYTES_MAX: usize = 64 << 10;
const VALUE_BYTES_MAX: usize = 8 << 20;

type Command = Vec<Vec<u8>>;

fn command(parts: &[&[u8]]) -> Command {
    parts.iter().map(|part| part.to_vec()).collect()
}

/// Commands that reach a limit exactly, each beside one that passes it by one byte.
fn edges() -> Vec<(Command, Command)> {
    let long = |length: usize| vec![b'x'; length];
    let (key, key_over) = (long(KEY_BYTES_MAX), long(KEY_BYTES_MAX + 1));
    let (value, value_over) = (long(VALUE_BYTES_MAX), long(VALUE_BYTES_MAX + 1));
    let last = (VALUE_BYTES_MAX - 1).to_string();
    let past = VALUE_BYTES_MAX.to_string();
    vec![
        (command(&[b"SET", &key, b"v"]), command(&[b"SET", &key_over, b"v"])),
        (command(&[b"HSET", b"h", &key, b"v"]), command(&[b"HSET", b"h", &key_over, b"v"])),
        (command(&[b"SET", b"k", &value]), command(&[b"SET", b"k", &value_over])),
        (command(&[b"HSET", b"h", b"f", &value]), command(&[b"HSET", b"h", b"f", &value_over])),
        (
            command(&[b"SETRANGE", b"r", last.as_bytes(), b"x"]),
            command(&[b"SETRANGE", b"r", past.as_bytes(), b"x"]),
        ),
    ]
}

#[test]
fn a_key_field_or_value_beyond_its_limit_is_refused_and_one_at_the_limit_is_not() {
    let binaries = match crate::binaries() {
        Ok(binaries) => binaries,
        Err(missing) => return skip("differential, limits", &missing),
    };
    let servers = crate::Servers::start(&binaries).unwrap();
    let mut reference = servers.reference.client().unwrap();
    let mut subject = servers.subject.client().unwrap();
    for (within, beyond) in edges() {
        let expected = reference.call(&within).unwrap();
        assert_eq!(expected, subject.call(&within).unwrap(), "at the limit");
        assert!(!reference.call(&beyond).unwrap().is_error());
        if binaries.kvd.is_none() {
            continue;
        }
        // On a connection of its own: it is closed where one argument alone is too long, and the
        // error may be lost when that happens while the argument is still being sent.
        let mut outsider = servers.subject.client().unwrap();
        let sent = outsider.send_raw(&encoded(&beyond));
        let name = beyond[0].escape_ascii();
        match sent.and_then(|()| outsider.reply()) {
            Ok(refused) => {
                println!("{name} beyond its limit: {}", refused.reply.describe());
                assert!(refused.reply.is_error(), "{name} beyond the limit");
            }
            Err(cut) => println!("{name} beyond its limit: cut off ({cut:#})"),
        }
        subject.expect_ok(&["PING"]).unwrap();
    }
    if binaries.kvd.is_some() {
        let absent = subject.call(&["SETRANGE", "absent", "9000000", "x"]).unwrap();
        assert!(absent.is_error(), "SETRANGE beyond the limit: {}", absent.describe());
        assert_eq!(subject.call(&["EXISTS", "absent"]).unwrap().integer(), Some(0));
        let appended = subject.call(&["APPEND", "k", "x"]).unwrap();
        assert!(appended.is_error(), "APPEND beyond the limit: {}", appended.describe());
        let length = subject.call(&["STRLEN", "k"]).unwrap();
        assert_eq!(length.integer(), Some(VALUE_BYTES_MAX as i64));
    }
}
