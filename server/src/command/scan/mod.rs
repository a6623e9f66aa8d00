//! Scans with cursors: SCAN, KEYS and RANDOMKEY, and the parts that HSCAN shares with SCAN.
//!
//! Rows lie in the order of (unit, key). A cursor on the wire is one number: its low 14 bits are
//! the unit to go on from, the bits above are the id of a remembered place within that unit, or
//! zero for the unit's start. SCAN prefers to stop where a unit ends, which needs no memory. An id
//! that has been forgotten goes on from the start of its unit: some rows are then answered twice,
//! which SCAN allows, and none is left out.

mod cursors;
#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod iteration_tests;

use std::ops::ControlFlow;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{ScanPosition, View, row::RowRef};
use larder_types::{UNITS, Unit};
use rand::Rng;

use super::{
    Command, CommandError, Handler, Outcome, Pattern, expect_room,
    keys::{NO_KEYS, command, type_name},
    number::integer,
    pattern::{MATCH_STEPS_MAX, c_text, is_word},
};

pub(super) use cursors::{leave, recall, remember};

/// Rows of one SCAN where COUNT does not say.
const COUNT_DEFAULT: usize = 10;
/// A greater COUNT counts as this many.
const COUNT_MAX: usize = 1_000_000;
/// How many rows beyond COUNT are visited, at most, to reach the end of a unit.
const ROWS_BEYOND_COUNT_MAX: usize = 1_000;
/// Once a SCAN has found this much, it stops and answers a cursor.
const SCAN_BYTES_MAX: usize = 16 << 20;
/// KEYS refuses to answer more than this; it answers everything at once.
const KEYS_BYTES_MAX: usize = 64 << 20;
/// What a found key costs beside its bytes.
const FOUND_OVERHEAD_BYTES: usize = 16;
/// Steps of matching that all the texts of one KEYS may cost: a fraction of a second. With a
/// pattern such as `user:*` it is enough for 20 million keys.
const KEYS_STEPS_MAX: u64 = 1 << 27;
/// RANDOMKEY picks one of this many neighbours.
const RANDOM_NEIGHBOURS: usize = 16;

const TOO_MANY_KEYS: CommandError =
    CommandError::message("ERR KEYS would answer more than 64 MiB; use SCAN");

/// The commands that scan.
pub(super) const COMMANDS: &[Command] = &[
    command("keys", 2, &["readonly"], NO_KEYS, KEYS_CATEGORIES, Handler::Read(keys)),
    command("randomkey", 1, &["readonly"], NO_KEYS, SCAN_CATEGORIES, Handler::Read(randomkey)),
    command("scan", -2, &["readonly"], NO_KEYS, SCAN_CATEGORIES, Handler::Read(scan)),
];

const KEYS_CATEGORIES: &[&str] = &["@keyspace", "@read", "@slow", "@dangerous"];
const SCAN_CATEGORIES: &[&str] = &["@keyspace", "@read", "@slow"];

/// The cursor that `text` is, as C's `strtoul` reads it: the empty text is zero, and a minus sign
/// counts down from the top.
///
/// # Errors
/// `invalid cursor` for anything else.
pub(super) fn parse_cursor(text: &[u8]) -> Result<u64, CommandError> {
    const INVALID: CommandError = CommandError::message("ERR invalid cursor");
    let text = c_text(text);
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() && !text.is_empty() {
        return Err(INVALID);
    }
    let value = digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    });
    let value = value.ok_or(INVALID)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// The options of SCAN and HSCAN.
pub(super) struct ScanOptions<'a> {
    /// How many elements to visit, more or less; from 1 to a million.
    pub(super) count: usize,
    pattern: Option<Pattern<'a>>,
    type_name: Option<&'a [u8]>,
    /// What matching may still cost in this call.
    steps_left: u64,
}

impl<'a> ScanOptions<'a> {
    /// The options from argument `first` on. TYPE is known where `of_keys`.
    ///
    /// # Errors
    /// For unknown options and for a COUNT that is no positive integer.
    pub(super) fn parse(
        request: Request<'a>,
        first: usize,
        of_keys: bool,
    ) -> Result<Self, CommandError> {
        let (count, mut pattern, mut type_name) = (COUNT_DEFAULT, None, None);
        let mut options =
            Self { count, pattern: None, type_name: None, steps_left: MATCH_STEPS_MAX };
        let mut arguments = request.iter().skip(first);
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or(CommandError::Syntax)?;
            if is_word(option, "count") {
                let count = integer(value)?;
                if count < 1 {
                    return Err(CommandError::Syntax);
                }
                options.count = usize::try_from(count).unwrap_or(COUNT_MAX).min(COUNT_MAX);
            } else if is_word(option, "match") {
                pattern =
                    Some(Pattern::of_client(value)?).filter(|pattern| !pattern.is_everything());
            } else if is_word(option, "type") && of_keys {
                type_name = Some(value);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(Self { pattern, type_name, ..options })
    }

    /// Whether MATCH lets the element `text` through.
    ///
    /// # Errors
    /// When the matching of this one text takes too long.
    pub(super) fn admits(&mut self, text: &[u8]) -> Result<bool, CommandError> {
        let Some(pattern) = self.pattern else { return Ok(true) };
        let mut steps = MATCH_STEPS_MAX;
        let matched = pattern.matches_within(text, &mut steps).ok_or(CommandError::TooManySteps)?;
        self.steps_left = self.steps_left.saturating_sub(MATCH_STEPS_MAX - steps);
        Ok(matched)
    }

    /// Whether this call has matched so much that it ought to stop with a cursor.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.steps_left == 0
    }

    fn admits_row(&mut self, key: &[u8], row: RowRef<'_>) -> Result<bool, CommandError> {
        if self.type_name.is_some_and(|wanted| !is_word(wanted, type_name(row.value()))) {
            return Ok(false);
        }
        self.admits(key)
    }
}

/// Found keys, end to end.
#[derive(Default)]
struct Found {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Found {
    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    fn cost_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * FOUND_OVERHEAD_BYTES
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..*self.ends.get(index)?])
    }

    fn reply(&self, reply: &mut ReplyWriter<'_>) -> Outcome {
        expect_room(reply, self.bytes.len())?;
        reply.array(self.ends.len());
        for key in (0..self.ends.len()).filter_map(|index| self.key(index)) {
            reply.bulk(key);
        }
        Ok(())
    }
}

fn scan(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let cursor = parse_cursor(request.arg(1))?;
    let mut options = ScanOptions::parse(request, 2, true)?;
    let mut found = Found::default();
    let next = scan_from(view, cursor, &mut options, &mut found)?;
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    found.reply(reply)
}

/// Visits rows from `cursor` on, and answers the cursor to go on from; zero at the end.
fn scan_from(
    view: &View<'_>,
    cursor: u64,
    options: &mut ScanOptions<'_>,
    found: &mut Found,
) -> Result<u64, CommandError> {
    let rows_max = options.count + options.count.min(ROWS_BEYOND_COUNT_MAX);
    let mut rows = 0;
    let mut last_unit = None;
    let mut border = None;
    let mut refusal = None;
    let mut visit = |key: &[u8], row: RowRef<'_>| {
        if rows >= options.count {
            let unit = Unit::of_key(key);
            if last_unit.is_some_and(|last| last != unit) {
                // The first row of the next unit: left to the next call.
                border = Some(unit);
                return ControlFlow::Break(());
            }
        }
        match options.admits_row(key, row) {
            Ok(true) => found.push(key),
            Ok(false) => {}
            Err(error) => {
                refusal = Some(error);
                return ControlFlow::Break(());
            }
        }
        rows += 1;
        if rows >= options.count {
            last_unit = Some(Unit::of_key(key));
        }
        let is_enough =
            rows >= rows_max || options.is_exhausted() || found.cost_bytes() >= SCAN_BYTES_MAX;
        if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped = view.scan(start_of(cursor), &mut visit)?;
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let next_unit = match (border, stopped) {
        (Some(unit), _) => unit.as_u16(),
        (None, Some(ScanPosition { unit, after: Some(key) })) => {
            return Ok(remember(cursor, unit, None, &key));
        }
        (None, Some(ScanPosition { unit, after: None })) => unit,
        (None, None) => 0,
    };
    leave(cursor, None);
    Ok(next_unit.into())
}

fn start_of(cursor: u64) -> ScanPosition {
    let unit = cursors::unit_of(cursor);
    ScanPosition { unit, after: recall(cursor, None).map(Vec::from) }
}

fn keys(request: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let pattern = Pattern::of_client(request.arg(1))?;
    matching_keys(view, pattern, KEYS_BYTES_MAX)?.reply(reply)
}

/// All keys that match, where they cost `bytes_max` at most.
fn matching_keys(
    view: &View<'_>,
    pattern: Pattern<'_>,
    bytes_max: usize,
) -> Result<Found, CommandError> {
    let mut found = Found::default();
    let mut refusal = None;
    let mut steps_left = KEYS_STEPS_MAX;
    view.scan(ScanPosition::default(), &mut |key, _| {
        let matched = pattern.is_everything() || {
            let mut steps = MATCH_STEPS_MAX.min(steps_left);
            let granted = steps;
            let matched = pattern.matches_within(key, &mut steps);
            steps_left -= granted - steps;
            match matched {
                Some(matched) => matched,
                None => {
                    refusal = Some(CommandError::TooManySteps);
                    return ControlFlow::Break(());
                }
            }
        };
        if matched {
            found.push(key);
        }
        if found.cost_bytes() > bytes_max {
            refusal = Some(TOO_MANY_KEYS);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    refusal.map_or(Ok(found), Err)
}

/// Starts at a random unit and picks one of the next few rows. Keys behind wide gaps come up more
/// often than others, as in Redis those in short chains do.
fn randomkey(_: Request<'_>, view: &View<'_>, reply: &mut ReplyWriter<'_>) -> Outcome {
    let mut random = rand::rng();
    let start = ScanPosition { unit: random.random_range(0..UNITS), after: None };
    let mut neighbours = first_rows(view, start)?;
    if neighbours.ends.is_empty() {
        neighbours = first_rows(view, ScanPosition::default())?;
    }
    let count = neighbours.ends.len();
    let chosen = if count == 0 { None } else { neighbours.key(random.random_range(0..count)) };
    match chosen {
        Some(key) => reply.bulk(key),
        None => reply.null(),
    }
    Ok(())
}

fn first_rows(view: &View<'_>, start: ScanPosition) -> Result<Found, CommandError> {
    let mut found = Found::default();
    view.scan(start, &mut |key, _| {
        found.push(key);
        if found.ends.len() < RANDOM_NEIGHBOURS {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_strtoul_reads_them() {
        for (text, expected) in [
            (&b""[..], Some(0)),
            (b"0", Some(0)),
            (b"00", Some(0)),
            (b"+5", Some(5)),
            (b"-5", Some(u64::MAX - 4)),
            (b"0\0x", Some(0)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"-", None),
            (b"+", None),
            (b" 5", None),
            (b"5 ", None),
            (b"0a", None),
            (b"--1", None),
        ] {
            assert_eq!(parse_cursor(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn found_keys_come_out_as_they_went_in() {
        let mut found = Found::default();
        for key in [&b"a"[..], b"", b"bc"] {
            found.push(key);
        }
        assert_eq!((found.key(0), found.key(1)), (Some(&b"a"[..]), Some(&b""[..])));
        assert_eq!((found.key(2), found.key(3)), (Some(&b"bc"[..]), None));
    }
}
