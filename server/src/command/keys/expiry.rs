//! Expiry: setting it, asking for it, removing it.

use std::borrow::Cow;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Txn, View};

use crate::command::{CommandError, Outcome, number::integer, pattern::is_word};

const MILLIS_PER_SECOND: i64 = 1_000;

/// What a command counts its times in, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) enum Clock {
    /// Milliseconds from now.
    Millis,
    /// Milliseconds since the Unix epoch.
    MillisSinceEpoch,
    /// Seconds from now.
    Seconds,
    /// Seconds since the Unix epoch.
    SecondsSinceEpoch,
}

impl Clock {
    const fn is_in_seconds(self) -> bool {
        matches!(self, Self::Seconds | Self::SecondsSinceEpoch)
    }

    const fn is_from_now(self) -> bool {
        matches!(self, Self::Millis | Self::Seconds)
    }

    /// `time` of this clock in milliseconds since the Unix epoch; negative for times before it.
    /// `None` where that does not fit.
    pub(in crate::command) fn to_unix_millis(self, time: i64, now_ms: u64) -> Option<i64> {
        let millis = if self.is_in_seconds() { time.checked_mul(MILLIS_PER_SECOND)? } else { time };
        let base = if self.is_from_now() { i64::try_from(now_ms).ok()? } else { 0 };
        millis.checked_add(base)
    }
}

/// The refusal of a time that cannot be an expiry; `command` in lower case.
pub(in crate::command) fn invalid_expire_time(command: &str) -> CommandError {
    CommandError::Message(Cow::Owned(format!("ERR invalid expire time in '{command}' command")))
}

/// Under which condition EXPIRE changes an expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Conditions {
    only_if_none: bool,
    only_if_some: bool,
    only_if_later: bool,
    only_if_sooner: bool,
}

impl Conditions {
    /// The conditions from the fourth argument of `request` on.
    fn parse(request: Request<'_>) -> Result<Self, CommandError> {
        let mut conditions = Self::default();
        for option in request.iter().skip(3) {
            if is_word(option, "nx") {
                conditions.only_if_none = true;
            } else if is_word(option, "xx") {
                conditions.only_if_some = true;
            } else if is_word(option, "gt") {
                conditions.only_if_later = true;
            } else if is_word(option, "lt") {
                conditions.only_if_sooner = true;
            } else {
                return Err(CommandError::quoting("ERR Unsupported option ", option, ""));
            }
        }
        conditions.check()
    }

    fn check(self) -> Result<Self, CommandError> {
        if self.only_if_none && (self.only_if_some || self.only_if_later || self.only_if_sooner) {
            return Err(CommandError::message(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if self.only_if_later && self.only_if_sooner {
            return Err(CommandError::message(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(self)
    }

    /// Whether `current` may become `wanted`. A key without expiry counts as expiring never.
    fn allow(self, current: Option<u64>, wanted: i64) -> bool {
        let wanted = i128::from(wanted);
        let current = current.map(i128::from);
        let refused = self.only_if_none && current.is_some()
            || self.only_if_some && current.is_none()
            || self.only_if_later && current.is_none_or(|current| wanted <= current)
            || self.only_if_sooner && current.is_some_and(|current| wanted >= current);
        !refused
    }
}

pub(super) fn expire(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    change(request, txn, reply, "expire", Clock::Seconds)
}

pub(super) fn pexpire(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    change(request, txn, reply, "pexpire", Clock::Millis)
}

pub(super) fn expireat(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    change(request, txn, reply, "expireat", Clock::SecondsSinceEpoch)
}

pub(super) fn pexpireat(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    change(request, txn, reply, "pexpireat", Clock::MillisSinceEpoch)
}

fn change(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
    command: &str,
    clock: Clock,
) -> Outcome {
    let conditions = Conditions::parse(request)?;
    let wanted = clock
        .to_unix_millis(integer(request.arg(2))?, txn.now_ms())
        .ok_or_else(|| invalid_expire_time(command))?;
    let key = request.arg(1);
    let Some(row) = txn.view().row(key)? else {
        reply.integer(0);
        return Ok(());
    };
    if !conditions.allow(row.as_ref().expiry(), wanted) {
        reply.integer(0);
        return Ok(());
    }
    expire_at(txn, key, wanted)?;
    reply.integer(1);
    Ok(())
}

/// Lets `key` expire at `unix_millis`: deletes it when that is now or in the past.
pub(in crate::command) fn expire_at(
    txn: &mut Txn<'_>,
    key: &[u8],
    unix_millis: i64,
) -> Result<(), CommandError> {
    match u64::try_from(unix_millis) {
        Ok(expiry) if expiry > txn.now_ms() => txn.set_expiry(key, Some(expiry))?,
        _ => txn.delete(key)?,
    };
    Ok(())
}

pub(super) fn persist(
    request: Request<'_>,
    txn: &mut Txn<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let key = request.arg(1);
    let row = txn.view().row(key)?;
    let expires = row.is_some_and(|row| row.as_ref().expiry().is_some());
    if expires {
        txn.set_expiry(key, None)?;
    }
    reply.integer(i64::from(expires));
    Ok(())
}

pub(super) fn ttl(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    tell(request, view, reply, |expiry| seconds(expiry.saturating_sub(view.now_ms())))
}

pub(super) fn pttl(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    tell(request, view, reply, |expiry| expiry.saturating_sub(view.now_ms()))
}

pub(super) fn expiretime(
    request: Request<'_>,
    view: &View<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    tell(request, view, reply, seconds)
}

pub(super) fn pexpiretime(
    request: Request<'_>,
    view: &View<'_>,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    tell(request, view, reply, |expiry| expiry)
}

/// Whole seconds, to the nearest, as Redis tells them.
const fn seconds(millis: u64) -> u64 {
    millis.saturating_add(500) / 1_000
}

/// Answers what `shown` makes of the expiry; -2 for an absent key, -1 for one that never expires.
fn tell(
    request: Request<'_>,
    view: &View<'_>,
    reply: &mut ReplyWriter<'_>,
    shown: impl Fn(u64) -> u64,
) -> Outcome {
    let answer = match view.row(request.arg(1))?.map(|row| row.as_ref().expiry()) {
        None => -2,
        Some(None) => -1,
        Some(Some(expiry)) => i64::try_from(shown(expiry)).unwrap_or(i64::MAX),
    };
    reply.integer(answer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_milliseconds_since_the_epoch_or_are_refused() {
        assert_eq!(Clock::Seconds.to_unix_millis(2, 10), Some(2_010));
        assert_eq!(Clock::Millis.to_unix_millis(-20, 10), Some(-10));
        assert_eq!(Clock::SecondsSinceEpoch.to_unix_millis(2, 10), Some(2_000));
        assert_eq!(Clock::MillisSinceEpoch.to_unix_millis(i64::MAX, 10), Some(i64::MAX));
        assert_eq!(Clock::Millis.to_unix_millis(i64::MAX, 10), None);
        assert_eq!(Clock::SecondsSinceEpoch.to_unix_millis(i64::MAX / 1_000 + 1, 0), None);
        assert_eq!(Clock::SecondsSinceEpoch.to_unix_millis(i64::MIN / 1_000 - 1, 0), None);
        assert_eq!(
            Clock::SecondsSinceEpoch.to_unix_millis(i64::MIN / 1_000, 0),
            Some(i64::MIN / 1_000 * 1_000)
        );
    }

    #[test]
    fn conditions_compare_with_the_present_expiry() {
        let none = Conditions { only_if_none: true, ..Conditions::default() };
        let some = Conditions { only_if_some: true, ..Conditions::default() };
        let later = Conditions { only_if_later: true, ..Conditions::default() };
        let sooner = Conditions { only_if_sooner: true, ..Conditions::default() };
        assert!(Conditions::default().allow(None, 5) && Conditions::default().allow(Some(9), 5));
        assert!(none.allow(None, 5) && !none.allow(Some(9), 5));
        assert!(some.allow(Some(9), 5) && !some.allow(None, 5));
        assert!(later.allow(Some(4), 5) && !later.allow(Some(5), 5) && !later.allow(None, 5));
        assert!(sooner.allow(Some(6), 5) && !sooner.allow(Some(5), 5) && sooner.allow(None, 5));
    }

    #[test]
    fn conditions_that_exclude_each_other_are_refused() {
        let [only_if_none, only_if_some, only_if_later, only_if_sooner] = [true; 4];
        let refused = Conditions { only_if_none, only_if_some, ..Conditions::default() };
        assert!(refused.check().is_err());
        let refused = Conditions { only_if_later, only_if_sooner, ..Conditions::default() };
        assert!(refused.check().is_err());
        let allowed = Conditions { only_if_some, only_if_later, ..Conditions::default() };
        assert!(allowed.check().is_ok());
    }

    #[test]
    fn seconds_are_rounded_to_the_nearest() {
        assert_eq!((seconds(499), seconds(500), seconds(1_499)), (0, 1, 1));
        assert_eq!(seconds(i64::MAX as u64), 9_223_372_036_854_776);
    }
}
