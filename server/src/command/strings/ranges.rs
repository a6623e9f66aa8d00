//! Parts of strings: APPEND, GETRANGE, SETRANGE, STRLEN.

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Txn, View};
use larder_types::limits::VALUE_BYTES_MAX;

use super::text;
use crate::command::{CommandError, Outcome, number::integer, reply_stored};

const OFFSET_OUT_OF_RANGE: CommandError = CommandError::message("ERR offset is out of range");
const TOO_LONG: CommandError =
    CommandError::message("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

pub(super) fn append(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let (key, tail) = (request.arg(1), request.arg(2));
    let row = txn.view().row(key)?;
    let length = match &row {
        None => {
            txn.put_string(key, tail, None)?;
            tail.len()
        }
        Some(row) => {
            let value = text(row)?;
            check_length(value.len(), tail.len())?;
            let longer = [value, tail].concat();
            txn.put_string(key, &longer, row.as_ref().expiry())?;
            longer.len()
        }
    };
    reply_length(length, reply);
    Ok(())
}

pub(super) fn strlen(
    request: Request<'_>,
    view: &View<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let row = view.row(request.arg(1))?;
    reply_length(row.as_ref().map(text).transpose()?.map_or(0, <[u8]>::len), reply);
    Ok(())
}

/// GETRANGE, and SUBSTR, its old name.
pub(super) fn getrange(
    request: Request<'_>,
    view: &View<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let (start, end) = (integer(request.arg(2))?, integer(request.arg(3))?);
    let Some(row) = view.row(request.arg(1))? else {
        reply.bulk(b"");
        return Ok(());
    };
    reply_stored(slice(text(&row)?, start, end), row.memory(), reply)
}

/// The bytes from `start` to `end`, both included; negative ones count from the end, and those
/// before the start count as the start.
fn slice(value: &[u8], start: i64, end: i64) -> &[u8] {
    // Only this order shows before both are cut to the start.
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let from_start = |position: i64| {
        if position < 0 { position.saturating_add(length).max(0) } else { position }
    };
    let first = usize::try_from(from_start(start)).unwrap_or(usize::MAX);
    let beyond = usize::try_from(from_start(end)).unwrap_or(usize::MAX).saturating_add(1);
    value.get(first..beyond.min(value.len())).unwrap_or_default()
}

pub(super) fn setrange(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let (key, patch) = (request.arg(1), request.arg(3));
    let offset = usize::try_from(integer(request.arg(2))?).map_err(|_| OFFSET_OUT_OF_RANGE)?;
    let row = txn.view().row(key)?;
    let value = row.as_ref().map(text).transpose()?.unwrap_or_default();
    if patch.is_empty() {
        reply_length(value.len(), reply);
        return Ok(());
    }
    check_length(offset, patch.len())?;
    let mut changed = value.to_vec();
    let end = offset + patch.len();
    if changed.len() < end {
        changed.resize(end, 0);
    }
    changed[offset..end].copy_from_slice(patch);
    txn.put_string(key, &changed, row.as_ref().and_then(|row| row.as_ref().expiry()))?;
    reply_length(changed.len(), reply);
    Ok(())
}

fn check_length(length: usize, added: usize) -> Outcome {
    match length.checked_add(added) {
        Some(total) if total <= VALUE_BYTES_MAX => Ok(()),
        _ => Err(TOO_LONG),
    }
}

fn reply_length(length: usize, reply: &mut ReplyWriter<'_>) {
    reply.integer(i64::try_from(length).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_as_redis_cuts_them() {
        for (start, end, expected) in [
            (0, -1, "hello"),
            (-100, -90, "h"),
            (-100, 2, "hel"),
            (3, 1, ""),
            (0, 100, "hello"),
            (5, 9, ""),
            (4, 9, "o"),
            (-1, -2, ""),
            (-2, -1, "lo"),
            (0, -100, "h"),
            (i64::MIN, i64::MAX, "hello"),
            (2, i64::MIN, ""),
            (i64::MAX, i64::MAX, ""),
        ] {
            assert_eq!(slice(b"hello", start, end), expected.as_bytes(), "{start} {end}");
        }
        assert_eq!(slice(b"", 0, -1), b"");
        assert_eq!(slice(b"", -5, 5), b"");
    }

    #[test]
    fn lengths_are_refused_beyond_the_limit_and_never_overflow() {
        assert!(check_length(VALUE_BYTES_MAX - 1, 1).is_ok());
        assert!(check_length(VALUE_BYTES_MAX, 1).is_err());
        assert!(check_length(usize::MAX, 1).is_err());
    }
}
