//! The options of SET and GETEX.

use larder_resp::Request;

use crate::command::{
    CommandError,
    keys::{Clock, invalid_expire_time},
    number::integer,
    pattern::is_word,
};

/// Whose options are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Getex,
    Set,
}

/// The options of SET and GETEX. The argument of an expiry is checked only by
/// [`Options::expiry`], because GETEX looks at the key before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options<'a> {
    pub(super) only_if_absent: bool,
    pub(super) only_if_present: bool,
    pub(super) answers_old: bool,
    pub(super) keeps_expiry: bool,
    pub(super) persists: bool,
    time: Option<(Clock, &'a [u8])>,
}

impl<'a> Options<'a> {
    /// The options of `request`.
    ///
    /// # Errors
    /// [`CommandError::Syntax`] for unknown options and for those that exclude each other.
    pub(super) fn parse(request: Request<'a>, of: Of) -> Result<Self, CommandError> {
        let first = if of == Of::Set { 3 } else { 2 };
        Self::parse_words(request.iter().skip(first), of)
    }

    fn parse_words(
        mut words: impl Iterator<Item = &'a [u8]>,
        of: Of,
    ) -> Result<Self, CommandError> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            let is_set = of == Of::Set;
            if is_word(word, "nx") && is_set && !options.only_if_present {
                options.only_if_absent = true;
            } else if is_word(word, "xx") && is_set && !options.only_if_absent {
                options.only_if_present = true;
            } else if is_word(word, "get") && is_set {
                options.answers_old = true;
            } else if is_word(word, "keepttl") && is_set && options.time.is_none() {
                options.keeps_expiry = true;
            } else if is_word(word, "persist") && !is_set && options.time.is_none() {
                options.persists = true;
            } else {
                let clock = clock(word).ok_or(CommandError::Syntax)?;
                let is_free = options.time.is_none_or(|(other, _)| other == clock)
                    && !options.keeps_expiry
                    && !options.persists;
                let time = words.next().filter(|_| is_free).ok_or(CommandError::Syntax)?;
                options.time = Some((clock, time));
            }
        }
        Ok(options)
    }

    /// When the key shall expire, in milliseconds since the Unix epoch. `command` in lower case.
    ///
    /// # Errors
    /// When the time is no integer, not positive, or too large.
    pub(super) fn expiry(&self, now_ms: u64, command: &str) -> Result<Option<u64>, CommandError> {
        self.time.map(|(clock, time)| expiry(clock, time, now_ms, command)).transpose()
    }
}

fn clock(word: &[u8]) -> Option<Clock> {
    [
        ("ex", Clock::Seconds),
        ("px", Clock::Millis),
        ("exat", Clock::SecondsSinceEpoch),
        ("pxat", Clock::MillisSinceEpoch),
    ]
    .into_iter()
    .find_map(|(name, clock)| is_word(word, name).then_some(clock))
}

/// When a key expires whose expiry was given as `time`, in milliseconds since the Unix epoch.
///
/// # Errors
/// As [`Options::expiry`].
pub(super) fn expiry(
    clock: Clock,
    time: &[u8],
    now_ms: u64,
    command: &str,
) -> Result<u64, CommandError> {
    let time = integer(time)?;
    let millis = clock.to_unix_millis(time, now_ms).filter(|_| time > 0);
    millis.and_then(|millis| u64::try_from(millis).ok()).ok_or_else(|| invalid_expire_time(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &'static str, of: Of) -> Option<Options<'static>> {
        Options::parse_words(words.split_whitespace().map(str::as_bytes), of).ok()
    }

    #[test]
    fn options_may_stand_in_any_order_and_case_and_twice() {
        let options = parse("nX GET px 5 NX Px 7", Of::Set).unwrap();
        assert!(options.only_if_absent && options.answers_old && !options.only_if_present);
        assert_eq!(options.expiry(100, "set").unwrap(), Some(107));
        assert!(parse("keepttl KEEPTTL", Of::Set).unwrap().keeps_expiry);
        assert!(parse("persist PERSIST", Of::Getex).unwrap().persists);
        assert_eq!(parse("", Of::Set), Some(Options::default()));
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for words in [
            "nx xx",
            "xx nx",
            "ex 1 px 1",
            "px 1 exat 1",
            "ex 1 keepttl",
            "keepttl ex 1",
            "ex",
            "nx px",
            "persist",
            "foo",
            "pxat 1 px",
        ] {
            assert_eq!(parse(words, Of::Set), None, "SET {words}");
        }
        for words in ["nx", "xx", "get", "keepttl", "persist ex 1", "ex 1 persist", "ex"] {
            assert_eq!(parse(words, Of::Getex), None, "GETEX {words}");
        }
    }

    #[test]
    fn times_are_counted_from_now_or_from_the_epoch() {
        for (words, expected) in
            [("ex 2", 3_000), ("px 2", 1_002), ("exat 2", 2_000), ("pxat 2", 2)]
        {
            let options = parse(words, Of::Set).unwrap();
            assert_eq!(options.expiry(1_000, "set").unwrap(), Some(expected), "{words}");
        }
    }

    #[test]
    fn times_that_are_no_expiry_are_refused() {
        for (words, expected) in [
            ("ex 0", "ERR invalid expire time in 'set' command"),
            ("pxat -1", "ERR invalid expire time in 'set' command"),
            ("ex 9223372036854775", "ERR invalid expire time in 'set' command"),
            ("px 9223372036854775807", "ERR invalid expire time in 'set' command"),
            ("px a", "ERR value is not an integer or out of range"),
        ] {
            let refusal = parse(words, Of::Set).unwrap().expiry(1_700_000_000_000, "set");
            assert_eq!(refusal.unwrap_err().to_string(), expected, "{words}");
        }
    }
}
