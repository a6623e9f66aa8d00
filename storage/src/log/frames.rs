//! Reads one segment file frame by frame, in bounded memory, and checks the chain.
//!
//! A frame is returned only if its checksum, its link to the record before, its number and its
//! epoch are right; what is not is [`Frame::Bad`] with the reason. What that means, damage or a
//! torn tail, is decided by the caller.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{io, sync::Arc};

use larder_types::{Epoch, HybridTime, RegionId, SequenceNumber};
use memchr::memmem;

use super::{
    chain::Mismatch,
    format::{
        ChainPoint, FOOTER_FIXED_BYTES, FOOTER_MAGIC, Footer, MARK_BYTES, MARK_MAGIC, Mark,
        RECORD_HEADER_BYTES, RecordHeader, RecordKind, Sums, record_length_fits, u32_at,
    },
};
use crate::fs::{File, read_full_at};

/// Bytes asked of the file at once.
const CHUNK_BYTES: usize = 256 << 10;

/// One record, borrowed from the reader's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub seq: SequenceNumber,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its stamp.
    pub hybrid: HybridTime,
    /// The region that wrote it first.
    pub origin: RegionId,
    /// What it is for.
    pub kind: RecordKind,
    /// What the writer put into it.
    pub body: &'a [u8],
    /// The frame's checksum, which the next record continues.
    pub crc: u32,
}

/// A record that owns its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its number.
    pub seq: SequenceNumber,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its stamp.
    pub hybrid: HybridTime,
    /// The region that wrote it first.
    pub origin: RegionId,
    /// What it is for.
    pub kind: RecordKind,
    /// What the writer put into it.
    pub body: Box<[u8]>,
    /// The frame's checksum, which the next record continues.
    pub crc: u32,
}

impl From<Record<'_>> for OwnedRecord {
    fn from(record: Record<'_>) -> Self {
        let Record { seq, epoch, hybrid, origin, kind, body, crc } = record;
        Self { seq, epoch, hybrid, origin, kind, body: body.into(), crc }
    }
}

/// What stands at the reader's place.
pub(super) enum Frame<'a> {
    Record(Record<'a>),
    Mark(Mark),
    Footer(Footer),
    /// A whole record with a kind that this version does not know.
    UnknownKind(u8),
    Bad(Mismatch),
    /// The end of the file, or of what of it may be read.
    End,
}

enum Next {
    Record(RecordHeader, RecordKind, usize),
    Mark(Mark),
    Footer(Footer),
    UnknownKind(u8),
    Bad(Mismatch),
    End,
}

/// Reads frames from a place in a segment file on.
#[derive(Debug)]
pub(super) struct FrameReader {
    file: Arc<dyn File>,
    sums: Sums,
    /// The segment's base, which the checksums of marks and footers cover.
    base: SequenceNumber,
    /// The offset of the frame that comes next.
    offset: u64,
    /// Frames end at or before this offset.
    end: u64,
    chain: ChainPoint,
    /// Whether epochs are checked: not when reading begins in the middle of a segment.
    check_epochs: bool,
    buffer: Vec<u8>,
    /// The offset of the buffer's first byte.
    buffer_offset: u64,
    /// Where the record that was returned last lies in the buffer.
    frame: std::ops::Range<usize>,
}

impl FrameReader {
    /// A reader of the frames in `offset..end`, the first of which continues `chain`.
    pub(super) fn new(
        file: Arc<dyn File>,
        sums: Sums,
        base: SequenceNumber,
        chain: ChainPoint,
        range: std::ops::Range<u64>,
    ) -> Self {
        Self {
            file,
            sums,
            base,
            offset: range.start,
            end: range.end,
            chain,
            check_epochs: true,
            buffer: Vec::new(),
            buffer_offset: range.start,
            frame: 0..0,
        }
    }

    /// The same without checking that records continue the epoch in effect: `chain` lacks it.
    pub(super) fn without_epochs(self) -> Self {
        Self { check_epochs: false, ..self }
    }

    /// The offset of the frame that comes next; of the bad one after [`Frame::Bad`].
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// What the next record has to continue.
    pub(super) const fn chain(&self) -> &ChainPoint {
        &self.chain
    }

    /// The whole frame of the record that [`FrameReader::next`] has just returned.
    pub(super) fn frame(&self) -> &[u8] {
        &self.buffer[self.frame.clone()]
    }

    /// Frames up to `end` can be read from now on.
    pub(super) const fn extend_to(&mut self, end: u64) {
        assert!(end >= self.end, "a segment never shrinks under its readers");
        self.end = end;
    }

    /// The next frame. After `Bad`, `UnknownKind` and `End` the reader stays where it is.
    pub(super) fn next(&mut self) -> io::Result<Frame<'_>> {
        Ok(match self.advance()? {
            Next::Record(header, kind, start) => {
                let RecordHeader { seq, epoch, hybrid, origin, crc, length, .. } = header;
                let body = &self.buffer[start..][RECORD_HEADER_BYTES..length as usize];
                Frame::Record(Record { seq, epoch, hybrid, origin, kind, body, crc })
            }
            Next::Mark(mark) => Frame::Mark(mark),
            Next::Footer(footer) => Frame::Footer(footer),
            Next::UnknownKind(kind) => Frame::UnknownKind(kind),
            Next::Bad(mismatch) => Frame::Bad(mismatch),
            Next::End => Frame::End,
        })
    }

    /// Passes over marks; answers the length of the record that comes next, 0 where none does.
    pub(super) fn peek_length(&mut self) -> io::Result<usize> {
        while self.window(MARK_MAGIC.len())?.starts_with(&MARK_MAGIC) {
            if !matches!(self.mark()?, Next::Mark(_)) {
                return Ok(0);
            }
        }
        let length = u32_at(self.window(4)?, 0).unwrap_or(0);
        Ok(if record_length_fits(length) { length as usize } else { 0 })
    }

    fn advance(&mut self) -> io::Result<Next> {
        let left = self.left_from(self.offset);
        if left == 0 {
            return Ok(Next::End);
        }
        let head = self.window(8)?;
        if head.starts_with(&MARK_MAGIC) {
            return self.mark();
        }
        if head.starts_with(&FOOTER_MAGIC) {
            return self.footer();
        }
        let Some(length) = u32_at(head, 0) else {
            return Ok(truncated("a frame", RECORD_HEADER_BYTES as u64, left));
        };
        if !record_length_fits(length) {
            return Ok(Next::Bad(Mismatch::new("a frame", format!("length {length}"))));
        }
        if u64::from(length) > left {
            return Ok(truncated("a record", u64::from(length), left));
        }
        self.record(length)
    }

    fn record(&mut self, length: u32) -> io::Result<Next> {
        let sums = self.sums;
        let frame = self.window(length as usize)?;
        if frame.len() < length as usize {
            return Ok(truncated("a record", u64::from(length), frame.len() as u64));
        }
        let crc = sums.record(frame);
        let Some(header) = RecordHeader::decode(frame) else {
            return Ok(Next::Bad(Mismatch::new("a record", "one with number 0")));
        };
        if header.crc != crc {
            return Ok(Next::Bad(Mismatch::crc(crc, header.crc)));
        }
        let Some(kind) = RecordKind::from_u8(header.kind) else {
            return Ok(Next::UnknownKind(header.kind));
        };
        let epochs = self.check_epochs;
        if let Err(mismatch) = self.chain.admit(&header, kind, epochs) {
            return Ok(Next::Bad(mismatch));
        }
        let start = self.place_in_buffer();
        self.frame = start..start.saturating_add(length as usize);
        self.pass(u64::from(length));
        Ok(Next::Record(header, kind, start))
    }

    fn mark(&mut self) -> io::Result<Next> {
        let (sums, base, offset) = (self.sums, self.base, self.offset);
        let bytes = self.window(MARK_BYTES)?;
        let Some(bytes) = bytes.first_chunk() else {
            return Ok(truncated("a mark", MARK_BYTES as u64, bytes.len() as u64));
        };
        let mark = match Mark::decode(bytes, sums, base, offset) {
            Ok(mark) => mark,
            Err((expected, found)) => return Ok(Next::Bad(Mismatch::crc(expected, found))),
        };
        let last = self.chain.next.prev();
        if mark.durable > last || (mark.durable == last && mark.crc != self.chain.crc) {
            return Ok(Next::Bad(Mismatch::new(
                format!("a mark of record {} or less", self.chain.last_stored()),
                format!("a mark of {}", mark.durable.map_or(0, |seq| seq.as_u64())),
            )));
        }
        self.pass(MARK_BYTES as u64);
        Ok(Next::Mark(mark))
    }

    fn footer(&mut self) -> io::Result<Next> {
        let (sums, base, offset) = (self.sums, self.base, self.offset);
        let left = self.left_from(offset);
        let length = Footer::length(self.window(FOOTER_FIXED_BYTES)?);
        let Some(length) = length.filter(|&length| length as u64 <= left) else {
            return Ok(truncated("a footer", FOOTER_FIXED_BYTES as u64, left));
        };
        let Some(footer) = Footer::decode(self.window(length)?, sums, base, offset) else {
            return Ok(Next::Bad(Mismatch::new("a footer", "one with a wrong checksum")));
        };
        if footer.last.next() != self.chain.next || footer.crc != self.chain.crc {
            return Ok(Next::Bad(Mismatch::new(
                format!("a footer after record {}", self.chain.last_stored()),
                format!("a footer after record {}", footer.last),
            )));
        }
        self.pass(length as u64);
        Ok(Next::Footer(footer))
    }

    /// Looks behind the reader's place for a mark that names a record beyond the last good one as
    /// durable; returns its offset and that record. Marks that are not whole and right are passed
    /// over, and so are those of another place.
    pub(super) fn find_later_mark(&self) -> io::Result<Option<(u64, SequenceNumber)>> {
        let finder = memmem::Finder::new(&MARK_MAGIC);
        let last = self.chain.next.prev();
        let left = |offset: u64| usize::try_from(self.left_from(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left(self.offset).min(CHUNK_BYTES + MARK_BYTES)];
        let mut offset = self.offset;
        while left(offset) >= MARK_BYTES {
            let wanted = buffer.len().min(left(offset));
            let read = read_full_at(&*self.file, &mut buffer[..wanted], offset)?;
            for at in finder.find_iter(&buffer[..read]) {
                let Some(bytes) = buffer[at..read].first_chunk() else { continue };
                let place = offset.saturating_add(at as u64);
                let Ok(mark) = Mark::decode(bytes, self.sums, self.base, place) else { continue };
                if let Some(durable) = mark.durable.filter(|_| mark.durable > last) {
                    return Ok(Some((place, durable)));
                }
            }
            if read < wanted {
                break;
            }
            // A mark that begins in this chunk's last bytes is whole in the next.
            let passed = read.saturating_sub(MARK_BYTES).clamp(1, CHUNK_BYTES);
            offset = offset.saturating_add(passed as u64);
        }
        Ok(None)
    }

    /// The bytes from the reader's place on, `wanted` of them or as many as there are.
    fn window(&mut self, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.left_from(self.offset)).unwrap_or(usize::MAX);
        let wanted = left.min(wanted);
        let at = self.place_in_buffer();
        if self.buffer.len() < at.saturating_add(wanted) {
            self.buffer.drain(..at.min(self.buffer.len()));
            self.buffer_offset = self.offset;
            let held = self.buffer.len();
            self.buffer.resize(left.min(wanted.max(CHUNK_BYTES)), 0);
            let from = self.offset.saturating_add(held as u64);
            let read = read_full_at(&*self.file, &mut self.buffer[held..], from)?;
            self.buffer.truncate(held.saturating_add(read));
        }
        let there = &self.buffer[self.place_in_buffer()..];
        Ok(&there[..there.len().min(wanted)])
    }

    /// Bytes that may be read from `offset` on.
    const fn left_from(&self, offset: u64) -> u64 {
        self.end.saturating_sub(offset)
    }

    /// Where the frame that comes next begins in the buffer.
    const fn place_in_buffer(&self) -> usize {
        self.offset.saturating_sub(self.buffer_offset) as usize
    }

    const fn pass(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes);
    }
}

fn truncated(what: &str, wanted: u64, left: u64) -> Next {
    Next::Bad(Mismatch::new(format!("{what} of {wanted} bytes"), format!("{left} bytes")))
}
