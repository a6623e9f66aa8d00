//! The hash family: fields and values under one key.
//!
//! A hash is one row plus one element a field, so that the reads that name their fields look at
//! these alone. HRANDFIELD and the reads of a whole hash cost as much as the hash is large. What is
//! expected of each command is in the documentation of Redis 7.0.

use std::{borrow::Cow, cell::RefCell, sync::Arc};

use larder_resp::{Protocol, ReplyWriter, Request};
use larder_storage::{FieldValue, NamedField, Row, Txn, View, WholeRow, row::RowValue};
use larder_types::Unit;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::index};

use super::{
    Command, CommandError, Handler, Outcome, REPLY_BYTES_MAX, expect_room,
    keys::{ONE_KEY, command},
    number::{LongDouble, integer},
    pattern::is_word,
    reply_stored,
    scan::{ScanOptions, leave, parse_cursor, recall, remember},
    write_stored,
};

/// Fields that one HRANDFIELD with a negative count may repeat.
const RANDOM_FIELDS_MAX: u64 = 1 << 20;

/// HSCAN answers a hash of so many fields at once, whatever its COUNT: Redis' default for the hashes
/// it keeps as a list, which it scans whole.
const SMALL_HASH_FIELDS: u64 = 512;
/// Once HSCAN has looked at this much, it stops and answers a cursor. More than the largest field.
const SCAN_BYTES_MAX: usize = 16 << 20;

const READ_FAST: &[&str] = &["readonly", "fast"];
const READ: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const OF_READ_FAST: &[&str] = &["@read", "@hash", "@fast"];
const OF_READ_SLOW: &[&str] = &["@read", "@hash", "@slow"];
const OF_WRITE: &[&str] = &["@write", "@hash", "@fast"];

thread_local! {
    static RANDOM: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
}

pub(super) static COMMANDS: &[Command] = &[
    row("hdel", -3, &["write", "fast"], OF_WRITE, Handler::Write(hdel)),
    row("hexists", 3, READ_FAST, OF_READ_FAST, Handler::Read(hexists)),
    row("hget", 3, READ_FAST, OF_READ_FAST, Handler::Read(hget)),
    row("hgetall", 2, READ, OF_READ_SLOW, Handler::Read(hgetall)),
    row("hincrby", 4, WRITE, OF_WRITE, Handler::Write(hincrby)),
    row("hincrbyfloat", 4, WRITE, OF_WRITE, Handler::Write(hincrbyfloat)),
    row("hkeys", 2, READ, OF_READ_SLOW, Handler::Read(hkeys)),
    row("hlen", 2, READ_FAST, OF_READ_FAST, Handler::Read(hlen)),
    row("hmget", -3, READ_FAST, OF_READ_FAST, Handler::Read(hmget)),
    row("hmset", -4, WRITE, OF_WRITE, Handler::Write(hmset)),
    row("hrandfield", -2, READ, OF_READ_SLOW, Handler::Read(hrandfield)),
    row("hscan", -3, READ, OF_READ_SLOW, Handler::Read(hscan)),
    row("hset", -4, WRITE, OF_WRITE, Handler::Write(hset)),
    row("hsetnx", 4, WRITE, OF_WRITE, Handler::Write(hsetnx)),
    row("hstrlen", 3, READ_FAST, OF_READ_FAST, Handler::Read(hstrlen)),
    row("hvals", 2, READ, OF_READ_SLOW, Handler::Read(hvals)),
];

const fn row(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    categories: &'static [&'static str],
    handler: Handler,
) -> Command {
    command(name, arity, flags, ONE_KEY, categories, handler)
}

/// How many fields the hash has.
fn field_count(row: &Row) -> Result<u64, CommandError> {
    match row.as_ref().value() {
        RowValue::Hash { fields, .. } => Ok(fields),
        RowValue::String(_) => Err(CommandError::WrongType),
    }
}

/// One field of the hash at `key`; `None` where the key or the field is absent.
fn field(view: &View<'_>, key: &[u8], name: &[u8]) -> Result<Option<FieldValue>, CommandError> {
    let Some((row, mut values)) = view.row_and_fields(key, &[name])? else { return Ok(None) };
    field_count(&row)?;
    Ok(values.pop().flatten())
}

/// Every field of the hash at `key`, by name; none where the key is absent.
///
/// # Errors
/// [`CommandError::ReplyTooLarge`] where they take more than `bytes_max`.
fn all_fields(
    view: &View<'_>,
    key: &[u8],
    bytes_max: usize,
) -> Result<Vec<NamedField>, CommandError> {
    whole(view.row_and_fields_after(key, None, usize::MAX, bytes_max)?)
}

/// The names of all fields, likewise.
fn all_names(
    view: &View<'_>,
    key: &[u8],
    bytes_max: usize,
) -> Result<Vec<Arc<[u8]>>, CommandError> {
    whole(view.row_and_names(key, bytes_max)?)
}

fn whole<T>(found: Option<WholeRow<T>>) -> Result<Vec<T>, CommandError> {
    let Some(WholeRow { row, fields, complete }) = found else { return Ok(Vec::new()) };
    field_count(&row)?;
    if complete { Ok(fields) } else { Err(CommandError::ReplyTooLarge) }
}

/// These fields of the hash at `key`, in the order asked for.
///
/// # Errors
/// As [`all_fields`].
fn some_fields(
    view: &View<'_>,
    key: &[u8],
    names: &[&[u8]],
    bytes_max: usize,
) -> Result<Vec<Option<FieldValue>>, CommandError> {
    let Some((row, values)) = view.row_and_fields_within(key, names, bytes_max)? else {
        return Ok(vec![None; names.len()]);
    };
    field_count(&row)?;
    if values.len() < names.len() { Err(CommandError::ReplyTooLarge) } else { Ok(values) }
}

/// Writes a field's value, for which there is room.
fn write_value(value: &FieldValue, reply: &mut ReplyWriter<'_>) {
    write_stored(value, value.memory(), reply);
}

fn length(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn hdel(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let fields: Vec<&[u8]> = request.iter().skip(2).collect();
    reply.integer(length(txn.hash_delete(request.arg(1), &fields)?));
    Ok(())
}

fn hexists(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let value = field(view, request.arg(1), request.arg(2))?;
    reply.integer(i64::from(value.is_some()));
    Ok(())
}

fn hget(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    match field(view, request.arg(1), request.arg(2))? {
        Some(value) => return reply_stored(&value, value.memory(), reply),
        None => reply.null(),
    }
    Ok(())
}

fn hgetall(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let fields = all_fields(view, request.arg(1), reply.room())?;
    reply.map(fields.len());
    for (name, value) in &fields {
        reply.bulk(name);
        write_value(value, reply);
    }
    Ok(())
}

fn hkeys(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let names = all_names(view, request.arg(1), reply.room())?;
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name));
    Ok(())
}

fn hvals(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let fields = all_fields(view, request.arg(1), reply.room())?;
    reply.array(fields.len());
    fields.iter().for_each(|(_, value)| write_value(value, reply));
    Ok(())
}

fn hlen(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let count = view.row(request.arg(1))?.map_or(Ok(0), |row| field_count(&row))?;
    reply.integer(length(count));
    Ok(())
}

fn hmget(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let names: Vec<&[u8]> = request.iter().skip(2).collect();
    let values = some_fields(view, request.arg(1), &names, reply.room())?;
    reply.array(values.len());
    for value in &values {
        match value {
            Some(value) => write_value(value, reply),
            None => reply.null(),
        }
    }
    Ok(())
}

fn hstrlen(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let value = field(view, request.arg(1), request.arg(2))?;
    reply.integer(value.map_or(0, |value| length(value.len() as u64)));
    Ok(())
}

/// Puts the pairs that follow the key; answers how many fields are new.
fn put_pairs(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    name: &'static str,
) -> Result<u64, CommandError> {
    if !request.len().is_multiple_of(2) {
        return Err(CommandError::Arity(Cow::Borrowed(name)));
    }
    let pairs: Vec<(&[u8], &[u8])> =
        (2..request.len()).step_by(2).map(|at| (request.arg(at), request.arg(at + 1))).collect();
    Ok(txn.hash_put(request.arg(1), &pairs)?)
}

fn hset(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    reply.integer(length(put_pairs(request, txn, "hset")?));
    Ok(())
}

fn hmset(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    put_pairs(request, txn, "hmset")?;
    reply.simple("OK");
    Ok(())
}

fn hsetnx(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let (key, name) = (request.arg(1), request.arg(2));
    let is_absent = field(&txn.view(), key, name)?.is_none();
    if is_absent {
        txn.hash_put(key, &[(name, request.arg(3))])?;
    }
    reply.integer(i64::from(is_absent));
    Ok(())
}

fn hincrby(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let (key, name) = (request.arg(1), request.arg(2));
    let increment = integer(request.arg(3))?;
    let value = match field(&txn.view(), key, name)? {
        Some(value) => integer(&value)
            .map_err(|_| CommandError::message("ERR hash value is not an integer"))?,
        None => 0,
    };
    let sum = value
        .checked_add(increment)
        .ok_or(CommandError::message("ERR increment or decrement would overflow"))?;
    txn.hash_put(key, &[(name, sum.to_string().as_bytes())])?;
    reply.integer(sum);
    Ok(())
}

fn hincrbyfloat(request: Request<'_>, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let (key, name) = (request.arg(1), request.arg(2));
    let increment = LongDouble::parse(request.arg(3)).ok_or(CommandError::NotFloat)?;
    if !increment.is_finite() {
        return Err(CommandError::message("ERR value is NaN or Infinity"));
    }
    let value = match field(&txn.view(), key, name)? {
        Some(value) => LongDouble::parse(&value)
            .ok_or(CommandError::message("ERR hash value is not a float"))?,
        None => LongDouble::ZERO,
    };
    let sum = value
        .checked_add(increment)
        .ok_or(CommandError::message("ERR increment would produce NaN or Infinity"))?
        .to_text();
    txn.hash_put(key, &[(name, sum.as_bytes())])?;
    reply.bulk(sum.as_bytes());
    Ok(())
}

fn hrandfield(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let key = request.arg(1);
    let Some(count) = request.get(2) else {
        let names = all_names(view, key, REPLY_BYTES_MAX)?;
        return match names.get(random_below(names.len())) {
            Some(name) => {
                expect_room(reply, name.len())?;
                reply.bulk(name);
                Ok(())
            }
            None => {
                reply.null();
                Ok(())
            }
        };
    };
    let (count, with_values) = random_options(request, count)?;
    let names = all_names(view, key, REPLY_BYTES_MAX)?;
    let picked = pick(count, names.len())?;
    let picked: Vec<&[u8]> = picked.into_iter().map(|at| &*names[at]).collect();
    let bytes: usize = picked.iter().map(|name| name.len()).sum();
    expect_room(reply, bytes)?;
    if !with_values {
        reply.array(picked.len());
        picked.into_iter().for_each(|name| reply.bulk(name));
        return Ok(());
    }
    let values = some_fields(view, key, &picked, reply.room() - bytes)?;
    // A field may have gone since the names were read.
    let pairs = picked.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
    let pairs: Vec<_> = pairs.collect();
    let as_pairs = reply.protocol() == Protocol::Resp3;
    reply.array(if as_pairs { pairs.len() } else { pairs.len() * 2 });
    for (name, value) in pairs {
        if as_pairs {
            reply.array(2);
        }
        reply.bulk(name);
        write_value(&value, reply);
    }
    Ok(())
}

/// The count, and whether values are wanted, checked in Redis' order.
fn random_options(request: Request<'_>, count: &[u8]) -> Result<(i64, bool), CommandError> {
    let count = integer(count)?;
    if count == i64::MIN {
        return Err(CommandError::message(
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807",
        ));
    }
    let Some(option) = request.get(3) else { return Ok((count, false)) };
    if request.len() > 4 || !is_word(option, "withvalues") {
        return Err(CommandError::Syntax);
    }
    if count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err(CommandError::message("ERR value is out of range"));
    }
    Ok((count, true))
}

/// Which of `length` fields are answered: for a negative count that many and maybe the same more
/// than once; else each at most once.
fn pick(count: i64, length: usize) -> Result<Vec<usize>, CommandError> {
    if length == 0 {
        return Ok(Vec::new());
    }
    if count >= 0 {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count >= length {
            return Ok((0..length).collect());
        }
        return Ok(RANDOM.with_borrow_mut(|random| index::sample(random, length, count).into_vec()));
    }
    let repeats = count.unsigned_abs();
    if repeats > RANDOM_FIELDS_MAX {
        return Err(CommandError::TooLarge(format!(
            "a count of {count} is beyond the limit of {RANDOM_FIELDS_MAX} repeated fields"
        )));
    }
    Ok((0..repeats).map(|_| random_below(length)).collect())
}

/// A number below `bound`, or 0 where there is none.
fn random_below(bound: usize) -> usize {
    if bound == 0 {
        return 0;
    }
    RANDOM.with_borrow_mut(|random| random.random_range(0..bound))
}

fn hscan(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let key = request.arg(1);
    let cursor = parse_cursor(request.arg(2))?;
    let Some(row) = view.row(key)? else {
        leave(cursor, Some(key));
        return reply_scanned(0, &[], reply);
    };
    let is_small = field_count(&row)? <= SMALL_HASH_FIELDS;
    let mut options = ScanOptions::parse(request, 3, false)?;
    let count = if is_small { usize::MAX } else { options.count };
    let after = recall(cursor, Some(key));
    let Scanned { found, last } = scan_fields(view, key, after.as_deref(), count, &mut options)?;
    let unit = Unit::of_key(key).as_u16();
    let next = match last {
        Some(last) => remember(cursor, unit, Some(key), &last),
        None => {
            leave(cursor, Some(key));
            0
        }
    };
    reply_scanned(next, &found, reply)
}

/// What one HSCAN found.
struct Scanned {
    found: Vec<NamedField>,
    /// The last field looked at, unless it was the hash's last.
    last: Option<Box<[u8]>>,
}

/// Looks at `count` fields beyond `after`, or at fewer where matching or their bytes end it.
fn scan_fields(
    view: &View<'_>,
    key: &[u8],
    after: Option<&[u8]>,
    count: usize,
    options: &mut ScanOptions<'_>,
) -> Result<Scanned, CommandError> {
    let mut found = Vec::new();
    let Some(page) = view.row_and_fields_after(key, after, count, SCAN_BYTES_MAX)? else {
        return Ok(Scanned { found, last: None });
    };
    let mut last = None;
    for (name, value) in page.fields {
        last = Some(Box::from(&*name));
        if options.admits(&name)? {
            found.push((name, value));
        }
        if options.is_exhausted() {
            return Ok(Scanned { found, last });
        }
    }
    Ok(Scanned { found, last: last.filter(|_| !page.complete) })
}

fn reply_scanned(cursor: u64, found: &[NamedField], reply: &mut ReplyWriter<'_>) -> Outcome {
    expect_room(reply, found.iter().map(|(name, value)| name.len() + value.len()).sum())?;
    reply.array(2);
    reply.bulk(cursor.to_string().as_bytes());
    reply.array(found.len() * 2);
    for (name, value) in found {
        reply.bulk(name);
        write_value(value, reply);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_positive_count_picks_each_field_at_most_once() {
        for (count, length, expected) in [(0, 5, 0), (3, 5, 3), (5, 5, 5), (i64::MAX, 5, 5)] {
            let picked = pick(count, length).expect("the count is in bounds");
            assert_eq!(picked.len(), expected);
            assert_eq!(picked.iter().collect::<HashSet<_>>().len(), expected);
            assert!(picked.iter().all(|&at| at < length));
        }
    }

    #[test]
    fn a_negative_count_repeats_up_to_the_limit() {
        assert_eq!(pick(-7, 2).expect("the count is in bounds").len(), 7);
        assert!(pick(-(1 << 20) - 1, 2).is_err());
        assert!(pick(-i64::MAX, 0).expect("there is nothing to repeat").is_empty());
    }
}
