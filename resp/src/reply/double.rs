//! Doubles as RESP prints them.

use std::fmt::{self, Write};

/// Longest text: sign, 17 digits, point, exponent; or 4 zeros after a point and 17 digits.
const TEXT_BYTES_MAX: usize = 32;
/// From this decimal exponent on, `%.17g` writes an exponent.
const PLAIN_EXPONENTS_END: i32 = 17;
/// Below this decimal exponent, `%.17g` writes an exponent.
const PLAIN_EXPONENTS_START: i32 = -4;

/// The text of a double, without a heap allocation.
#[derive(Default)]
pub(super) struct DoubleText {
    bytes: [u8; TEXT_BYTES_MAX],
    len: usize,
}

impl DoubleText {
    /// The fewest digits that read back as `value`, laid out as C's `%.17g` does; `inf`, `-inf`
    /// and `nan` for what is no number.
    pub(super) fn new(value: f64) -> Self {
        let mut text = Self::default();
        if value.is_nan() {
            text.push_bytes(b"nan");
        } else if value.is_infinite() {
            text.push_bytes(if value > 0.0 { b"inf" } else { b"-inf" });
        } else {
            text.push_finite(value);
        }
        text
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push_finite(&mut self, value: f64) {
        let mut scientific = Self::default();
        write!(scientific, "{:e}", value.abs()).expect("24 bytes at most");
        let (digits, point, exponent) = scientific.parts();
        if value.is_sign_negative() {
            self.push_bytes(b"-");
        }
        if (PLAIN_EXPONENTS_START..PLAIN_EXPONENTS_END).contains(&exponent) {
            write!(self, "{}", value.abs()).expect("23 bytes at most");
            return;
        }
        self.push_bytes(&digits[..1]);
        if point {
            self.push_bytes(&digits[1..]);
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(self, "e{sign}{:02}", exponent.abs()).expect("5 bytes at most");
    }

    /// Of `d.ddde-x`: all before the `e`, whether there is a point, the exponent.
    fn parts(&self) -> (&[u8], bool, i32) {
        let text = self.as_bytes();
        let mark = text.iter().position(|&byte| byte == b'e').unwrap_or(text.len());
        let exponent = std::str::from_utf8(text.get(mark.saturating_add(1)..).unwrap_or_default())
            .ok()
            .and_then(|exponent| exponent.parse().ok())
            .unwrap_or(0);
        (&text[..mark], mark > 1, exponent)
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }
}

impl Write for DoubleText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > TEXT_BYTES_MAX.saturating_sub(self.len) {
            return Err(fmt::Error);
        }
        self.push_bytes(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: f64) -> String {
        String::from_utf8(DoubleText::new(value).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn doubles_are_laid_out_as_c_does() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (3.25, "3.25"),
            (-3.5, "-3.5"),
            (0.1, "0.1"),
            (1e16, "10000000000000000"),
            (12345678901234568.0, "12345678901234568"),
            (1e17, "1e+17"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-10, "-2.5e-10"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (-f64::NAN, "nan"),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    proptest! {
        #[test]
        fn every_double_reads_back_as_itself(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(!value.is_nan());
            prop_assert_eq!(text(value).parse::<f64>().unwrap().to_bits(), bits);
        }
    }
}
