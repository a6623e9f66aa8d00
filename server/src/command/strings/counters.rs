//! Strings as numbers: INCR and its kin. All keep the key's expiry.

use larder_resp::{ReplyWriter, Request};
use larder_storage::Txn;

use super::text;
use crate::command::{
    CommandError, Outcome,
    number::{LongDouble, integer},
};

const OVERFLOW: CommandError = CommandError::message("ERR increment or decrement would overflow");
const DECREMENT_OVERFLOW: CommandError = CommandError::message("ERR decrement would overflow");
const NOT_FINITE: CommandError =
    CommandError::message("ERR increment would produce NaN or Infinity");

pub(super) fn incr(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    add(request.arg(1), 1, txn, reply)
}

pub(super) fn decr(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    add(request.arg(1), -1, txn, reply)
}

pub(super) fn incrby(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    add(request.arg(1), integer(request.arg(2))?, txn, reply)
}

pub(super) fn decrby(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let decrement = integer(request.arg(2))?;
    add(request.arg(1), decrement.checked_neg().ok_or(DECREMENT_OVERFLOW)?, txn, reply)
}

fn add(key: &[u8], increment: i64, txn: &mut Txn<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let row = txn.view().row(key)?;
    let value = row.as_ref().map_or(Ok(0), |row| integer(text(row)?))?;
    let sum = value.checked_add(increment).ok_or(OVERFLOW)?;
    let expiry = row.and_then(|row| row.as_ref().expiry());
    txn.put_string(key, sum.to_string().as_bytes(), expiry)?;
    reply.integer(sum);
    Ok(())
}

pub(super) fn incrbyfloat(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let key = request.arg(1);
    let row = txn.view().row(key)?;
    let value = match &row {
        Some(row) => LongDouble::parse(text(row)?).ok_or(CommandError::NotFloat)?,
        None => LongDouble::ZERO,
    };
    let increment = LongDouble::parse(request.arg(2)).ok_or(CommandError::NotFloat)?;
    let sum = value.checked_add(increment).ok_or(NOT_FINITE)?.to_text();
    let expiry = row.and_then(|row| row.as_ref().expiry());
    txn.put_string(key, sum.as_bytes(), expiry)?;
    reply.bulk(sum.as_bytes());
    Ok(())
}
