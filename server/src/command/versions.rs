//! Compare-and-set: KV.GETV tells a string's version, KV.CAS replaces the value of that version.
//!
//! A version is the hybrid time of the write that made the row, as a decimal number. Clients
//! treat it as opaque; zero stands for an absent key.

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Txn, View};
use larder_types::HybridTime;

use super::{
    Command, CommandError, Handler, Outcome,
    keys::{Clock, ONE_KEY, command, invalid_expire_time},
    number::integer,
    pattern::is_word,
    reply_stored,
    strings::text,
};

/// The commands on versions.
pub(super) const COMMANDS: &[Command] = &[
    command("kv.cas", -4, &["write", "denyoom", "fast"], ONE_KEY, WRITES, Handler::Write(cas)),
    command("kv.getv", 2, &["readonly", "fast"], ONE_KEY, READS, Handler::Read(getv)),
];

const READS: &[&str] = &["@read", "@string", "@fast"];
const WRITES: &[&str] = &["@write", "@string", "@fast"];

/// `KV.GETV key`: value and version, or a null array for an absent key.
fn getv(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let Some(row) = view.row(request.arg(1))? else {
        reply.null_array();
        return Ok(());
    };
    let value = text(&row)?;
    reply.array(2);
    reply_stored(value, row.memory(), reply)?;
    reply_version(row.as_ref().version(), reply);
    Ok(())
}

/// `KV.CAS key version value [PX milliseconds]`: puts the value where the key still has the
/// version, and drops or sets the expiry as SET does. Answers the new version, or nil.
fn cas(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let key = request.arg(1);
    let expected = parse_version(request.arg(2)).ok_or(CommandError::NotInteger)?;
    let expiry = parse_expiry(request, txn.now_ms())?;
    let row = txn.view().row(key)?;
    let found = match &row {
        Some(row) => {
            text(row)?;
            row.as_ref().version()
        }
        None => HybridTime::ZERO,
    };
    if found != expected {
        reply.null();
        return Ok(());
    }
    txn.put_string(key, request.arg(3), expiry)?;
    reply_version(txn.stamp(), reply);
    Ok(())
}

fn parse_expiry(request: Request<'_>, now_ms: u64) -> Result<Option<u64>, CommandError> {
    match (request.len(), request.get(4), request.get(5)) {
        (4, ..) => Ok(None),
        (6, Some(option), Some(time)) if is_word(option, "px") => {
            let time = integer(time)?;
            let millis = Clock::Millis.to_unix_millis(time, now_ms).filter(|_| time > 0);
            let expiry = millis.and_then(|millis| u64::try_from(millis).ok());
            expiry.map(Some).ok_or_else(|| invalid_expire_time("kv.cas"))
        }
        _ => Err(CommandError::Syntax),
    }
}

/// The version that `text` is: decimal digits alone, below 2^64.
fn parse_version(text: &[u8]) -> Option<HybridTime> {
    if text.is_empty() {
        return None;
    }
    let raw = text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    });
    raw.map(HybridTime::from_u64)
}

fn reply_version(version: HybridTime, reply: &mut ReplyWriter<'_>) {
    reply.bulk(version.as_u64().to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use larder_resp::Value;

    use super::*;
    use crate::command::scan::fixture::Fixture;

    /// The version that KV.GETV tells.
    fn version(fixture: &mut Fixture, key: &str) -> String {
        let reply = fixture.run(&["KV.GETV", key]);
        let version = reply.as_values().unwrap()[1].as_bytes().unwrap().to_vec();
        String::from_utf8(version).unwrap()
    }

    fn is_refused_with(reply: &Value, start: &str) -> bool {
        reply.as_error().is_some_and(|error| error.starts_with(start))
    }

    #[test]
    fn a_value_is_replaced_only_where_the_version_is_the_one_that_was_read() {
        let mut fixture = Fixture::new();
        assert!(fixture.words("KV.GETV key").is_null());
        fixture.words("SET key one");
        let first = version(&mut fixture, "key");
        let second = fixture.words(&format!("KV.CAS key {first} two"));
        assert!(fixture.words(&format!("KV.CAS key {first} three")).is_null());
        assert_eq!(fixture.words("GET key").as_bytes(), Some(&b"two"[..]));
        assert_eq!(second.as_bytes(), Some(version(&mut fixture, "key").as_bytes()));
        assert!(second.as_bytes() > Some(first.as_bytes()));
    }

    #[test]
    fn version_zero_stands_for_an_absent_key() {
        let mut fixture = Fixture::new();
        let created = fixture.words("KV.CAS key 0 one PX 10");
        assert_eq!(created.as_bytes(), Some(version(&mut fixture, "key").as_bytes()));
        assert!(fixture.words("KV.CAS key 0 two").is_null());
        assert_eq!(fixture.words("PTTL key").as_integer(), Some(10));
        fixture.now_ms += 10;
        assert!(fixture.words("KV.GETV key").is_null());
        assert!(!fixture.words("KV.CAS key 0 two").is_null());
        assert_eq!(fixture.words("PTTL key").as_integer(), Some(-1));
    }

    #[test]
    fn hashes_and_arguments_that_do_not_fit_are_refused() {
        let mut fixture = Fixture::new();
        fixture.words("HSET hash field value");
        assert!(is_refused_with(&fixture.words("KV.GETV hash"), "WRONGTYPE"));
        assert!(is_refused_with(&fixture.words("KV.CAS hash 0 value"), "WRONGTYPE"));
        assert!(is_refused_with(
            &fixture.words("KV.CAS key x value"),
            "ERR value is not an integer"
        ));
        assert!(is_refused_with(&fixture.words("KV.CAS key 0 value PX"), "ERR syntax error"));
        assert!(is_refused_with(&fixture.words("KV.CAS key 0 value EX 5"), "ERR syntax error"));
        assert!(is_refused_with(&fixture.words("KV.CAS key 0 value PX 0"), "ERR invalid expire"));
        assert!(fixture.words("KV.GETV key").is_null());
    }

    #[test]
    fn versions_are_plain_decimal_numbers() {
        assert_eq!(parse_version(b"0"), Some(HybridTime::ZERO));
        assert_eq!(parse_version(b"18446744073709551615"), Some(HybridTime::from_u64(u64::MAX)));
        for text in [&b""[..], b"-1", b"+1", b" 1", b"1 ", b"18446744073709551616", b"a"] {
            assert_eq!(parse_version(text), None, "{text:?}");
        }
    }
}
