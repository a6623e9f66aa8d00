//! Writing whole strings: SET and its kin.

use std::borrow::Cow;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Txn, TxnError};
use larder_types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::{
    options::{Of, Options, expiry},
    reply_text,
};
use crate::command::{
    CommandError, Outcome,
    keys::{Clock, expire_at},
};

/// What a pair costs in a record, at most, beside its key and value.
const PAIR_OVERHEAD_BYTES: usize = 32;

/// SET. Without options it reads nothing: this is the hottest path of all.
pub(super) fn set(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let (key, value) = (request.arg(1), request.arg(2));
    if request.len() > 3 {
        return set_with_options(request, txn, reply);
    }
    txn.put_string(key, value, None)?;
    reply.simple("OK");
    Ok(())
}

fn set_with_options(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let (key, value) = (request.arg(1), request.arg(2));
    let options = Options::parse(request, Of::Set)?;
    let mut expiry = options.expiry(txn.now_ms(), "set")?;
    let is_unconditional = !options.only_if_absent && !options.only_if_present;
    if is_unconditional && !options.answers_old && !options.keeps_expiry {
        txn.put_string(key, value, expiry)?;
        reply.simple("OK");
        return Ok(());
    }
    let row = txn.view().row(key)?;
    if options.answers_old {
        reply_text(row.as_ref(), reply)?;
    }
    let is_refused =
        options.only_if_absent && row.is_some() || options.only_if_present && row.is_none();
    if !is_refused {
        if options.keeps_expiry {
            expiry = row.as_ref().and_then(|row| row.as_ref().expiry());
        }
        txn.put_string(key, value, expiry)?;
    }
    match (options.answers_old, is_refused) {
        (true, _) => {}
        (false, true) => reply.null(),
        (false, false) => reply.simple("OK"),
    }
    Ok(())
}

pub(super) fn setnx(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let is_absent = txn.view().row(request.arg(1))?.is_none();
    if is_absent {
        txn.put_string(request.arg(1), request.arg(2), None)?;
    }
    reply.integer(i64::from(is_absent));
    Ok(())
}

pub(super) fn setex(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    set_expiring(request, txn, reply, Clock::Seconds, "setex")
}

pub(super) fn psetex(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    set_expiring(request, txn, reply, Clock::Millis, "psetex")
}

fn set_expiring(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
    clock: Clock,
    command: &str,
) -> Outcome {
    let expiry = expiry(clock, request.arg(2), txn.now_ms(), command)?;
    txn.put_string(request.arg(1), request.arg(3), Some(expiry))?;
    reply.simple("OK");
    Ok(())
}

pub(super) fn getset(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let row = txn.view().row(request.arg(1))?;
    reply_text(row.as_ref(), reply)?;
    txn.put_string(request.arg(1), request.arg(2), None)?;
    Ok(())
}

pub(super) fn getdel(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let row = txn.view().row(request.arg(1))?;
    reply_text(row.as_ref(), reply)?;
    if row.is_some() {
        txn.delete(request.arg(1))?;
    }
    Ok(())
}

pub(super) fn getex(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let options = Options::parse(request, Of::Getex)?;
    let key = request.arg(1);
    let Some(row) = txn.view().row(key)? else {
        reply.null();
        return Ok(());
    };
    // The type is looked at before the time, as Redis does.
    reply_text(Some(&row), reply)?;
    let expiry = options.expiry(txn.now_ms(), "getex")?;
    if let Some(expiry) = expiry {
        expire_at(txn, key, i64::try_from(expiry).unwrap_or(i64::MAX))?;
    } else if options.persists && row.as_ref().expiry().is_some() {
        txn.set_expiry(key, None)?;
    }
    Ok(())
}

pub(super) fn mset(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    check_pairs(request, txn, "mset")?;
    put_pairs(request, txn)?;
    reply.simple("OK");
    Ok(())
}

pub(super) fn msetnx(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    check_pairs(request, txn, "msetnx")?;
    for (key, _) in pairs(request) {
        if txn.view().row(key)?.is_some() {
            reply.integer(0);
            return Ok(());
        }
    }
    put_pairs(request, txn)?;
    reply.integer(1);
    Ok(())
}

fn pairs(request: Request<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let (keys, values) = (request.iter().skip(1), request.iter().skip(2));
    keys.step_by(2).zip(values.step_by(2))
}

fn put_pairs(request: Request<'_>, txn: &mut Txn<'_>) -> Outcome {
    for (key, value) in pairs(request) {
        txn.put_string(key, value, None)?;
    }
    Ok(())
}

/// Refuses what could fail after some of the pairs were put: all are put, or none.
fn check_pairs(request: Request<'_>, txn: &Txn<'_>, command: &'static str) -> Outcome {
    if request.len().is_multiple_of(2) {
        return Err(CommandError::Arity(Cow::Borrowed(command)));
    }
    let mut bytes = 0;
    for (key, value) in pairs(request) {
        if key.len() > KEY_BYTES_MAX {
            return Err(TxnError::KeyTooLarge { bytes: key.len() }.into());
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(TxnError::ValueTooLarge { bytes: value.len() }.into());
        }
        bytes += key.len() + value.len() + PAIR_OVERHEAD_BYTES;
    }
    Ok(txn.check_room(pairs(request).count(), bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scan::fixture::Fixture;

    #[test]
    fn a_key_that_is_too_long_is_refused_in_the_same_words_as_alone_and_nothing_is_put() {
        let mut fixture = Fixture::new();
        let key = "k".repeat(KEY_BYTES_MAX + 1);
        let alone = fixture.run(&["SET", &key, "v"]);
        let refusal = "ERR a key of 65537 bytes is larger than the limit of 65536";
        assert_eq!(alone.as_error(), Some(refusal));
        for command in ["MSET", "MSETNX"] {
            assert_eq!(fixture.run(&[command, "first", "1", &key, "v"]), alone);
        }
        assert_eq!(fixture.words("EXISTS first").as_integer(), Some(0));
    }
}
