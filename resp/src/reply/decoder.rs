//! Reads replies, for a client.
//!
//! What has been understood leaves the buffer at once and waits on a stack of open aggregates, so
//! nothing is read twice. The peer may be hostile: depth, number of values and bytes are bounded.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::Value;
use crate::number::decimal;
use crate::{ProtocolError, ReplyLimits};

/// Reads replies, whole or in any pieces. RESP3 attributes are read and dropped.
#[derive(Debug)]
pub struct ReplyDecoder {
    limits: ReplyLimits,
    /// Aggregates not yet complete, outermost first.
    open: Vec<Aggregate>,
    /// The string whose line has been read but whose bytes have not arrived.
    string: Option<(StringKind, usize)>,
    /// How many bytes of the buffer are known to hold no line end.
    scanned: usize,
    /// Bytes of the current reply that have left the buffer.
    taken: usize,
    /// Values of the current reply so far.
    elements: usize,
    failed: Option<ProtocolError>,
}

#[derive(Clone, Copy, Debug)]
enum StringKind {
    Bulk,
    Error,
    Verbatim,
}

#[derive(Clone, Copy, Debug)]
enum AggregateKind {
    Array,
    Map,
    Set,
    Push,
    Attribute,
}

#[derive(Debug)]
struct Aggregate {
    kind: AggregateKind,
    /// Values to come; at least one while it is open.
    left: usize,
    /// Never sized by what was declared: it grows with what arrives.
    values: Vec<Value>,
}

enum Part {
    Value(Value),
    /// An aggregate was opened, or an empty attribute dropped: what follows is the next part.
    Opened,
    Incomplete,
}

impl ReplyDecoder {
    /// A decoder for a connection's first byte on.
    pub fn new(limits: ReplyLimits) -> Self {
        Self {
            limits,
            open: Vec::new(),
            string: None,
            scanned: 0,
            taken: 0,
            elements: 0,
            failed: None,
        }
    }

    /// Takes the next whole reply out of `buffer`, or gives `None` when bytes of it are missing;
    /// what of it is there may leave the buffer already. `buffer` must be the same at each call,
    /// changed by nothing but appending.
    ///
    /// # Errors
    /// The reply is no RESP or beyond the limits. There is no way on: all further calls give the
    /// same error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.next_reply(buffer).inspect_err(|error| {
            self.open = Vec::new();
            self.failed = Some(error.clone());
        })
    }

    fn next_reply(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, ProtocolError> {
        loop {
            let part = match self.string.take() {
                Some((kind, length)) => self.string(buffer, kind, length)?,
                None => self.line(buffer)?,
            };
            match part {
                Part::Incomplete => return Ok(None),
                Part::Opened => {}
                Part::Value(value) => {
                    if let Some(reply) = self.place(value) {
                        self.taken = 0;
                        self.elements = 0;
                        return Ok(Some(reply));
                    }
                }
            }
        }
    }

    /// Puts a value into the innermost open aggregate and closes what is complete by that. Gives
    /// the value back once nothing is open.
    fn place(&mut self, mut value: Value) -> Option<Value> {
        while let Some(aggregate) = self.open.last_mut() {
            aggregate.values.push(value);
            aggregate.left = aggregate.left.saturating_sub(1);
            if aggregate.left > 0 {
                return None;
            }
            let Aggregate { kind, values, .. } = self.open.pop()?;
            value = kind.close(values)?;
        }
        Some(value)
    }

    fn line(&mut self, buffer: &mut BytesMut) -> Result<Part, ProtocolError> {
        let Some(found) = memchr(b'\n', &buffer[self.scanned..]) else {
            self.scanned = buffer.len();
            return self.within_bytes(buffer.len()).map(|()| Part::Incomplete);
        };
        let end = self.scanned.saturating_add(found);
        let after = end.saturating_add(1);
        self.within_bytes(after)?;
        let (kind, text) = match &buffer[..end] {
            [kind, text @ .., b'\r'] => (*kind, text),
            _ => return Err(ProtocolError::InvalidReply { what: "line end" }),
        };
        let part = self.understand(kind, text)?;
        let part = match part {
            Some(part) => {
                buffer.advance(after);
                part
            }
            None => {
                let mut line = buffer.split_to(after).freeze();
                line.truncate(end.saturating_sub(1));
                Part::Value(text_value(kind, line.slice(1..)))
            }
        };
        self.taken = self.taken.saturating_add(after);
        self.scanned = 0;
        Ok(part)
    }

    /// Understands a line; `None` if its text is the value and is to be taken out of the buffer.
    fn understand(&mut self, kind: u8, text: &[u8]) -> Result<Option<Part>, ProtocolError> {
        let value = match kind {
            b'*' => return self.open(AggregateKind::Array, text, 1).map(Some),
            b'%' => return self.open(AggregateKind::Map, text, 2).map(Some),
            b'~' => return self.open(AggregateKind::Set, text, 1).map(Some),
            b'>' => return self.open(AggregateKind::Push, text, 1).map(Some),
            b'|' => return self.open(AggregateKind::Attribute, text, 2).map(Some),
            b'$' => return self.begin_string(StringKind::Bulk, text).map(Some),
            b'!' => return self.begin_string(StringKind::Error, text).map(Some),
            b'=' => return self.begin_string(StringKind::Verbatim, text).map(Some),
            b'+' | b'-' => None,
            b'(' if is_big_number(text) => None,
            b':' => Some(Value::Integer(
                decimal(text).ok_or(ProtocolError::InvalidReply { what: "integer" })?,
            )),
            b'_' if text.is_empty() => Some(Value::Null),
            b'#' if text == b"t" => Some(Value::Boolean(true)),
            b'#' if text == b"f" => Some(Value::Boolean(false)),
            b',' => Some(Value::Double(
                double(text).ok_or(ProtocolError::InvalidReply { what: "double" })?,
            )),
            _ => return Err(ProtocolError::InvalidReply { what: "type" }),
        };
        self.count_element()?;
        Ok(value.map(Part::Value))
    }

    fn open(
        &mut self,
        kind: AggregateKind,
        text: &[u8],
        values_each: usize,
    ) -> Result<Part, ProtocolError> {
        self.count_element()?;
        if text == b"-1" && matches!(kind, AggregateKind::Array) {
            return Ok(Part::Value(Value::Null));
        }
        let left = decimal(text)
            .and_then(|len| usize::try_from(len).ok())
            .and_then(|len| len.checked_mul(values_each))
            .ok_or(ProtocolError::InvalidReply { what: "length" })?;
        let elements_max = self.limits.elements_max;
        if left > elements_max.saturating_sub(self.elements) {
            return Err(ProtocolError::TooManyElements { elements_max });
        }
        if left == 0 {
            return Ok(kind.close(Vec::new()).map_or(Part::Opened, Part::Value));
        }
        let depth_max = self.limits.depth_max;
        if self.open.len() >= depth_max {
            return Err(ProtocolError::TooDeepReply { depth_max });
        }
        self.open.push(Aggregate { kind, left, values: Vec::new() });
        Ok(Part::Opened)
    }

    fn begin_string(&mut self, kind: StringKind, text: &[u8]) -> Result<Part, ProtocolError> {
        self.count_element()?;
        if text == b"-1" && matches!(kind, StringKind::Bulk) {
            return Ok(Part::Value(Value::Null));
        }
        let length = decimal(text)
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(ProtocolError::InvalidReply { what: "length" })?;
        self.string = Some((kind, length));
        Ok(Part::Opened)
    }

    fn string(
        &mut self,
        buffer: &mut BytesMut,
        kind: StringKind,
        length: usize,
    ) -> Result<Part, ProtocolError> {
        let whole = length.saturating_add(2);
        self.within_bytes(whole)?;
        if buffer.len() < whole {
            self.string = Some((kind, length));
            return Ok(Part::Incomplete);
        }
        if &buffer[length..whole] != b"\r\n" {
            return Err(ProtocolError::InvalidReply { what: "end of string" });
        }
        let text = buffer.split_to(length).freeze();
        buffer.advance(2);
        self.taken = self.taken.saturating_add(whole);
        kind.value(text).map(Part::Value)
    }

    /// Refuses a reply of which `more` bytes follow those taken.
    fn within_bytes(&self, more: usize) -> Result<(), ProtocolError> {
        let bytes_max = self.limits.bytes_max;
        if self.taken.saturating_add(more) > bytes_max {
            return Err(ProtocolError::TooBigReply { bytes_max });
        }
        Ok(())
    }

    fn count_element(&mut self) -> Result<(), ProtocolError> {
        let elements_max = self.limits.elements_max;
        if self.elements >= elements_max {
            return Err(ProtocolError::TooManyElements { elements_max });
        }
        self.elements = self.elements.saturating_add(1);
        Ok(())
    }
}

impl AggregateKind {
    /// The value made of `values`; none for an attribute.
    fn close(self, values: Vec<Value>) -> Option<Value> {
        match self {
            Self::Array => Some(Value::Array(values)),
            Self::Set => Some(Value::Set(values)),
            Self::Push => Some(Value::Push(values)),
            Self::Attribute => None,
            Self::Map => {
                let mut values = values.into_iter();
                let mut pairs = Vec::with_capacity(values.len() / 2);
                while let (Some(key), Some(value)) = (values.next(), values.next()) {
                    pairs.push((key, value));
                }
                Some(Value::Map(pairs))
            }
        }
    }
}

impl StringKind {
    fn value(self, text: Bytes) -> Result<Value, ProtocolError> {
        match self {
            Self::Bulk => Ok(Value::Bulk(text)),
            Self::Error => Ok(Value::Error(String::from_utf8_lossy(&text).into_owned())),
            Self::Verbatim => match text[..] {
                [a, b, c, b':', ..] => {
                    Ok(Value::Verbatim { format: [a, b, c], text: text.slice(4..) })
                }
                _ => Err(ProtocolError::InvalidReply { what: "verbatim format" }),
            },
        }
    }
}

fn text_value(kind: u8, text: Bytes) -> Value {
    match kind {
        b'-' => Value::Error(String::from_utf8_lossy(&text).into_owned()),
        b'(' => Value::BigNumber(text),
        _ => Value::Simple(text),
    }
}

fn is_big_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn double(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
