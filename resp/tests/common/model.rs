//! The rules for requests, read plainly and at once, with no regard to speed: what the decoder is
//! compared with. Source: `networking.c` and `sds.c` of Redis 7.0.

use larder_resp::{Limits, ProtocolError};

/// The arguments of one request.
pub(crate) type Args = Vec<Vec<u8>>;

/// Why reading stopped before the end.
enum Stop {
    Incomplete,
    Error(ProtocolError),
}

/// Every request in `bytes`, and the error after the last of them, if there is one.
pub(crate) fn requests(bytes: &[u8], limits: &Limits) -> (Vec<Args>, Option<ProtocolError>) {
    let mut requests = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let outcome = if rest[0] == b'*' { array(rest, limits) } else { inline(rest, limits) };
        match outcome {
            Ok((args, after)) => {
                rest = after;
                if !args.is_empty() {
                    requests.push(args);
                }
            }
            Err(Stop::Incomplete) => break,
            Err(Stop::Error(error)) => return (requests, Some(error)),
        }
    }
    (requests, None)
}

fn array<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Args, &'a [u8]), Stop> {
    let (text, mut rest) = line(bytes, b'\r', limits, ProtocolError::TooBigMultibulkCount)?;
    let count = match number(&text[1..]) {
        Some(count) if count <= i128::from(i32::MAX) => count,
        _ => return Err(Stop::Error(ProtocolError::InvalidMultibulkLength)),
    };
    too_many(count, limits)?;
    let mut args = Vec::new();
    for _ in 0..count.max(0) {
        let (text, after) = line(rest, b'\r', limits, ProtocolError::TooBigBulkCount)?;
        if text.first() != Some(&b'$') {
            return Err(Stop::Error(ProtocolError::ExpectedDollar { found: rest[0] }));
        }
        let length = match number(&text[1..]) {
            Some(length) if length >= 0 => length,
            _ => return Err(Stop::Error(ProtocolError::InvalidBulkLength)),
        };
        if length > limits.bulk_bytes_max as i128 {
            return Err(Stop::Error(if limits.authenticated || length > 512 << 20 {
                ProtocolError::InvalidBulkLength
            } else {
                ProtocolError::UnauthenticatedBulkLength
            }));
        }
        let length = length as usize;
        if bytes.len() - after.len() + length + 2 > limits.request_bytes_max {
            let bytes_max = limits.request_bytes_max;
            return Err(Stop::Error(ProtocolError::TooBigRequest { bytes_max }));
        }
        if after.len() < length + 2 {
            return Err(Stop::Incomplete);
        }
        args.push(after[..length].to_vec());
        rest = &after[length + 2..];
    }
    Ok((args, rest))
}

fn inline<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Args, &'a [u8]), Stop> {
    let (text, rest) = line(bytes, b'\n', limits, ProtocolError::TooBigInlineRequest)?;
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let args = words(text).ok_or(Stop::Error(ProtocolError::UnbalancedQuotes))?;
    too_many(args.len() as i128, limits)?;
    match args.first().map(|name| name.to_ascii_lowercase()).as_deref() {
        Some(b"post" | b"host:") => Err(Stop::Error(ProtocolError::CrossProtocol)),
        _ => Ok((args, rest)),
    }
}

fn too_many(count: i128, limits: &Limits) -> Result<(), Stop> {
    if count <= limits.args_max as i128 {
        Ok(())
    } else if limits.authenticated {
        Err(Stop::Error(ProtocolError::InvalidMultibulkLength))
    } else {
        Err(Stop::Error(ProtocolError::UnauthenticatedMultibulkLength))
    }
}

/// The text before `terminator` and what follows the line.
fn line<'a>(
    bytes: &'a [u8],
    terminator: u8,
    limits: &Limits,
    too_long: ProtocolError,
) -> Result<(&'a [u8], &'a [u8]), Stop> {
    let skipped = if terminator == b'\r' { 2 } else { 1 };
    match bytes.iter().position(|&byte| byte == terminator) {
        Some(end) if end > limits.inline_bytes_max => Err(Stop::Error(too_long)),
        Some(end) if end + skipped <= bytes.len() => Ok((&bytes[..end], &bytes[end + skipped..])),
        Some(_) => Err(Stop::Incomplete),
        None if bytes.len() > limits.inline_bytes_max => Err(Stop::Error(too_long)),
        None => Err(Stop::Incomplete),
    }
}

fn number(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let value: i128 = text.parse().ok()?;
    (value.to_string() == text && i64::try_from(value).is_ok()).then_some(value)
}

/// The words of a line, by a machine that looks at one byte after the other.
fn words(line: &[u8]) -> Option<Args> {
    #[derive(PartialEq)]
    enum State {
        Between,
        Plain,
        Double,
        Single,
        Closed,
    }
    let blank = |byte: u8| byte == b' ' || (0x09..=0x0d).contains(&byte);
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut args = Args::new();
    let mut word = Vec::new();
    let mut state = State::Between;
    let mut at = 0;
    while at < line.len() {
        let byte = line[at];
        let next = line.get(at + 1).copied();
        at += 1;
        match state {
            State::Closed if !blank(byte) => return None,
            State::Closed => state = State::Between,
            State::Between if blank(byte) => {}
            State::Between | State::Plain => match byte {
                b'"' => state = State::Double,
                b'\'' => state = State::Single,
                b' ' | b'\n' | b'\r' | b'\t' => {
                    args.push(std::mem::take(&mut word));
                    state = State::Between;
                }
                _ => {
                    word.push(byte);
                    state = State::Plain;
                }
            },
            State::Single if byte == b'\\' && next == Some(b'\'') => {
                word.push(b'\'');
                at += 1;
            }
            State::Double if byte == b'\\' && next.is_some() => {
                let high = line.get(at + 1).copied().and_then(hex);
                let low = line.get(at + 2).copied().and_then(hex);
                match (next?, high, low) {
                    (b'x', Some(high), Some(low)) => {
                        word.push(high * 16 + low);
                        at += 2;
                    }
                    (other, ..) => match b"nrtba".iter().position(|&name| name == other) {
                        Some(index) => word.push(b"\n\r\t\x08\x07"[index]),
                        None => word.push(other),
                    },
                }
                at += 1;
            }
            State::Double if byte == b'"' => {
                args.push(std::mem::take(&mut word));
                state = State::Closed;
            }
            State::Single if byte == b'\'' => {
                args.push(std::mem::take(&mut word));
                state = State::Closed;
            }
            State::Double | State::Single => word.push(byte),
        }
    }
    match state {
        State::Double | State::Single => return None,
        State::Plain => args.push(word),
        State::Between | State::Closed => {}
    }
    Some(args)
}
