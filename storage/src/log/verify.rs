//! Reading a log offline: a full check, and a dump. Nothing is ever changed.

use std::{path::Path, vec};

use larder_types::{Epoch, HybridTime, LogId, SequenceNumber};

use super::{
    error::LogError,
    frames::{Frame, FrameReader, OwnedRecord},
    survey::{Survey, Surveyed},
};
use crate::fs::Fs;

/// What a whole log looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The log's identity; `None` if there is no log.
    pub id: Option<LogId>,
    /// The first record kept, or the tail if none is.
    pub first: SequenceNumber,
    /// The first unwritten number.
    pub tail: SequenceNumber,
    /// Records read.
    pub records: u64,
    /// The greatest stamp.
    pub last_hybrid: HybridTime,
    /// The epochs in the log with their first records.
    pub epochs: Vec<(Epoch, SequenceNumber)>,
    /// The segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// What the next start will cut and move to the quarantine.
    pub torn: Option<TornReport>,
    /// A file without a whole header, which the next start will set aside.
    pub unborn: Option<String>,
}

/// One segment of a [`VerifyReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file's name.
    pub name: String,
    /// The number of its first record, written or not.
    pub first: SequenceNumber,
    /// Records in it.
    pub records: u64,
    /// Marks in it.
    pub marks: u64,
    /// Its size.
    pub bytes: u64,
    /// Whether a footer has sealed it.
    pub sealed: bool,
}

/// Bytes behind the last whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornReport {
    /// The segment's file name.
    pub segment: String,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// How many bytes there are.
    pub bytes: u64,
}

/// Reads every byte of the log in `dir` and checks it. For a log that no process has open.
///
/// # Errors
/// The first damage found, as opening the log with everything to be replayed would.
pub fn verify(fs: &dyn Fs, dir: &Path) -> Result<VerifyReport, LogError> {
    let survey = Survey::of(fs, dir)?;
    let first = survey.segments.first().map_or(SequenceNumber::FIRST, Surveyed::base);
    let mut report = VerifyReport {
        id: survey.id(),
        first,
        tail: first,
        records: 0,
        last_hybrid: HybridTime::ZERO,
        epochs: Vec::new(),
        segments: Vec::new(),
        torn: None,
        unborn: survey
            .unborn
            .as_ref()
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()),
    };
    if let Some(start) = survey.segments.first().and_then(|segment| segment.header.chain.epoch) {
        report.epochs.push((start.epoch, start.first));
    }
    for segment in &survey.segments {
        report.add(fs, segment)?;
    }
    Ok(report)
}

impl VerifyReport {
    fn add(&mut self, fs: &dyn Fs, segment: &Surveyed) -> Result<(), LogError> {
        let (chain, epochs, marks) = match (&segment.footer, segment.chain_after()) {
            (Some(footer), Some(chain)) => {
                let marks = segment.scan_sealed(fs, &mut |_, _| Ok(()))?;
                (chain, footer.epochs.clone(), marks)
            }
            _ => {
                let scan = segment.scan_tail(fs)?;
                self.torn = (scan.end < scan.torn_end).then(|| TornReport {
                    segment: segment.name(),
                    offset: scan.end,
                    bytes: scan.torn_end - scan.end,
                });
                (scan.chain, scan.epochs, scan.marks)
            }
        };
        let records = chain.next.as_u64() - segment.base().as_u64();
        self.segments.push(SegmentReport {
            name: segment.name(),
            first: segment.base(),
            records,
            marks,
            bytes: segment.bytes,
            sealed: segment.footer.is_some(),
        });
        self.records += records;
        self.tail = chain.next;
        self.last_hybrid = self.last_hybrid.max(chain.hybrid);
        self.epochs.extend(epochs.iter().map(|start| (start.epoch, start.first)));
        Ok(())
    }
}

/// Every record of a log, oldest first. Ends at a torn tail, and after the first error.
#[derive(Debug)]
pub struct Dump<'a> {
    fs: &'a dyn Fs,
    /// Segments not begun yet.
    segments: vec::IntoIter<Surveyed>,
    current: Option<(Surveyed, FrameReader)>,
}

/// Reads the log in `dir` record by record. For a log that no process has open.
///
/// # Errors
/// Headers and footers that do not fit together; damage further in is told by the iterator.
pub fn dump<'a>(fs: &'a dyn Fs, dir: &Path) -> Result<Dump<'a>, LogError> {
    Ok(Dump { fs, segments: Survey::of(fs, dir)?.segments.into_iter(), current: None })
}

impl Iterator for Dump<'_> {
    type Item = Result<OwnedRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.current.is_none() {
                let segment = self.segments.next()?;
                match readable(self.fs, &segment) {
                    Ok(reader) => self.current = Some((segment, reader)),
                    Err(error) => return self.fail(error),
                }
            }
            let (segment, reader) = self.current.as_mut()?;
            let offset = reader.offset();
            let frame = match reader.next() {
                Ok(frame) => frame,
                Err(error) => {
                    let error = segment.io()(error);
                    return self.fail(error);
                }
            };
            match frame {
                Frame::Record(record) => return Some(Ok(record.into())),
                Frame::Mark(_) => {}
                Frame::Footer(_) | Frame::End => self.current = None,
                Frame::UnknownKind(kind) => {
                    let segment = segment.name();
                    return self.fail(LogError::UnsupportedKind { segment, offset, kind });
                }
                Frame::Bad(mismatch) => {
                    let error = segment.corrupt(offset, mismatch.expected, mismatch.found);
                    return self.fail(error);
                }
            }
        }
    }
}

impl Dump<'_> {
    fn fail(&mut self, error: LogError) -> Option<Result<OwnedRecord, LogError>> {
        self.current = None;
        self.segments = Vec::new().into_iter();
        Some(Err(error))
    }
}

/// A reader of a segment that ends before its torn tail, if it has one.
fn readable(fs: &dyn Fs, segment: &Surveyed) -> Result<FrameReader, LogError> {
    let end = match segment.footer {
        Some(_) => segment.bytes,
        None => segment.scan_tail(fs)?.end,
    };
    segment.frames(fs, end)
}
