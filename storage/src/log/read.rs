//! Cursors: durable records in order, from the hot tail or from disk; never a skip.

use std::{io, sync::Arc};

use bytes::Bytes;
use larder_types::{Epoch, SequenceNumber};

use super::{
    chain::Mismatch,
    error::{LogError, ReadError},
    format::{ChainPoint, RECORD_HEADER_BYTES, RecordHeader, RecordKind, u32_at},
    frames::{Frame, FrameReader, OwnedRecord},
    handle::Shared,
    hot::HotBatch,
    segment::{IndexEntry, Segment},
    survey::{Place, corrupt},
};
use crate::fs::OpenMode;

/// A place in a log. Holds the segment it reads, so that trimming does not take it away.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    next: SequenceNumber,
    source: Source,
}

/// Whole frames of durable records, as they are in the file, without the marks between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// The first record's number.
    pub first: SequenceNumber,
    /// The last record's number.
    pub last: SequenceNumber,
    /// The last record's epoch.
    pub last_epoch: Epoch,
    /// The checksum of the record before the first, which the first continues.
    pub prev_crc: u32,
    /// The checksum of the last record.
    pub last_crc: u32,
    /// The frames, one after the other.
    pub bytes: Bytes,
}

#[derive(Debug)]
enum Source {
    /// Not looked up: the next call decides.
    Unknown,
    Hot {
        batch: Arc<HotBatch>,
        at: usize,
    },
    Disk {
        segment: Arc<Segment>,
        reader: Box<FrameReader>,
    },
}

impl Cursor {
    pub(super) fn open(shared: Arc<Shared>, from: SequenceNumber) -> Result<Self, ReadError> {
        let tail = shared.durable().map_or(SequenceNumber::FIRST, SequenceNumber::next);
        if from > tail {
            return Err(ReadError::Beyond { tail });
        }
        let mut cursor = Self { shared, next: from, source: Source::Unknown };
        // At the tail too, so that what is trimmed or missing is said now and not later.
        cursor.locate()?;
        Ok(cursor)
    }

    /// The number of the record that [`Cursor::next`] gives.
    pub const fn position(&self) -> SequenceNumber {
        self.next
    }

    /// Whether the next record, once it is durable, is read from memory.
    pub fn is_hot(&self) -> bool {
        matches!(self.source, Source::Hot { .. }) || self.shared.hot.reaches(self.next)
    }

    /// The next record, or `None` if it is not durable yet: ask again later.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] if it was removed before the cursor came to its segment,
    /// [`ReadError::Log`] if the file is damaged or cannot be read.
    #[expect(clippy::should_implement_trait, reason = "None is not the end")]
    pub fn next(&mut self) -> Result<Option<OwnedRecord>, ReadError> {
        if self.shared.durable() < Some(self.next) {
            return Ok(None);
        }
        loop {
            let found = match &mut self.source {
                Source::Unknown => None,
                Source::Hot { batch, at } => hot_record(batch, at),
                Source::Disk { segment, reader } => {
                    let found = seek(&self.shared, segment, reader, self.next)?;
                    found.then(|| record_of(reader.frame())).flatten()
                }
            };
            if let Some(record) = found {
                assert_eq!(record.seq, self.next, "a cursor never skips");
                self.next = self.next.next();
                return Ok(Some(record));
            }
            self.locate()?;
        }
    }

    /// As many of the next records as fit into `bytes_max`, at least one; or `None` if the next is
    /// not durable yet: ask again later. Near the tail they come from memory, without a copy
    /// where one batch holds them.
    ///
    /// # Errors
    /// As [`Cursor::next`].
    pub fn next_frames(&mut self, bytes_max: usize) -> Result<Option<Frames>, ReadError> {
        let durable = self.shared.durable().filter(|durable| *durable >= self.next);
        let Some(durable) = durable else { return Ok(None) };
        if matches!(self.source, Source::Disk { .. }) && self.shared.hot.reaches(self.next) {
            self.source = Source::Unknown;
        }
        loop {
            let chunk = match &mut self.source {
                Source::Unknown => None,
                Source::Hot { .. } => self.hot_chunk(durable, bytes_max),
                Source::Disk { segment, reader } => {
                    let wanted = (self.next, durable);
                    Some(disk_chunk(&self.shared, segment, reader, wanted, bytes_max)?)
                }
            };
            if let Some(frames) = chunk.and_then(Chunk::into_frames) {
                assert_eq!(frames.first, self.next, "a cursor never skips");
                self.next = frames.last.next();
                return Ok(Some(frames));
            }
            self.locate()?;
        }
    }

    /// Frames of the hot batch the cursor is in, and of those after it.
    fn hot_chunk(&mut self, durable: SequenceNumber, bytes_max: usize) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        while let Source::Hot { batch, at } = &mut self.source {
            let from = *at;
            while let Some(header) = RecordHeader::decode(&batch.frames[*at..])
                && header.seq <= durable
                && chunk.take(header, bytes_max)
            {
                *at += header.length as usize;
            }
            if *at > from {
                chunk.parts.push(batch.frames.slice(from..*at));
            }
            if *at < batch.frames.len() {
                break;
            }
            let Some(next) = self.shared.hot.batch_with(batch.last.next()) else { break };
            self.source = Source::Hot { batch: next, at: 0 };
        }
        Some(chunk)
    }

    /// Finds out where the next record is.
    fn locate(&mut self) -> Result<(), ReadError> {
        if let Some(batch) = self.shared.hot.batch_with(self.next) {
            let at = offset_in(&batch, self.next);
            self.source = Source::Hot { batch, at };
            return Ok(());
        }
        let trimmed = || ReadError::Trimmed { first: self.shared.first() };
        let segment = self.shared.segment_with(self.next).ok_or_else(trimmed)?;
        let file = match self.shared.fs.open(&segment.path, OpenMode::Read) {
            // Trimmed between the look-up and here.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_trimmed() => {
                return Err(trimmed());
            }
            opened => opened.map_err(LogError::io("open log segment", &segment.path))?,
        };
        let IndexEntry { seq, offset, prev_crc } = segment.nearest(self.next);
        let chain = ChainPoint { next: seq, crc: prev_crc, ..segment.chain };
        let range = offset..segment.bytes().max(offset);
        let sums = self.shared.sums;
        let reader = FrameReader::new(file, sums, segment.base(), chain, range).without_epochs();
        self.source = Source::Disk { segment, reader: Box::new(reader) };
        Ok(())
    }

    fn is_trimmed(&self) -> bool {
        self.next < self.shared.first()
    }
}

/// The record at `at` in a hot batch; `None` at its end. The bytes were checked by this process.
fn hot_record(batch: &HotBatch, at: &mut usize) -> Option<OwnedRecord> {
    let record = record_of(batch.frames.get(*at..)?)?;
    *at += RECORD_HEADER_BYTES + record.body.len();
    Some(record)
}

/// The record whose frame `bytes` begin with.
fn record_of(bytes: &[u8]) -> Option<OwnedRecord> {
    let header = RecordHeader::decode(bytes)?;
    Some(OwnedRecord {
        seq: header.seq,
        epoch: header.epoch,
        hybrid: header.hybrid,
        origin: header.origin,
        kind: RecordKind::from_u8(header.kind)?,
        body: bytes.get(RECORD_HEADER_BYTES..header.length as usize)?.into(),
        crc: header.crc,
    })
}

fn offset_in(batch: &HotBatch, seq: SequenceNumber) -> usize {
    let before = seq.as_u64() - batch.first.as_u64();
    (0..before).fold(0, |at, _| at + u32_at(&batch.frames, at).unwrap_or(0) as usize)
}

/// Frames in the gathering.
#[derive(Default)]
struct Chunk {
    parts: Vec<Bytes>,
    bytes: usize,
    /// The headers of the first record and of the last.
    ends: Option<(RecordHeader, RecordHeader)>,
}

impl Chunk {
    /// Counts a record in, if it is the first or there is room for it.
    fn take(&mut self, header: RecordHeader, bytes_max: usize) -> bool {
        let bytes = self.bytes.saturating_add(header.length as usize);
        if bytes > bytes_max && self.ends.is_some() {
            return false;
        }
        let first = self.ends.map_or(header, |(first, _)| first);
        (self.bytes, self.ends) = (bytes, Some((first, header)));
        true
    }

    /// `None` if no record was counted in.
    fn into_frames(mut self) -> Option<Frames> {
        let (first, last) = self.ends?;
        let bytes =
            if self.parts.len() == 1 { self.parts.pop()? } else { self.parts.concat().into() };
        Some(Frames {
            first: first.seq,
            last: last.seq,
            last_epoch: last.epoch,
            prev_crc: first.prev_crc,
            last_crc: last.crc,
            bytes,
        })
    }
}

/// Frames of the wanted records, first to last, that this segment holds.
fn disk_chunk(
    shared: &Shared,
    segment: &Segment,
    reader: &mut FrameReader,
    (mut next, last): (SequenceNumber, SequenceNumber),
    bytes_max: usize,
) -> Result<Chunk, ReadError> {
    let (mut chunk, mut bytes) = (Chunk::default(), Vec::new());
    // Durable records lie before the length that was published with them.
    reader.extend_to(segment.bytes());
    while next <= last {
        let length = reader.peek_length().map_err(LogError::io("read", &segment.path))?;
        if chunk.bytes > 0 && chunk.bytes.saturating_add(length) > bytes_max {
            break;
        }
        if !seek(shared, segment, reader, next)? {
            break;
        }
        let frame = reader.frame();
        let Some(header) = RecordHeader::decode(frame) else { break };
        assert!(chunk.take(header, bytes_max), "its length was looked at");
        bytes.extend_from_slice(frame);
        next = next.next();
    }
    chunk.parts.push(bytes.into());
    Ok(chunk)
}

/// Moves the reader behind the record `next` of a segment, passing over those before it; false if
/// the segment has ended and the record is in the one after it.
fn seek(
    shared: &Shared,
    segment: &Segment,
    reader: &mut FrameReader,
    next: SequenceNumber,
) -> Result<bool, ReadError> {
    if segment.last().is_some_and(|last| last < next) && segment.is_sealed() {
        return Ok(false);
    }
    // Durable records lie before the length that was published with them.
    reader.extend_to(segment.bytes());
    loop {
        let Place { offset, chain } = Place::of(reader);
        match reader.next().map_err(LogError::io("read log segment", &segment.path))? {
            Frame::Record(record) => {
                segment.note(IndexEntry { seq: record.seq, offset, prev_crc: chain.crc });
                if record.seq == next {
                    return Ok(true);
                }
            }
            Frame::Mark(_) => {}
            Frame::Bad(Mismatch { expected, found }) => {
                return Err(corrupt(&segment.path, offset, expected, found).into());
            }
            Frame::UnknownKind(kind) => {
                let segment = segment.name();
                return Err(LogError::UnsupportedKind { segment, offset, kind }.into());
            }
            Frame::Footer(_) | Frame::End => {
                // The writer may have sealed this segment since the caller asked.
                if shared.segment_with(next).is_none_or(|other| other.base() > segment.base()) {
                    return Ok(false);
                }
                let expected = format!("record {next}, which is durable");
                return Err(corrupt(&segment.path, offset, expected, "the end").into());
            }
        }
    }
}
