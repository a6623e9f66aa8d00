//! Replies as a tree that loses nothing: two trees are equal exactly when their bytes are.
//!
//! The harness parses replies on its own instead of with `larder-resp`, so that a fault of the
//! product's codec shows as a difference and does not cancel itself out.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

/// Nesting beyond this is refused; Redis's deepest reply (COMMAND) nests seven levels.
const DEPTH_MAX: usize = 32;
/// A bulk longer than this is refused before anything is allocated for it.
const BULK_BYTES_MAX: usize = 1 << 30;

/// A description for people is cut after this.
const DESCRIBED_CHARS_MAX: usize = 2_000;

/// One reply. `kind` is the type byte of the wire, so that RESP3's kinds need no variant each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// `+ - : , # (` and `_`: a line, without its type byte and CRLF.
    Line {
        /// Type byte.
        kind: u8,
        /// The rest of the line.
        text: Vec<u8>,
    },
    /// `$ = !`: bytes with a declared length.
    Bulk {
        /// Type byte.
        kind: u8,
        /// The payload.
        text: Vec<u8>,
    },
    /// `$-1` or `*-1`.
    Null {
        /// Type byte.
        kind: u8,
    },
    /// `* % ~ >`: an aggregate. A map holds its keys and values alternately.
    Items {
        /// Type byte.
        kind: u8,
        /// The elements in the order of the wire.
        items: Vec<Self>,
    },
}

impl Reply {
    /// The reply at the start of `bytes` and its length, or `None` while it is incomplete.
    ///
    /// # Errors
    /// When the bytes are not RESP, or a length is not in its one canonical form.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut reader = Reader { bytes, at: 0 };
        let reply = reader.reply(0)?;
        Ok(reply.map(|reply| (reply, reader.at)))
    }

    /// Whether this is an error (`-` or `!`).
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Line { kind: b'-', .. } | Self::Bulk { kind: b'!', .. })
    }

    /// Whether this is any form of null.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null { .. } | Self::Line { kind: b'_', .. })
    }

    /// The text of a line or a bulk; empty for the rest.
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Line { text, .. } | Self::Bulk { text, .. } => text,
            Self::Null { .. } | Self::Items { .. } => b"",
        }
    }

    /// The elements of an aggregate; empty for the rest.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Items { items, .. } => items,
            _ => &[],
        }
    }

    /// The type byte.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Line { kind, .. }
            | Self::Bulk { kind, .. }
            | Self::Null { kind }
            | Self::Items { kind, .. } => *kind,
        }
    }

    /// The value of an integer reply.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Line { kind: b':', text } => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether this is the simple string `text`.
    pub fn is_simple(&self, expected: &str) -> bool {
        matches!(self, Self::Line { kind: b'+', text } if text == expected.as_bytes())
    }

    /// For people: one line, bytes escaped, long payloads and long aggregates cut short.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        self.describe_into(&mut out);
        if let Some((end, _)) = out.char_indices().nth(DESCRIBED_CHARS_MAX) {
            out.truncate(end);
            out.push_str("...");
        }
        out
    }

    fn describe_into(&self, out: &mut String) {
        let kind = char::from(self.kind());
        // Writing to a String cannot fail.
        match self {
            Self::Line { text, .. } | Self::Bulk { text, .. } => {
                let _ = write!(out, "{kind}{}", quoted(text));
            }
            Self::Null { .. } => {
                let _ = write!(out, "{kind}-1");
            }
            Self::Items { items, .. } => {
                let _ = write!(out, "{kind}{}[", items.len());
                for (i, item) in items.iter().take(64).enumerate() {
                    if i > 0 {
                        out.push(' ');
                    }
                    item.describe_into(out);
                }
                out.push_str(if items.len() > 64 { " ...]" } else { "]" });
            }
        }
    }
}

/// Bytes as people can read them, in quotes, cut after 200.
pub fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(200)];
    let more = if bytes.len() > shown.len() {
        format!("... ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("\"{}\"{more}", shown.escape_ascii())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>> {
        if depth > DEPTH_MAX {
            bail!("reply nests deeper than {DEPTH_MAX}");
        }
        let Some((kind, line)) = self.line()? else {
            return Ok(None);
        };
        match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => {
                Ok(Some(Reply::Line { kind, text: line }))
            }
            b'$' | b'=' | b'!' => self.bulk(kind, &line),
            b'*' | b'%' | b'~' | b'>' => self.aggregate(kind, &line, depth),
            other => bail!("unknown type byte {:?} at offset {}", char::from(other), self.at),
        }
    }

    fn line(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return Ok(None);
        };
        if end < 2 || rest[end - 1] != b'\r' {
            bail!("a line that does not end in CRLF at offset {}: {}", self.at, quoted(rest));
        }
        self.at += end + 1;
        Ok(Some((rest[0], rest[1..end - 1].to_vec())))
    }

    fn bulk(&mut self, kind: u8, line: &[u8]) -> Result<Option<Reply>> {
        let Some(length) = declared(line)? else {
            return Ok(Some(Reply::Null { kind }));
        };
        if length > BULK_BYTES_MAX {
            bail!("a bulk of {length} bytes");
        }
        let rest = &self.bytes[self.at..];
        if rest.len() < length + 2 {
            return Ok(None);
        }
        if &rest[length..length + 2] != b"\r\n" {
            bail!("a bulk of {length} bytes is not followed by CRLF");
        }
        self.at += length + 2;
        Ok(Some(Reply::Bulk { kind, text: rest[..length].to_vec() }))
    }

    fn aggregate(&mut self, kind: u8, line: &[u8], depth: usize) -> Result<Option<Reply>> {
        let Some(declared) = declared(line)? else {
            return Ok(Some(Reply::Null { kind }));
        };
        let count = if kind == b'%' { declared * 2 } else { declared };
        let mut items = Vec::new();
        for _ in 0..count {
            let Some(item) = self.reply(depth + 1)? else {
                return Ok(None);
            };
            items.push(item);
        }
        Ok(Some(Reply::Items { kind, items }))
    }
}

/// A declared length; `None` is the null `-1`. Only canonical decimals pass, because the tree
/// does not keep how a length was written.
fn declared(line: &[u8]) -> Result<Option<usize>> {
    if line == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).context("a length that is not text")?;
    let length: u32 = text.parse().with_context(|| format!("a length of {text:?}"))?;
    if length.to_string() != text {
        bail!("a length that is not canonical: {text:?}");
    }
    Ok(Some(length as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_reply_is_incomplete_and_the_whole_is_not() {
        let wire = b"*4\r\n$3\r\na\r\n\r\n:12\r\n%1\r\n+k\r\n_\r\n*-1\r\n";
        for end in 0..wire.len() {
            assert_eq!(Reply::parse(&wire[..end]).unwrap(), None, "{end}");
        }
        let (reply, used) = Reply::parse(wire).unwrap().unwrap();
        assert_eq!(used, wire.len());
        assert_eq!(reply.items().len(), 4);
        assert_eq!(reply.items()[0].text(), b"a\r\n");
    }

    #[test]
    fn the_two_nulls_of_resp2_differ() {
        assert_ne!(Reply::parse(b"$-1\r\n").unwrap(), Reply::parse(b"*-1\r\n").unwrap());
    }

    #[test]
    fn a_length_with_a_leading_zero_is_refused() {
        assert!(Reply::parse(b"$03\r\nabc\r\n").is_err());
    }
}
