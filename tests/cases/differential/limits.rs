//! Where Larder refuses what Redis takes: the documented limits, hit one by one.

use larder_tests::client::encoded;
use larder_tests::process::skip;
use larder_types::limits::{FIELD_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};

type Command = Vec<Vec<u8>>;

fn command(parts: &[&[u8]]) -> Command {
    parts.iter().map(|part| part.to_vec()).collect()
}

/// A command that needs so many bytes of what is bounded.
type Needing = fn(usize) -> Command;

/// Every way to reach a bound, with the bound.
const EDGES: &[(&str, usize, Needing)] = &[
    ("a key", KEY_BYTES_MAX, |length| command(&[b"SET", &long(length), b"v"])),
    ("the key of a hash", KEY_BYTES_MAX, |length| {
        command(&[b"HSET", &[b"h", &*long(length - 1)].concat(), b"f", b"v"])
    }),
    ("a field", FIELD_BYTES_MAX, |length| command(&[b"HSET", b"h", &long(length), b"v"])),
    ("a value", VALUE_BYTES_MAX, |length| command(&[b"SET", b"k", &long(length)])),
    ("a field's value", VALUE_BYTES_MAX, |length| command(&[b"HSET", b"h", b"f", &long(length)])),
    ("a value that SETRANGE makes longer", VALUE_BYTES_MAX, |length| {
        command(&[b"SETRANGE", b"r", (length - 1).to_string().as_bytes(), b"x"])
    }),
];

fn long(length: usize) -> Vec<u8> {
    vec![b'x'; length]
}

#[test]
fn a_key_field_or_value_a_byte_beyond_its_limit_is_refused_and_one_at_the_limit_or_a_byte_below_is_not()
 {
    let binaries = match crate::binaries() {
        Ok(binaries) => binaries,
        Err(missing) => return skip("differential, limits", &missing),
    };
    let servers = crate::Servers::start(&binaries).unwrap();
    let mut reference = servers.reference.client().unwrap();
    let mut subject = servers.subject.client().unwrap();
    for &(what, limit, needing) in EDGES {
        for length in [limit - 1, limit] {
            let within = needing(length);
            let expected = reference.call(&within).unwrap();
            assert!(!expected.is_error(), "{what} of {length} bytes: {}", expected.describe());
            assert_eq!(expected, subject.call(&within).unwrap(), "{what} of {length} bytes");
        }
        let beyond = needing(limit + 1);
        assert!(!reference.call(&beyond).unwrap().is_error());
        if binaries.kvd.is_none() {
            continue;
        }
        // On a connection of its own: it is closed where one argument alone is too long, and the
        // error may be lost when that happens while the argument is still being sent.
        let mut outsider = servers.subject.client().unwrap();
        let sent = outsider.send_raw(&encoded(&beyond));
        match sent.and_then(|()| outsider.reply()) {
            Ok(refused) => {
                println!("{what} beyond its limit: {}", refused.reply.describe());
                assert!(refused.reply.is_error(), "{what} beyond its limit");
            }
            Err(cut) => println!("{what} beyond its limit: cut off ({cut:#})"),
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
