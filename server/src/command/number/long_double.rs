//! The 80 bit floating point numbers that INCRBYFLOAT and HINCRBYFLOAT count in.
//!
//! Redis computes in C's `long double`, which on x86-64 has a mantissa of 64 bits, reads with
//! `strtold` and prints with `%.17Lf` less trailing zeros (`string2ld` and `ld2string` of Redis
//! 7.0.15). Rust has no such type, so values are kept as mantissa and exponent, every operation is
//! computed exactly on large integers and then rounded once, to the nearest and ties to even,
//! which is what the hardware and the C library do.

use num_bigint::{BigInt, BigUint, Sign};

/// Redis refuses texts of this length and above (`MAX_LONG_DOUBLE_CHARS`), which bounds the work.
const TEXT_BYTES_END: usize = 5 * 1024;
const MANTISSA_BITS: i64 = 64;
/// Exponent of the least bit of the least number above zero.
const EXPONENT_MIN: i64 = -16_445;
/// Numbers are below two to this power.
const EXPONENT_END: i64 = 16_384;
/// Every decimal number with more digits than this before its point is beyond the largest.
const DIGITS_MAX: i64 = 4_933;
/// Every decimal number with more zeros than this behind its point is nearer to zero than to the
/// least.
const LEADING_ZEROS_MAX: i64 = 4_951;
/// Digits that are printed behind the point.
const FRACTION_DIGITS: usize = 17;

/// A number of x86's extended precision, or one of the infinities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) struct LongDouble {
    negative: bool,
    magnitude: Magnitude,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Magnitude {
    /// `mantissa` times two to the power of `exponent`.
    Finite {
        mantissa: u64,
        exponent: i64,
    },
    Infinite,
}

impl LongDouble {
    /// What an absent value counts as.
    pub(in crate::command) const ZERO: Self =
        Self { negative: false, magnitude: Magnitude::Finite { mantissa: 0, exponent: 0 } };

    /// The number that the whole of `text` is: decimal or hexadecimal, with an exponent or
    /// without, or an infinity. `None` for anything else, NaN included, and for numbers that are
    /// too large, or too small to differ from zero.
    pub(in crate::command) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= TEXT_BYTES_END {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Self { negative, magnitude: Magnitude::Infinite });
        }
        match digits {
            [b'0', b'x' | b'X', hexadecimal @ ..] => parse_hexadecimal(negative, hexadecimal),
            decimal => parse_decimal(negative, decimal),
        }
    }

    /// Whether this is neither infinity.
    pub(in crate::command) const fn is_finite(self) -> bool {
        matches!(self.magnitude, Magnitude::Finite { .. })
    }

    /// The rounded sum, or `None` where it is no finite number.
    pub(in crate::command) fn checked_add(self, other: Self) -> Option<Self> {
        let (left, left_exponent) = self.parts()?;
        let (right, right_exponent) = other.parts()?;
        let exponent = left_exponent.min(right_exponent);
        let sum =
            (left << bits(left_exponent - exponent)) + (right << bits(right_exponent - exponent));
        let negative = sum.sign() == Sign::Minus;
        round(negative, sum.magnitude(), exponent, false)
    }

    /// The number as Redis stores and replies it: 17 rounded digits behind the point, without the
    /// trailing zeros.
    pub(in crate::command) fn to_text(self) -> String {
        let Magnitude::Finite { mantissa, exponent } = self.magnitude else {
            return if self.negative { "-inf" } else { "inf" }.to_owned();
        };
        let sign = if self.negative { "-" } else { "" };
        if exponent >= 0 {
            let whole = BigUint::from(mantissa) << bits(exponent);
            return if mantissa == 0 { "0".to_owned() } else { format!("{sign}{whole}") };
        }
        let scaled = BigUint::from(mantissa) * BigUint::from(10u8).pow(FRACTION_DIGITS as u32);
        let digits = shifted_right(&scaled, bits(-exponent), false).to_string();
        let padded = format!("{digits:0>width$}", width = FRACTION_DIGITS + 1);
        let (whole, fraction) = padded.split_at(padded.len() - FRACTION_DIGITS);
        match (whole, fraction.trim_end_matches('0')) {
            ("0", "") => "0".to_owned(),
            (whole, "") => format!("{sign}{whole}"),
            (whole, fraction) => format!("{sign}{whole}.{fraction}"),
        }
    }

    /// Signed mantissa and exponent; `None` for the infinities.
    fn parts(self) -> Option<(BigInt, i64)> {
        let Magnitude::Finite { mantissa, exponent } = self.magnitude else { return None };
        let sign = if self.negative { Sign::Minus } else { Sign::Plus };
        Some((BigInt::from_biguint(sign, BigUint::from(mantissa)), exponent))
    }
}

/// The digits of a number without its point, and what stands behind them.
struct Digits<'a> {
    /// Without leading zeros.
    digits: Vec<u8>,
    /// How many of all digits stood behind the point.
    behind_point: i64,
    rest: &'a [u8],
}

/// Splits the digits off the front; `None` where there are none.
fn split_digits(text: &[u8], is_digit: fn(&u8) -> bool) -> Option<Digits<'_>> {
    let whole = text.iter().take_while(|byte| is_digit(byte)).count();
    let (mut digits, mut rest) = (text[..whole].to_vec(), &text[whole..]);
    let mut fraction = 0;
    if let [b'.', behind @ ..] = rest {
        fraction = behind.iter().take_while(|byte| is_digit(byte)).count();
        digits.extend_from_slice(&behind[..fraction]);
        rest = &behind[fraction..];
    }
    if digits.is_empty() {
        return None;
    }
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    digits.drain(..zeros);
    Some(Digits { digits, behind_point: i64::try_from(fraction).ok()?, rest })
}

/// The exponent that the whole of `text` is, marked by `mark` in lower case; zero for an empty
/// text. Exponents of great size are cut, far beyond what any number of digits could bring back.
fn parse_exponent(text: &[u8], mark: u8) -> Option<i64> {
    let [first, rest @ ..] = text else { return Some(0) };
    if first.to_ascii_lowercase() != mark {
        return None;
    }
    let (negative, digits) = match rest {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

fn parse_decimal(negative: bool, text: &[u8]) -> Option<LongDouble> {
    let Digits { digits, behind_point, rest } = split_digits(text, u8::is_ascii_digit)?;
    let exponent = parse_exponent(rest, b'e')? - behind_point;
    if digits.is_empty() {
        return Some(LongDouble { negative, ..LongDouble::ZERO });
    }
    // The first digit stands this many places before the point, or behind it where negative. What
    // is out of range is so found before any power of ten is computed.
    let places = i64::try_from(digits.len()).ok()? + exponent;
    if !(-LEADING_ZEROS_MAX..=DIGITS_MAX).contains(&places) {
        return None;
    }
    let number = BigUint::parse_bytes(&digits, 10)?;
    let power = BigUint::from(10u8).pow(u32::try_from(exponent.unsigned_abs()).ok()?);
    let parsed = if exponent >= 0 {
        round(negative, &(number * power), 0, false)
    } else {
        // Two bits more than a mantissa holds, and whether anything was left, decide the rounding.
        let shift = MANTISSA_BITS + 2 + bit_length(&power) - bit_length(&number);
        let (number, power) = if shift >= 0 {
            (number << bits(shift), power)
        } else {
            (number, power << bits(-shift))
        };
        let quotient = &number / &power;
        let is_exact = &quotient * &power == number;
        round(negative, &quotient, -shift, !is_exact)
    };
    parsed.filter(|number| number.magnitude != LongDouble::ZERO.magnitude)
}

fn parse_hexadecimal(negative: bool, text: &[u8]) -> Option<LongDouble> {
    let Digits { digits, behind_point, rest } = split_digits(text, u8::is_ascii_hexdigit)?;
    let exponent = parse_exponent(rest, b'p')? - 4 * behind_point;
    if digits.is_empty() {
        return Some(LongDouble { negative, ..LongDouble::ZERO });
    }
    let parsed = round(negative, &BigUint::parse_bytes(&digits, 16)?, exponent, false);
    parsed.filter(|number| number.magnitude != LongDouble::ZERO.magnitude)
}

/// The nearest number to `magnitude` times two to the power of `exponent`, or to a little more
/// than that where `has_rest`; ties go to the even mantissa. `None` where it is too large.
/// `magnitude` has more bits than a mantissa where `has_rest`.
fn round(negative: bool, magnitude: &BigUint, exponent: i64, has_rest: bool) -> Option<LongDouble> {
    if *magnitude == BigUint::ZERO {
        return Some(LongDouble { negative, ..LongDouble::ZERO });
    }
    if bit_length(magnitude) + exponent > EXPONENT_END {
        return None;
    }
    if bit_length(magnitude) + exponent < EXPONENT_MIN {
        return Some(LongDouble { negative, ..LongDouble::ZERO });
    }
    let dropped = (bit_length(magnitude) - MANTISSA_BITS).max(EXPONENT_MIN - exponent);
    let (mut mantissa, mut exponent) = if dropped > 0 {
        (shifted_right(magnitude, bits(dropped), has_rest), exponent + dropped)
    } else {
        (magnitude.clone(), exponent)
    };
    if bit_length(&mantissa) > MANTISSA_BITS {
        // Rounding up carried into one bit more, and left only zeros below it.
        mantissa >>= 1u32;
        exponent += 1;
    }
    if bit_length(&mantissa) + exponent > EXPONENT_END {
        return None;
    }
    let mantissa = u64::try_from(mantissa).ok()?;
    let magnitude = if mantissa == 0 {
        LongDouble::ZERO.magnitude
    } else {
        Magnitude::Finite { mantissa, exponent }
    };
    Some(LongDouble { negative, magnitude })
}

/// `number` without its lowest `dropped` bits, rounded to the nearest and ties to even.
fn shifted_right(number: &BigUint, dropped: u64, has_rest: bool) -> BigUint {
    let mut kept = number >> dropped;
    if dropped > 0 && number.bit(dropped - 1) {
        let is_tie = !has_rest && number.trailing_zeros() == Some(dropped - 1);
        if !is_tie || kept.bit(0) {
            kept += 1u32;
        }
    }
    kept
}

fn bit_length(number: &BigUint) -> i64 {
    i64::try_from(number.bits()).expect("numbers have at most a few tens of thousands of bits")
}

fn bits(count: i64) -> u64 {
    u64::try_from(count).expect("callers shift by differences that are not negative")
}

#[cfg(test)]
#[path = "long_double_tests.rs"]
mod tests;
