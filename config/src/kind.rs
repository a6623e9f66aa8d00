//! The kinds of values that CONFIG SET takes, read as Redis 7.0.15 reads them, its corner cases included: a
//! number of bytes without digits is 0, a word is a C string and ends at a NUL.

use std::{borrow::Cow, num::IntErrorKind};

use crate::tuning::TEXT_BYTES_MAX;

/// Why a value is refused, in Redis' words.
type Reason = Cow<'static, str>;

/// The events that `A` stands for, in the order in which they are answered.
const ALL_EVENTS: &str = "g$lshzxetd";
const SHUTDOWN_WORDS: &[&str] = &["default", "save", "nosave", "now", "force"];
/// Redis copies digits into a buffer of this.
const DIGITS_MAX: usize = 127;

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another name of the parameter that it names.
    Alias(&'static str),
    /// A word of this kind, but where it is the first of the two it is answered as the second.
    Answered(&'static Self, &'static str, &'static str),
    /// For classes of clients: two numbers of bytes, and one of seconds.
    BufferLimits,
    /// A number of bytes between two bounds, both included, with a unit or without.
    Bytes(u64, u64),
    /// A number of bytes, or a percentage.
    BytesOrPercent,
    /// A number of this kind, brought between two bounds.
    Clamped(&'static Self, i64, i64),
    /// Letters for classes of events.
    Events,
    /// Cannot be set.
    Immutable,
    /// An integer between two bounds, both included.
    Integer(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Three numbers.
    OomScores,
    /// Percentiles.
    Percentiles,
    /// Cannot be set by clients.
    Protected,
    /// Pairs of seconds and changes, or nothing.
    SavePoints,
    /// Words that say how to shut down.
    ShutdownWords,
    /// Anything.
    Text,
    /// `yes` or `no`.
    YesNo,
}

impl Kind {
    /// Why no value is taken, where none is.
    pub const fn fixed(self) -> Option<&'static str> {
        match self {
            Self::Immutable => Some("can't set immutable config"),
            Self::Protected => Some("can't set protected config"),
            _ => None,
        }
    }

    /// The value as it is remembered and answered, where `current` is what was remembered before.
    ///
    /// # Errors
    /// Redis' reason for refusing it; or that it is longer than is remembered, or no UTF-8.
    pub fn accept(self, value: &[u8], current: &str) -> Result<String, Reason> {
        expect_short(value.len())?;
        let whole = String::from_utf8_lossy(value);
        let text = whole.split('\0').next().unwrap_or_default();
        match self {
            Self::Answered(kind, word, answered) => {
                let accepted = kind.accept(value, current)?;
                Ok(if accepted == word { answered.to_owned() } else { accepted })
            }
            Self::BufferLimits => buffer_limits(text, current),
            Self::Bytes(least, most) => match bytes(text) {
                Some(count) => within(count, least, most),
                None => Err("argument must be a memory value".into()),
            },
            Self::BytesOrPercent => bytes_or_percent(text, &whole),
            Self::Clamped(kind, least, most) => {
                let accepted = kind.accept(value, current)?;
                let number = accepted.parse().unwrap_or(i64::MAX);
                Ok(number.clamp(least, most).to_string())
            }
            Self::Events => events(text),
            Self::Immutable | Self::Protected => Err(self.fixed().unwrap_or_default().into()),
            Self::Integer(least, most) => match canonical(&whole) {
                Some(number) => within(number, least, most),
                None => Err("argument couldn't be parsed into an integer".into()),
            },
            Self::OneOf(words) => one_of(text, words).map(str::to_owned),
            Self::OomScores => oom_scores(text),
            Self::Percentiles => percentiles(&whole),
            Self::SavePoints => save_points(text),
            Self::ShutdownWords => shutdown_words(text),
            Self::Alias(_) | Self::Text if str::from_utf8(value).is_err() => {
                Err("a value that is no UTF-8 is not remembered".into())
            }
            Self::Alias(_) | Self::Text => Ok(text.to_owned()),
            Self::YesNo => one_of(text, &["yes", "no"])
                .map(str::to_owned)
                .map_err(|_| "argument must be 'yes' or 'no'".into()),
        }
    }
}

/// Before the value is read: what that takes is counted nowhere.
fn expect_short(bytes: usize) -> Result<(), Reason> {
    if bytes > TEXT_BYTES_MAX {
        return Err(format!(
            "a value of {bytes} bytes is larger than the limit of {TEXT_BYTES_MAX}"
        )
        .into());
    }
    Ok(())
}

fn within<N: PartialOrd + std::fmt::Display>(
    number: N,
    least: N,
    most: N,
) -> Result<String, Reason> {
    if least <= number && number <= most {
        Ok(number.to_string())
    } else {
        Err(format!("argument must be between {least} and {most} inclusive").into())
    }
}

/// The words between single spaces; none in an empty text.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split(' ').collect() }
}

/// An integer as it is printed, and in no other way.
fn canonical(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

/// An integer as `strtoll` reads it: of no digits it is 0, and beyond the bounds these.
fn c_integer(word: &str) -> Option<i64> {
    match word.parse::<i64>() {
        Ok(number) => Some(number),
        Err(error) => match error.kind() {
            IntErrorKind::Empty => Some(0),
            IntErrorKind::PosOverflow => Some(i64::MAX),
            IntErrorKind::NegOverflow => Some(i64::MIN),
            _ => None,
        },
    }
}

fn one_of<'w>(text: &str, words: &[&'w str]) -> Result<&'w str, Reason> {
    let word = words.iter().find(|word| word.eq_ignore_ascii_case(text)).copied();
    word.ok_or_else(|| {
        format!("argument(s) must be one of the following: {}", words.join(", ")).into()
    })
}

/// A number of bytes in Redis' notation: `k`, `m` and `g` are powers of 1000, `kb`, `mb` and `gb`
/// of 1024. What overflows wraps around.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    let number = if number.is_empty() { 0 } else { number.parse().unwrap_or(u64::MAX) };
    (digits <= DIGITS_MAX).then(|| number.wrapping_mul(scale))
}

/// A percentage is negative for Redis, and so is a number of bytes that is too large.
fn bytes_or_percent(text: &str, whole: &str) -> Result<String, Reason> {
    let percent = || {
        let number = whole.strip_suffix('%').and_then(canonical)?;
        (number >= 0).then_some(-number)
    };
    match bytes(text).map(u64::cast_signed).or_else(percent) {
        None => Err("argument must be a memory or percent value".into()),
        Some(..-100) => Err("percentage argument must be less or equal to 100".into()),
        Some(percent @ -100..0) => Ok(format!("{}%", -percent)),
        Some(bytes) => Ok(bytes.to_string()),
    }
}

fn save_points(text: &str) -> Result<String, Reason> {
    let point = |pair: &[&str]| {
        let [seconds, changes] = pair else { return None };
        let (seconds, changes) = (c_integer(seconds)?, c_integer(changes)?);
        // Redis keeps the changes in 32 bits.
        (seconds >= 1 && changes >= 0).then(|| format!("{seconds} {}", changes as i32))
    };
    let points: Option<Vec<String>> = words(text).chunks(2).map(point).collect();
    points.map(|points| points.join(" ")).ok_or_else(|| "Invalid save parameters".into())
}

/// Changes those of the current limits whose classes are named.
fn buffer_limits(text: &str, current: &str) -> Result<String, Reason> {
    let words = words(text);
    let (groups, []) = words.as_chunks::<4>() else {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    };
    let mut limits: Vec<String> = current.split(' ').map(str::to_owned).collect();
    for [class, hard, soft, seconds] in groups {
        let class = match class.to_ascii_lowercase().as_str() {
            "normal" => 0,
            "replica" | "slave" => 1,
            "pubsub" => 2,
            _ => {
                let reason = "Invalid client class specified in buffer limit configuration.";
                return Err(reason.into());
            }
        };
        // Redis keeps the seconds in 32 bits.
        let seconds = c_integer(seconds).map(|seconds| seconds as i32).filter(|count| *count >= 0);
        let (Some(hard), Some(soft), Some(seconds)) = (bytes(hard), bytes(soft), seconds) else {
            return Err(
                "Error in hard, soft or soft_seconds setting in buffer limit configuration.".into(),
            );
        };
        let at = 4 * class + 1;
        limits.splice(at..at + 3, [hard.to_string(), soft.to_string(), seconds.to_string()]);
    }
    Ok(limits.join(" "))
}

fn events(text: &str) -> Result<String, Reason> {
    let is_known = |class: char| ALL_EVENTS.contains(class) || "AnKEm".contains(class);
    if !text.chars().all(is_known) {
        return Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".into());
    }
    let given = |class: &char| text.contains(*class);
    let mut classes = String::from("A");
    if !given(&'A') && !ALL_EVENTS.chars().all(|class| given(&class)) {
        classes = ALL_EVENTS.chars().chain(['n']).filter(given).collect();
    }
    classes.extend("KEm".chars().filter(given));
    Ok(classes)
}

fn oom_scores(text: &str) -> Result<String, Reason> {
    let words = words(text);
    if words.len() != 3 {
        return Err("wrong number of arguments".into());
    }
    let score = |word: &&str| {
        let score = c_integer(word).filter(|score| (-2_000..=2_000).contains(score));
        score.map(|score| score.to_string())
    };
    let scores: Option<Vec<String>> = words.iter().map(score).collect();
    scores.map(|scores| scores.join(" ")).ok_or_else(|| {
        "Invalid oom-score-adj-values, elements must be between -2000 and 2000.".into()
    })
}

fn shutdown_words(text: &str) -> Result<String, Reason> {
    let given: Result<Vec<&str>, Reason> =
        text.split(' ').map(|word| one_of(word, SHUTDOWN_WORDS)).collect();
    let given = given?;
    if given.contains(&"save") && given.contains(&"nosave") {
        return Err("shutdown options SAVE and NOSAVE can't be used simultaneously".into());
    }
    let set: Vec<&str> =
        SHUTDOWN_WORDS.iter().skip(1).copied().filter(|word| given.contains(word)).collect();
    Ok(if set.is_empty() { "default".to_owned() } else { set.join(" ") })
}

fn percentiles(text: &str) -> Result<String, Reason> {
    let percentile = |word: &str| {
        let Some(number) = word.parse::<f64>().ok().filter(|number| !number.is_nan()) else {
            return Err("Invalid latency-tracking-info-percentiles parameters".into());
        };
        if !(0.0..=100.0).contains(&number) {
            return Err(
                "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]"
                    .into(),
            );
        }
        let printed = format!("{number:.6}");
        Ok(printed.trim_end_matches('0').trim_end_matches('.').to_owned())
    };
    let printed: Result<Vec<String>, Reason> = words(text).into_iter().map(percentile).collect();
    Ok(printed?.join(" "))
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
