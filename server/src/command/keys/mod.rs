//! The commands on keys of any type: existence, type, expiry and deletion.

mod expiry;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Txn, View, row::RowValue};

use super::{Command, CommandError, Handler, Outcome, pattern::is_word};

pub(super) use expiry::{Clock, expire_at, invalid_expire_time};

/// Positions of the first and last key, and the distance between keys, as COMMAND INFO tells them.
pub(super) type KeyPositions = [i32; 3];
/// The command names no key.
pub(super) const NO_KEYS: KeyPositions = [0, 0, 0];
/// The first argument is the only key.
pub(super) const ONE_KEY: KeyPositions = [1, 1, 1];
/// Every argument is a key.
pub(super) const ALL_KEYS: KeyPositions = [1, -1, 1];

/// A row of the command table.
pub(super) const fn command(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    [first_key, last_key, step]: KeyPositions,
    categories: &'static [&'static str],
    handler: Handler,
) -> Command {
    Command { name, arity, flags, first_key, last_key, step, categories, handler }
}

/// What a deletion costs in a record, at most, beside its key.
const KEY_OVERHEAD_BYTES: usize = 16;

const READS: &[&str] = &["@keyspace", "@read", "@fast"];
const WRITES: &[&str] = &["@keyspace", "@write", "@fast"];
const DELETES: &[&str] = &["@keyspace", "@write", "@slow"];
const CLEARS: &[&str] = &["@keyspace", "@write", "@slow", "@dangerous"];
const READ_FAST: &[&str] = &["readonly", "fast"];
const WRITE_FAST: &[&str] = &["write", "fast"];

/// The commands on keys.
pub(super) const COMMANDS: &[Command] = &[
    command("del", -2, &["write"], ALL_KEYS, DELETES, Handler::Write(delete)),
    command("exists", -2, READ_FAST, ALL_KEYS, READS, Handler::ReadMany(exists)),
    command("expire", -3, WRITE_FAST, ONE_KEY, WRITES, Handler::Write(expiry::expire)),
    command("expireat", -3, WRITE_FAST, ONE_KEY, WRITES, Handler::Write(expiry::expireat)),
    command("expiretime", 2, READ_FAST, ONE_KEY, READS, Handler::Read(expiry::expiretime)),
    command("flushall", -1, &["write"], NO_KEYS, CLEARS, Handler::Write(flush)),
    command("flushdb", -1, &["write"], NO_KEYS, CLEARS, Handler::Write(flush)),
    command("persist", 2, WRITE_FAST, ONE_KEY, WRITES, Handler::Write(expiry::persist)),
    command("pexpire", -3, WRITE_FAST, ONE_KEY, WRITES, Handler::Write(expiry::pexpire)),
    command("pexpireat", -3, WRITE_FAST, ONE_KEY, WRITES, Handler::Write(expiry::pexpireat)),
    command("pexpiretime", 2, READ_FAST, ONE_KEY, READS, Handler::Read(expiry::pexpiretime)),
    command("pttl", 2, READ_FAST, ONE_KEY, READS, Handler::Read(expiry::pttl)),
    command("ttl", 2, READ_FAST, ONE_KEY, READS, Handler::Read(expiry::ttl)),
    command("type", 2, READ_FAST, ONE_KEY, READS, Handler::Read(kind)),
    command("unlink", -2, WRITE_FAST, ALL_KEYS, WRITES, Handler::Write(delete)),
];

/// What TYPE calls a value's type.
pub(super) const fn type_name(value: RowValue<'_>) -> &'static str {
    match value {
        RowValue::String(_) => "string",
        RowValue::Hash { .. } => "hash",
    }
}

fn delete(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    // Refused before the first deletion, so that all keys are deleted or none.
    let bytes: usize = request.iter().skip(1).map(|key| key.len() + KEY_OVERHEAD_BYTES).sum();
    txn.check_room(request.len() - 1, bytes)?;
    let mut deleted = 0;
    for key in request.iter().skip(1) {
        deleted += i64::from(txn.delete(key)?);
    }
    reply.integer(deleted);
    Ok(())
}

fn exists(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let mut found = 0;
    for key in request.iter().skip(1) {
        found += i64::from(view.row(key)?.is_some());
    }
    reply.integer(found);
    Ok(())
}

fn kind(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let row = view.row(request.arg(1))?;
    reply.simple(row.as_ref().map_or("none", |row| type_name(row.as_ref().value())));
    Ok(())
}

/// FLUSHDB and FLUSHALL. ASYNC and SYNC are the same here: clearing is one record, and what it
/// hides is collected later.
fn flush(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let is_known =
        request.get(1).is_none_or(|mode| is_word(mode, "async") || is_word(mode, "sync"));
    if request.len() > 2 || !is_known {
        return Err(CommandError::Syntax);
    }
    txn.clear()?;
    reply.simple("OK");
    Ok(())
}
