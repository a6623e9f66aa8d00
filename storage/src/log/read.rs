//! Cursors: durable records in order, from the hot tail or from disk; never a skip.

use std::{io, sync::Arc};

use larder_types::SequenceNumber;

use super::{
    error::{LogError, ReadError},
    format::{ChainPoint, RECORD_HEADER_BYTES, RecordHeader, RecordKind, u32_at},
    frames::{Frame, FrameReader, Mismatch, OwnedRecord},
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
                    disk_record(&self.shared, segment, reader, self.next)?
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

/// The record at `at` in a hot batch; `None` at its end. The bytes were encoded by this process.
fn hot_record(batch: &HotBatch, at: &mut usize) -> Option<OwnedRecord> {
    let rest = batch.frames.get(*at..)?;
    let header = RecordHeader::decode(rest)?;
    let frame = rest.get(..header.length as usize)?;
    *at += frame.len();
    Some(OwnedRecord {
        seq: header.seq,
        epoch: header.epoch,
        hybrid: header.hybrid,
        origin: header.origin,
        kind: RecordKind::from_u8(header.kind)?,
        body: frame[RECORD_HEADER_BYTES..].into(),
        crc: header.crc,
    })
}

fn offset_in(batch: &HotBatch, seq: SequenceNumber) -> usize {
    let before = seq.as_u64() - batch.first.as_u64();
    (0..before).fold(0, |at, _| at + u32_at(&batch.frames, at).unwrap_or(0) as usize)
}

/// The record `next` of a segment, passing over those before it; `None` if the segment has ended
/// and the record is in the one after it.
fn disk_record(
    shared: &Shared,
    segment: &Segment,
    reader: &mut FrameReader,
    next: SequenceNumber,
) -> Result<Option<OwnedRecord>, ReadError> {
    if segment.last().is_some_and(|last| last < next) && segment.is_sealed() {
        return Ok(None);
    }
    // Durable records lie before the length that was published with them.
    reader.extend_to(segment.bytes());
    loop {
        let Place { offset, chain } = Place::of(reader);
        match reader.next().map_err(LogError::io("read log segment", &segment.path))? {
            Frame::Record(record) => {
                segment.note(IndexEntry { seq: record.seq, offset, prev_crc: chain.crc });
                if record.seq == next {
                    return Ok(Some(record.into()));
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
                    return Ok(None);
                }
                let expected = format!("record {next}, which is durable");
                return Err(corrupt(&segment.path, offset, expected, "the end").into());
            }
        }
    }
}
