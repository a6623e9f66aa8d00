//! The commands on strings.

mod counters;
mod options;
mod ranges;
mod set;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Row, View, row::RowValue};

use super::{
    Command, CommandError, Handler, Outcome,
    keys::{ALL_KEYS, KeyPositions, ONE_KEY, command},
    reply_stored,
};

/// Keys and values by turns.
const PAIRS: KeyPositions = [1, -1, 2];

const READ: &[&str] = &["readonly"];
const READ_FAST: &[&str] = &["readonly", "fast"];
const WRITE_FAST: &[&str] = &["write", "fast"];
const GROW: &[&str] = &["write", "denyoom"];
const GROW_FAST: &[&str] = &["write", "denyoom", "fast"];

const READS_FAST: &[&str] = &["@read", "@string", "@fast"];
const READS_SLOW: &[&str] = &["@read", "@string", "@slow"];
const WRITES_FAST: &[&str] = &["@write", "@string", "@fast"];
const WRITES_SLOW: &[&str] = &["@write", "@string", "@slow"];

/// The commands on strings.
pub(super) const COMMANDS: &[Command] = &[
    command("append", 3, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(ranges::append)),
    command("decr", 2, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(counters::decr)),
    command("decrby", 3, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(counters::decrby)),
    command("get", 2, READ_FAST, ONE_KEY, READS_FAST, Handler::Read(get)),
    command("getdel", 2, WRITE_FAST, ONE_KEY, WRITES_FAST, Handler::Write(set::getdel)),
    command("getex", -2, WRITE_FAST, ONE_KEY, WRITES_FAST, Handler::Write(set::getex)),
    command("getrange", 4, READ, ONE_KEY, READS_SLOW, Handler::Read(ranges::getrange)),
    command("getset", 3, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(set::getset)),
    command("incr", 2, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(counters::incr)),
    command("incrby", 3, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(counters::incrby)),
    command(
        "incrbyfloat",
        3,
        GROW_FAST,
        ONE_KEY,
        WRITES_FAST,
        Handler::Write(counters::incrbyfloat),
    ),
    command("mget", -2, READ_FAST, ALL_KEYS, READS_FAST, Handler::ReadMany(mget)),
    command("mset", -3, GROW, PAIRS, WRITES_SLOW, Handler::Write(set::mset)),
    command("msetnx", -3, GROW, PAIRS, WRITES_SLOW, Handler::Write(set::msetnx)),
    command("psetex", 4, GROW, ONE_KEY, WRITES_SLOW, Handler::Write(set::psetex)),
    command("set", -3, GROW, ONE_KEY, WRITES_SLOW, Handler::Write(set::set)),
    command("setex", 4, GROW, ONE_KEY, WRITES_SLOW, Handler::Write(set::setex)),
    command("setnx", 3, GROW_FAST, ONE_KEY, WRITES_FAST, Handler::Write(set::setnx)),
    command("setrange", 4, GROW, ONE_KEY, WRITES_SLOW, Handler::Write(ranges::setrange)),
    command("strlen", 2, READ_FAST, ONE_KEY, READS_FAST, Handler::Read(ranges::strlen)),
    command("substr", 4, READ, ONE_KEY, READS_SLOW, Handler::Read(ranges::getrange)),
];

/// The string that `row` holds.
///
/// # Errors
/// [`CommandError::WrongType`] where it holds something else.
pub(super) fn text(row: &Row) -> Result<&[u8], CommandError> {
    match row.as_ref().value() {
        RowValue::String(text) => Ok(text),
        RowValue::Hash { .. } => Err(CommandError::WrongType),
    }
}

/// Writes the string that `row` holds, or nil where there is no row.
///
/// # Errors
/// As [`text`].
fn reply_text(row: Option<&Row>, reply: &mut ReplyWriter<'_>) -> Outcome {
    match row {
        Some(row) => return reply_stored(text(row)?, row.memory(), reply),
        None => reply.null(),
    }
    Ok(())
}

fn get(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    reply_text(view.row(request.arg(1))?.as_ref(), reply)
}

fn mget(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let keys = request.iter().skip(1);
    reply.array(keys.len());
    for key in keys {
        let row = view.row(key)?;
        let is_text = |row: &&Row| text(row).is_ok();
        reply_text(row.as_ref().filter(is_text), reply)?;
    }
    Ok(())
}
