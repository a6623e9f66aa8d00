//! Inline requests: a line of words, as a person types them. Source: `sdssplitargs` of Redis.

use memchr::memchr2;

use super::pipeline::Span;
use crate::ProtocolError;

/// The words of a line.
#[derive(Debug)]
pub(super) struct Words {
    /// Where each word lies: in `unquoted` if there is one, else in the line.
    pub(super) spans: Vec<Span>,
    /// The words without quotes and escapes, if the line has quotes. Never longer than the line.
    pub(super) unquoted: Option<Vec<u8>>,
}

/// Splits a line into words.
pub(super) fn split(line: &[u8]) -> Result<Words, ProtocolError> {
    if memchr2(b'"', b'\'', line).is_none() {
        return Ok(Words { spans: split_plain(line), unquoted: None });
    }
    let (unquoted, spans) = split_quoted(line)?;
    Ok(Words { spans, unquoted: Some(unquoted) })
}

fn split_plain(line: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut at = skip_blanks(line, 0);
    while at < line.len() {
        let rest = &line[at..];
        let length = rest.iter().position(|&byte| ends_word(byte)).unwrap_or(rest.len());
        spans.push((at as u32, length as u32));
        at = skip_blanks(line, at.saturating_add(length));
    }
    spans
}

fn split_quoted(line: &[u8]) -> Result<(Vec<u8>, Vec<Span>), ProtocolError> {
    let mut plain = Vec::with_capacity(line.len());
    let mut spans = Vec::new();
    let mut at = skip_blanks(line, 0);
    while at < line.len() {
        let start = plain.len();
        at = word(line, at, &mut plain)?;
        spans.push((start as u32, plain.len().saturating_sub(start) as u32));
        at = skip_blanks(line, at);
    }
    Ok((plain, spans))
}

/// Appends the word at `at` to `plain` and gives where it ends. A closing quote ends a word, an
/// opening one need not begin it.
fn word(line: &[u8], mut at: usize, plain: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    while let Some(&byte) = line.get(at) {
        match byte {
            b'"' => return double_quoted(line, at.saturating_add(1), plain),
            b'\'' => return single_quoted(line, at.saturating_add(1), plain),
            byte if ends_word(byte) => break,
            byte => plain.push(byte),
        }
        at = at.saturating_add(1);
    }
    Ok(at)
}

fn double_quoted(line: &[u8], mut at: usize, plain: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    loop {
        match &line[at..] {
            [b'\\', b'x', high, low, ..]
                if let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) =>
            {
                plain.push(high << 4 | low);
                at = at.saturating_add(4);
            }
            [b'\\', escaped, ..] => {
                plain.push(unescaped(*escaped));
                at = at.saturating_add(2);
            }
            [b'"', rest @ ..] => return after_quote(rest, at.saturating_add(1)),
            [byte, ..] => {
                plain.push(*byte);
                at = at.saturating_add(1);
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        }
    }
}

fn single_quoted(line: &[u8], mut at: usize, plain: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    loop {
        match &line[at..] {
            [b'\\', b'\'', ..] => {
                plain.push(b'\'');
                at = at.saturating_add(2);
            }
            [b'\'', rest @ ..] => return after_quote(rest, at.saturating_add(1)),
            [byte, ..] => {
                plain.push(*byte);
                at = at.saturating_add(1);
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        }
    }
}

fn after_quote(rest: &[u8], at: usize) -> Result<usize, ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_blank(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(at),
    }
}

fn unescaped(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn skip_blanks(line: &[u8], at: usize) -> usize {
    let skipped = line[at..].iter().position(|&byte| !is_blank(byte));
    skipped.map_or(line.len(), |skipped| at.saturating_add(skipped))
}

/// C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// What ends a word without quotes: fewer bytes than are skipped before one, as in Redis.
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let Words { spans, unquoted } = split(line.as_bytes())?;
        let text = unquoted.as_deref().unwrap_or(line.as_bytes());
        assert!(text.len() <= line.len());
        Ok(spans.iter().map(|&(at, len)| text[at as usize..][..len as usize].to_vec()).collect())
    }

    #[test]
    fn words_are_split_and_unquoted_as_redis_does() {
        let table: &[(&str, &[&[u8]])] = &[
            ("", &[]),
            (" \t\r\x0b\x0c ", &[]),
            ("PING", &[b"PING"]),
            ("  SET  k\tv ", &[b"SET", b"k", b"v"]),
            ("a\x0bb c", &[b"a\x0bb", b"c"]),
            (r#"SET k "a b""#, &[b"SET", b"k", b"a b"]),
            (r#""" ''"#, &[b"", b""]),
            (r#"foo"bar" baz"#, &[b"foobar", b"baz"]),
            (r#""\n\r\t\b\a\\\"\q""#, &[b"\n\r\t\x08\x07\\\"q"]),
            (r#""\x00\xfF\x4""#, &[b"\x00\xffx4"]),
            (r#""\xzz" x"#, &[b"xzz", b"x"]),
            (r"'a\'b\n' c", &[b"a'b\\n", b"c"]),
            ("\"a\"\x0b'b'", &[b"a", b"b"]),
            (r"a\nb", &[b"a\\nb"]),
        ];
        for (line, expected) in table {
            let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.to_vec()).collect();
            assert_eq!(words(line), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn open_quotes_and_text_after_closing_ones_are_refused() {
        for line in ["\"", "'", "a \"b", "a 'b", r#""a"b"#, "'a'b", r#""a\"#, r#""a\""#, r"'a\'"] {
            assert_eq!(words(line), Err(ProtocolError::UnbalancedQuotes), "{line:?}");
        }
    }
}
