//! Takes requests out of a connection's buffer.
//!
//! Offsets count from the buffer's first byte, which is always where a request begins: whatever is
//! before it leaves the buffer with the pipeline it belongs to. While the first request is
//! incomplete, how far it has been understood is kept, so that no byte of it is read twice however
//! it arrives; a request that is incomplete behind whole ones is read again once, as the first.

use bytes::{Buf, BytesMut};
use memchr::memchr;

use super::inline::{self, Words};
use super::pipeline::{Pipeline, Span};
use crate::number::{decimal, short_length};
use crate::{Limits, ProtocolError};

/// A pipeline is ended by the request with which it reaches so many bytes...
const PIPELINE_BYTES: usize = 16 << 20;
/// ...or so many arguments. Bounds what inline requests, whose arguments may be one byte long, can
/// make of a full buffer.
const PIPELINE_SPANS: u32 = 16 << 10;
/// What [`Limits::request_bytes_max`] can be at most, so that every offset fits into 32 bits.
const REQUEST_BYTES_CEILING: usize = 1 << 30;
/// What [`Limits::inline_bytes_max`] can be at least: any valid length is shorter.
const INLINE_BYTES_FLOOR: usize = 32;
/// The longest argument Redis takes at all (`proto-max-bulk-len`); beyond it the length is invalid
/// to everyone, not only to those who have not authenticated.
const REDIS_BULK_BYTES_MAX: usize = 512 << 20;
/// What [`Decoder::wanted`] may ask for whatever has been received.
const WANTED_BYTES: usize = 64 << 10;
/// Spans kept for the next pipeline by [`Decoder::recycle`]; more are given back.
const SPANS_KEPT: usize = 4096;
/// So many of an incomplete request are put aside, 64 KiB: to copy a million of them for one more takes
/// milliseconds where memory is new.
const SPANS_ASIDE: usize = 8192;

/// Reads requests, whole or in any pieces.
///
/// Empty lines, `*0` and `*-1` are skipped, as Redis does. The two bytes after an argument are
/// skipped unread, as Redis does.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    progress: Progress,
    /// Arguments of the whole requests found by this call, then those of the incomplete first
    /// request (there are never both between calls).
    spans: Vec<Span>,
    /// Those before `spans` of a first request with very many, at least [`SPANS_ASIDE`] in each.
    aside: Vec<Vec<Span>>,
    ends: Vec<u32>,
    missing: usize,
    failed: Option<ProtocolError>,
}

/// How far the current request is understood.
#[derive(Debug, Default)]
struct Progress {
    /// The request's first byte.
    start: usize,
    /// The first byte not yet understood.
    at: usize,
    /// Arguments to come; 0 before the request's first line is understood.
    args_left: usize,
    /// The length of the argument whose bytes begin at `at`.
    bulk: Option<usize>,
    /// How many bytes from `at` on are known to hold no line end.
    scanned: usize,
}

impl Progress {
    fn at_start(start: usize) -> Self {
        Self { start, at: start, ..Self::default() }
    }
}

enum Step {
    Whole,
    Skipped,
    Incomplete,
}

impl Decoder {
    /// A decoder for a connection's first byte on.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: clamped(limits),
            progress: Progress::default(),
            spans: Vec::new(),
            aside: Vec::new(),
            ends: Vec::new(),
            missing: 0,
            failed: None,
        }
    }

    /// Puts other limits in force, for the requests not yet returned.
    pub fn set_limits(&mut self, limits: Limits) {
        let limits = clamped(limits);
        if limits != self.limits {
            self.limits = limits;
            self.forget_progress();
        }
    }

    /// Takes as many whole requests as `buffer` holds, at most `commands_max` (at least one), out
    /// of it. A very long pipeline comes in several parts; an empty one says that bytes are missing
    /// for the next request. `buffer` must be the same at each call, changed by nothing but
    /// appending.
    ///
    /// # Errors
    /// The first request left is no request or beyond the limits. Requests before it have been
    /// returned by then. There is no way on: all further calls give the same error.
    pub fn decode(
        &mut self,
        buffer: &mut BytesMut,
        commands_max: usize,
    ) -> Result<Pipeline, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.missing = 0;
        let commands_max = commands_max.max(1);
        let mut consumed = 0;
        while self.ends.len() < commands_max && consumed < PIPELINE_BYTES {
            match self.step(buffer) {
                Ok(Step::Whole) => {
                    consumed = self.progress.at;
                    self.progress = Progress::at_start(consumed);
                    self.join_spans();
                    let end = self.spans.len() as u32;
                    self.ends.push(end);
                    if end >= PIPELINE_SPANS {
                        break;
                    }
                }
                Ok(Step::Skipped) if self.ends.is_empty() => {
                    buffer.advance(self.progress.at);
                    self.progress = Progress::default();
                }
                Ok(Step::Skipped) => {
                    consumed = self.progress.at;
                    self.progress = Progress::at_start(consumed);
                }
                Ok(Step::Incomplete) => break,
                Err(error) if self.ends.is_empty() => {
                    self.forget_progress();
                    self.failed = Some(error.clone());
                    return Err(error);
                }
                Err(_) => break,
            }
        }
        Ok(self.take_pipeline(buffer, consumed))
    }

    /// How many bytes the next read should have room for, 0 if any will do: what the argument that
    /// is arriving lacks, but never more than has been received or 64 KiB, so that a declared
    /// length alone costs nothing.
    pub fn wanted(&self) -> usize {
        self.missing
    }

    /// Takes back the vectors of a pipeline that is done with, for the next.
    pub fn recycle(&mut self, pipeline: Pipeline) {
        if self.spans.capacity() == 0 && self.ends.capacity() == 0 {
            let (mut spans, mut ends) = pipeline.into_vectors();
            if spans.capacity() <= SPANS_KEPT && ends.capacity() <= SPANS_KEPT {
                spans.clear();
                ends.clear();
                self.spans = spans;
                self.ends = ends;
            }
        }
    }

    /// Bytes of memory held beside the caller's buffer.
    pub fn memory_bytes(&self) -> usize {
        let aside = self.aside.iter().map(Vec::capacity).sum::<usize>();
        let spans = self.spans.capacity().saturating_add(aside).saturating_mul(size_of::<Span>());
        spans.saturating_add(self.ends.capacity().saturating_mul(size_of::<u32>()))
    }

    fn take_pipeline(&mut self, buffer: &mut BytesMut, consumed: usize) -> Pipeline {
        let Some(&whole) = self.ends.last() else { return Pipeline::default() };
        self.spans.truncate(whole as usize);
        self.progress = Progress::default();
        self.missing = 0;
        let bytes = buffer.split_to(consumed).freeze();
        Pipeline::new(bytes, std::mem::take(&mut self.spans), std::mem::take(&mut self.ends))
    }

    fn forget_progress(&mut self) {
        self.progress = Progress::default();
        self.spans.clear();
        self.aside = Vec::new();
        self.missing = 0;
    }

    #[inline]
    fn step(&mut self, bytes: &mut [u8]) -> Result<Step, ProtocolError> {
        if self.progress.args_left == 0 {
            match bytes.get(self.progress.at) {
                Some(b'*') => {
                    let Some(count) = self.count(bytes)? else { return Ok(Step::Incomplete) };
                    if count == 0 {
                        return Ok(Step::Skipped);
                    }
                    self.progress.args_left = count;
                }
                Some(_) => return self.inline(bytes),
                None => return Ok(Step::Incomplete),
            }
        }
        self.arguments(bytes)
    }

    #[inline]
    fn arguments(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        while self.progress.args_left > 0 {
            let length = match self.progress.bulk.take() {
                Some(length) => length,
                None => match self.length(bytes)? {
                    Some(length) => length,
                    None => return Ok(Step::Incomplete),
                },
            };
            let at = self.progress.at;
            let next = at.saturating_add(length).saturating_add(2);
            if bytes.len() < next {
                self.progress.bulk = Some(length);
                let lacking = next.saturating_sub(bytes.len());
                self.missing = lacking.min(WANTED_BYTES.max(bytes.len()));
                return Ok(Step::Incomplete);
            }
            self.push((at as u32, length as u32));
            self.progress.at = next;
            self.progress.args_left = self.progress.args_left.saturating_sub(1);
        }
        Ok(Step::Whole)
    }

    /// Understands the line `*count`. Negative counts are 0.
    #[inline]
    fn count(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let digits = self.progress.at.saturating_add(1);
        if let Some((count, next)) = short_length(&bytes[digits..])
            && count <= self.limits.args_max
        {
            self.progress.at = digits.saturating_add(next);
            self.progress.scanned = 0;
            return Ok(Some(count));
        }
        let Some(end) = self.line_end(bytes, b'\r', ProtocolError::TooBigMultibulkCount)? else {
            return Ok(None);
        };
        let count = decimal(&bytes[digits..end])
            .filter(|&count| count <= i64::from(i32::MAX))
            .ok_or(ProtocolError::InvalidMultibulkLength)?;
        let count = usize::try_from(count).unwrap_or(0);
        if count > self.limits.args_max {
            return Err(self.too_many_args());
        }
        self.progress.at = end.saturating_add(2);
        Ok(Some(count))
    }

    /// Understands the line `$length`.
    #[inline]
    fn length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let at = self.progress.at;
        let Some((b'$', rest)) = bytes.get(at..).and_then(<[u8]>::split_first) else {
            return self.unusual_length(bytes);
        };
        match short_length(rest) {
            Some((length, next)) if length <= self.limits.bulk_bytes_max => {
                self.progress.at = at.saturating_add(1).saturating_add(next);
                self.progress.scanned = 0;
                self.fits(length).map(|()| Some(length))
            }
            _ => self.unusual_length(bytes),
        }
    }

    #[cold]
    fn unusual_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let at = self.progress.at;
        let Some(end) = self.line_end(bytes, b'\r', ProtocolError::TooBigBulkCount)? else {
            return Ok(None);
        };
        if bytes[at] != b'$' {
            return Err(ProtocolError::ExpectedDollar { found: bytes[at] });
        }
        let length = decimal(&bytes[at.saturating_add(1)..end])
            .and_then(|length| usize::try_from(length).ok())
            .ok_or(ProtocolError::InvalidBulkLength)?;
        if length > self.limits.bulk_bytes_max {
            let unauthenticated = !self.limits.authenticated && length <= REDIS_BULK_BYTES_MAX;
            return Err(if unauthenticated {
                ProtocolError::UnauthenticatedBulkLength
            } else {
                ProtocolError::InvalidBulkLength
            });
        }
        self.progress.at = end.saturating_add(2);
        self.fits(length).map(|()| Some(length))
    }

    /// Refuses an argument of `length` bytes at `at` that would make the request too long.
    #[inline]
    fn fits(&self, length: usize) -> Result<(), ProtocolError> {
        let bytes_max = self.limits.request_bytes_max;
        let before = self.progress.at.saturating_sub(self.progress.start);
        let bytes = before.saturating_add(length).saturating_add(2);
        if bytes > bytes_max { Err(ProtocolError::TooBigRequest { bytes_max }) } else { Ok(()) }
    }

    fn inline(&mut self, bytes: &mut [u8]) -> Result<Step, ProtocolError> {
        let Some(end) = self.line_end(bytes, b'\n', ProtocolError::TooBigInlineRequest)? else {
            return Ok(Step::Incomplete);
        };
        let start = self.progress.at;
        let line = &mut bytes[start..end];
        let line = match line {
            [line @ .., b'\r'] => line,
            line => line,
        };
        let Words { spans, unquoted } = inline::split(line)?;
        if spans.len() > self.limits.args_max {
            return Err(self.too_many_args());
        }
        if let Some(&(at, len)) = spans.first() {
            let text = unquoted.as_deref().unwrap_or(line);
            let name = &text[at as usize..][..len as usize];
            if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
                return Err(ProtocolError::CrossProtocol);
            }
        }
        // Only now, for a request that is refused behind others is read a second time.
        if let Some(unquoted) = unquoted {
            line[..unquoted.len()].copy_from_slice(&unquoted);
        }
        for &(at, len) in &spans {
            self.push(((start as u32).saturating_add(at), len));
        }
        self.progress.at = end.saturating_add(1);
        Ok(if spans.is_empty() { Step::Skipped } else { Step::Whole })
    }

    /// Where the line at `at` ends: the index of `terminator`. A `\r` counts only together with the
    /// byte after it. What was searched in vain is not searched again.
    fn line_end(
        &mut self,
        bytes: &[u8],
        terminator: u8,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let Progress { at, scanned, .. } = self.progress;
        let bound = at.saturating_add(self.limits.inline_bytes_max).saturating_add(1);
        let window = &bytes[at..bytes.len().min(bound)];
        let found = memchr(terminator, &window[scanned.min(window.len())..]);
        match found.map(|index| at.saturating_add(scanned).saturating_add(index)) {
            Some(end) if terminator == b'\n' || end.saturating_add(1) < bytes.len() => {
                self.progress.scanned = 0;
                Ok(Some(end))
            }
            Some(end) => {
                self.progress.scanned = end.saturating_sub(at);
                Ok(None)
            }
            None if window.len() > self.limits.inline_bytes_max => Err(too_long),
            None => {
                self.progress.scanned = window.len();
                Ok(None)
            }
        }
    }

    fn too_many_args(&self) -> ProtocolError {
        if self.limits.authenticated {
            ProtocolError::InvalidMultibulkLength
        } else {
            ProtocolError::UnauthenticatedMultibulkLength
        }
    }

    #[inline]
    fn push(&mut self, span: Span) {
        if self.spans.len() == self.spans.capacity() {
            self.make_room();
        }
        self.spans.push(span);
    }

    /// Grows by a quarter once it is large: an argument takes at least 6 bytes on the wire and 8
    /// here, so memory stays below twice the bytes that have arrived, but for the moment in which those put
    /// aside are joined.
    #[cold]
    fn make_room(&mut self) {
        if self.ends.is_empty() && self.spans.len() >= SPANS_ASIDE {
            let full = std::mem::replace(&mut self.spans, Vec::with_capacity(SPANS_ASIDE));
            self.aside.push(full);
        } else {
            let room = self.spans.len().clamp(48, 1024).max(self.spans.len() / 4);
            self.spans.reserve_exact(room);
        }
    }

    /// Puts those put aside before the others again.
    #[inline]
    fn join_spans(&mut self) {
        if !self.aside.is_empty() {
            let last = std::mem::take(&mut self.spans);
            self.aside.push(last);
            self.spans = std::mem::take(&mut self.aside).concat();
        }
    }
}

fn clamped(limits: Limits) -> Limits {
    Limits {
        request_bytes_max: limits.request_bytes_max.min(REQUEST_BYTES_CEILING),
        inline_bytes_max: limits.inline_bytes_max.max(INLINE_BYTES_FLOOR),
        ..limits
    }
}
