//! Writes replies, in either protocol version.

use bytes::Bytes;
use memchr::memchr2;

use super::{Replies, double::DoubleText};
use crate::number::NumberLine;

/// Which version of the protocol a connection speaks, as chosen by `HELLO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// RESP2, which every connection begins with.
    #[default]
    Resp2,
    /// RESP3: typed nulls, maps, sets, doubles, booleans, push messages.
    Resp3,
}

/// Appends replies to a connection's output. What RESP2 has no type for is written as Redis writes
/// it to RESP2 clients.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    out: &'a mut Replies,
    protocol: Protocol,
    /// How long the output may become; see [`Self::room`].
    end: usize,
}

impl<'a> ReplyWriter<'a> {
    /// A writer that appends to `out`, without a bound.
    pub fn new(out: &'a mut Replies, protocol: Protocol) -> Self {
        Self { out, protocol, end: usize::MAX }
    }

    /// Lets the output grow by so many bytes from here on.
    pub fn set_room(&mut self, bytes: usize) {
        self.end = self.out.len().saturating_add(bytes);
    }

    /// How many bytes the output may still grow by. Nothing holds the writer to it: who is about to
    /// write much looks.
    pub fn room(&self) -> usize {
        self.end.saturating_sub(self.out.len())
    }

    /// The version in use.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Changes the version for what is written from now on.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// How many bytes the output holds; see [`Self::truncate`].
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Drops what was written after `position`, for example a half-written reply.
    pub fn truncate(&mut self, position: usize) {
        self.out.truncate(position);
    }

    /// `+text`. A `\r` or `\n` in it becomes a space, for it would end the reply.
    #[inline]
    pub fn simple(&mut self, text: &str) {
        self.text_line(b'+', text.as_bytes());
    }

    /// `-message`; the message begins with its code: `ERR`, `WRONGTYPE`. A `\r` or `\n` in it
    /// becomes a space.
    pub fn error(&mut self, message: &str) {
        self.error_bytes(message.as_bytes());
    }

    /// As [`ReplyWriter::error`], for a message that quotes what a client sent, as it sent it.
    pub fn error_bytes(&mut self, message: &[u8]) {
        self.text_line(b'-', message);
    }

    /// `:value`.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.out.own.extend_from_slice(NumberLine::new(b':', value).as_bytes());
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        let header = NumberLine::unsigned(b'$', bytes.len() as u64);
        let length = header.as_bytes().len().saturating_add(bytes.len());
        self.out.own.reserve(length.saturating_add(2));
        self.out.own.extend_from_slice(header.as_bytes());
        self.out.own.extend_from_slice(bytes);
        self.out.own.extend_from_slice(b"\r\n");
    }

    /// A bulk string that is not copied: others hold it, too.
    pub fn bulk_shared(&mut self, bytes: Bytes) {
        self.aggregate(b'$', bytes.len());
        self.out.share(bytes);
        self.out.own.extend_from_slice(b"\r\n");
    }

    /// The absent value: `$-1`, in RESP3 `_`.
    #[inline]
    pub fn null(&mut self) {
        self.by_protocol(b"$-1\r\n", b"_\r\n");
    }

    /// The absent array: `*-1`, in RESP3 `_`.
    pub fn null_array(&mut self) {
        self.by_protocol(b"*-1\r\n", b"_\r\n");
    }

    /// Begins an array; `len` values follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.aggregate(b'*', len);
    }

    /// Begins a map; `pairs` times a key and a value follow. In RESP2 a flat array.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.aggregate(b'*', pairs.saturating_mul(2)),
            Protocol::Resp3 => self.aggregate(b'%', pairs),
        }
    }

    /// Begins a set; `len` values follow. In RESP2 an array.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.aggregate(b'*', len),
            Protocol::Resp3 => self.aggregate(b'~', len),
        }
    }

    /// Begins a push message; `len` values follow. In RESP2 an array.
    pub fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.aggregate(b'*', len),
            Protocol::Resp3 => self.aggregate(b'>', len),
        }
    }

    /// A double, in the fewest digits that read back as the same number. In RESP2 a bulk string.
    pub fn double(&mut self, value: f64) {
        let text = DoubleText::new(value);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.out.own.extend_from_slice(b",");
                self.out.own.extend_from_slice(text.as_bytes());
                self.out.own.extend_from_slice(b"\r\n");
            }
        }
    }

    /// A truth value. In RESP2 `:1` or `:0`.
    pub fn boolean(&mut self, value: bool) {
        match value {
            true => self.by_protocol(b":1\r\n", b"#t\r\n"),
            false => self.by_protocol(b":0\r\n", b"#f\r\n"),
        }
    }

    /// Text for people to read, for example that of INFO. In RESP2 a bulk string.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.aggregate(b'=', text.len().saturating_add(4));
                self.out.own.extend_from_slice(b"txt:");
                self.out.own.extend_from_slice(text.as_bytes());
                self.out.own.extend_from_slice(b"\r\n");
            }
        }
    }

    #[inline]
    fn aggregate(&mut self, kind: u8, len: usize) {
        self.out.own.extend_from_slice(NumberLine::unsigned(kind, len as u64).as_bytes());
    }

    #[inline]
    fn by_protocol(&mut self, resp2: &'static [u8], resp3: &'static [u8]) {
        self.out.own.extend_from_slice(match self.protocol {
            Protocol::Resp2 => resp2,
            Protocol::Resp3 => resp3,
        });
    }

    #[inline]
    fn text_line(&mut self, kind: u8, text: &[u8]) {
        self.out.own.reserve(text.len().saturating_add(3));
        self.out.own.extend_from_slice(&[kind]);
        let start = self.out.own.len();
        self.out.own.extend_from_slice(text);
        if memchr2(b'\r', b'\n', text).is_some() {
            for byte in &mut self.out.own[start..] {
                if matches!(*byte, b'\r' | b'\n') {
                    *byte = b' ';
                }
            }
        }
        self.out.own.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl Fn(&mut ReplyWriter<'_>)) -> String {
        let mut out = Replies::default();
        write(&mut ReplyWriter::new(&mut out, protocol));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_reply_is_written_in_the_form_of_its_protocol() {
        type Write = fn(&mut ReplyWriter<'_>);
        let table: &[(Write, &str, &str)] = &[
            (|w| w.simple("OK"), "+OK\r\n", "+OK\r\n"),
            (|w| w.error("ERR no"), "-ERR no\r\n", "-ERR no\r\n"),
            (|w| w.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|w| w.simple("a\nb"), "+a b\r\n", "+a b\r\n"),
            (|w| w.integer(-12), ":-12\r\n", ":-12\r\n"),
            (|w| w.integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (|w| w.bulk(b"ab"), "$2\r\nab\r\n", "$2\r\nab\r\n"),
            (|w| w.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (|w| w.bulk_shared(Bytes::from_static(b"ab")), "$2\r\nab\r\n", "$2\r\nab\r\n"),
            (|w| w.bulk_shared(Bytes::new()), "$0\r\n\r\n", "$0\r\n\r\n"),
            (|w| w.null(), "$-1\r\n", "_\r\n"),
            (|w| w.null_array(), "*-1\r\n", "_\r\n"),
            (|w| w.array(0), "*0\r\n", "*0\r\n"),
            (|w| w.map(2), "*4\r\n", "%2\r\n"),
            (|w| w.set(3), "*3\r\n", "~3\r\n"),
            (|w| w.push(3), "*3\r\n", ">3\r\n"),
            (|w| w.double(3.25), "$4\r\n3.25\r\n", ",3.25\r\n"),
            (|w| w.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (|w| w.boolean(true), ":1\r\n", "#t\r\n"),
            (|w| w.boolean(false), ":0\r\n", "#f\r\n"),
            (|w| w.verbatim("Some string"), "$11\r\nSome string\r\n", "=15\r\ntxt:Some string\r\n"),
        ];
        for (write, resp2, resp3) in table {
            assert_eq!(written(Protocol::Resp2, write), *resp2);
            assert_eq!(written(Protocol::Resp3, write), *resp3);
        }
    }

    #[test]
    fn a_half_written_reply_can_be_dropped() {
        let text = written(Protocol::Resp2, |writer| {
            writer.integer(1);
            let position = writer.position();
            writer.array(2);
            writer.bulk(b"half");
            writer.truncate(position);
            writer.set_protocol(Protocol::Resp3);
            writer.null();
        });
        assert_eq!(text, ":1\r\n_\r\n");
    }
}
