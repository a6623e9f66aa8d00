//! Decimal numbers as RESP writes them.

/// Digits of `u64::MAX`.
const DIGITS_MAX: usize = 20;
/// Where the `\r\n` of a [`NumberLine`] lies, behind type, sign and digits.
const NUMBER_END: usize = DIGITS_MAX + 2;

/// Reads a whole decimal number: an optional `-`, no `+`, no leading zeros, no spaces.
/// As `string2ll` of Redis.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let leading_zero = digits.first() == Some(&b'0');
    if digits.is_empty() || digits.len() > DIGITS_MAX || (leading_zero && text.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        let shifted = value.checked_mul(10)?;
        let digit = i64::from(digit);
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    })
}

/// Reads the common case of a length, one to nine digits and the `\r\n` after them. Gives the
/// number and where the line after it begins in `text`; `None` says nothing about validity.
#[inline]
pub(crate) fn short_length(text: &[u8]) -> Option<(usize, usize)> {
    let first = text.first()?.wrapping_sub(b'0');
    if first > 9 {
        return None;
    }
    let mut value = usize::from(first);
    for index in 1..10 {
        let byte = *text.get(index)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let whole =
                byte == b'\r' && text.len() > index.saturating_add(1) && (first != 0 || index == 1);
            return if whole { Some((value, index.saturating_add(2))) } else { None };
        }
        // Nine digits do not wrap.
        value = value.wrapping_mul(10).wrapping_add(usize::from(digit));
    }
    None
}

/// A line of one type byte, a number and `\r\n`, made without formatting machinery.
pub(crate) struct NumberLine {
    bytes: [u8; NUMBER_END + 2],
    start: usize,
}

impl NumberLine {
    /// The line `kind`, `number`, `\r\n`.
    #[inline]
    pub(crate) fn new(kind: u8, number: i64) -> Self {
        let mut line = Self::unsigned(kind, number.unsigned_abs());
        if number < 0 {
            line.bytes[line.start] = b'-';
            line.start = line.start.wrapping_sub(1);
            line.bytes[line.start] = kind;
        }
        line
    }

    /// The line `kind`, `number`, `\r\n`.
    #[inline]
    pub(crate) fn unsigned(kind: u8, mut number: u64) -> Self {
        let mut bytes = [0; NUMBER_END + 2];
        bytes[NUMBER_END..].copy_from_slice(b"\r\n");
        let mut start = NUMBER_END;
        // There is room for every number: an index that wrapped would not be one of the array's.
        loop {
            start = start.wrapping_sub(1);
            bytes[start] = b'0' | (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        start = start.wrapping_sub(1);
        bytes[start] = kind;
        Self { bytes, start }
    }

    /// The whole line.
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("1024", Some(1024)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999999", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1x", None),
            ("0x1", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_short_length_is_read_only_with_its_whole_line() {
        for (text, expected) in [
            ("3\r\n", Some((3, 3))),
            ("0\r\nx", Some((0, 3))),
            ("64\r\n", Some((64, 4))),
            ("123456789\r\n", Some((123_456_789, 11))),
            ("1234567890\r\n", None),
            ("3\r", None),
            ("3", None),
            ("", None),
            ("\r\n", None),
            ("-1\r\n", None),
            ("03\r\n", None),
            ("3x\r\n", None),
        ] {
            assert_eq!(short_length(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn number_lines_are_what_the_formatter_would_write() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, -1, -10, i64::MAX, i64::MIN] {
            let expected = format!(":{number}\r\n");
            assert_eq!(NumberLine::new(b':', number).as_bytes(), expected.as_bytes());
        }
        let largest = NumberLine::unsigned(b'$', u64::MAX);
        assert_eq!(largest.as_bytes(), format!("${}\r\n", u64::MAX).as_bytes());
    }
}
