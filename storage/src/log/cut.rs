//! Cutting a log where it parted from its master's. Offline: nobody has the log open.
//!
//! Nothing is deleted: segments are moved to the quarantine, newest first, and the end of the one
//! in the middle of which the log is cut is copied there. Every step leaves a log that opens and
//! holds at least what is kept; done again, the cut goes on where a crash had stopped it.

use std::path::Path;

use larder_types::SequenceNumber;

use super::{
    error::LogError,
    format::HEADER_BYTES,
    frames::Frame,
    repair::{quarantine_bytes, quarantine_file},
    survey::{Survey, Surveyed},
};
use crate::fs::{Fs, OpenMode};

/// What a cut took out of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Records taken out.
    pub records: u64,
    /// Bytes moved or copied to the quarantine.
    pub bytes: u64,
}

/// Cuts the log in `dir` behind record `after`, which is the last one kept. All that is cut is in
/// `quarantine` afterwards, and the log opens with `after.next()` as its tail.
///
/// # Errors
/// [`LogError::Gap`] if the log does not reach `after`, or begins beyond the next record; damage
/// before `after`; [`LogError::Io`], after which the cut has to be done again.
pub fn cut(
    fs: &dyn Fs,
    dir: &Path,
    quarantine: &Path,
    after: SequenceNumber,
) -> Result<Cut, LogError> {
    let mut survey = Survey::of(fs, dir)?;
    let tail = survey.tail(fs)?;
    let first = survey.segments.first().map_or(tail, Surveyed::base);
    if first > after.next() || tail <= after {
        return Err(LogError::Gap { wanted: after.next(), first, tail });
    }
    let mut done = Cut { records: tail.as_u64() - after.next().as_u64(), bytes: 0 };
    if let Some(unborn) = &survey.unborn {
        quarantine_file(fs, quarantine, unborn)?;
    }
    while survey.segments.len() > 1
        && let Some(segment) = survey.segments.pop_if(|segment| segment.base() > after)
    {
        quarantine_file(fs, quarantine, &segment.path)?;
        done.bytes += segment.bytes;
    }
    if let Some(segment) = survey.segments.last() {
        done.bytes += cut_segment(fs, quarantine, segment, after)?;
    }
    Ok(done)
}

/// Cuts a segment behind `after`, if it holds more records; returns the bytes cut, without the room
/// made ahead behind them.
fn cut_segment(
    fs: &dyn Fs,
    quarantine: &Path,
    segment: &Surveyed,
    after: SequenceNumber,
) -> Result<u64, LogError> {
    let Some(offset) = end_of(fs, segment, after)? else { return Ok(0) };
    let opened = fs.open(&segment.path, OpenMode::Write);
    let file = opened.map_err(LogError::io("open log segment", &segment.path))?;
    let end = match segment.footer {
        Some(_) => segment.bytes,
        None => segment.scan_tail(fs)?.torn_end,
    };
    quarantine_bytes(fs, quarantine, segment, &*file, offset..end)?;
    file.truncate(offset).map_err(LogError::io("cut", &segment.path))?;
    file.sync_data().map_err(LogError::io("sync", &segment.path))?;
    Ok(end - offset)
}

/// Where record `after` ends; `None` if no record follows it in the segment.
fn end_of(fs: &dyn Fs, segment: &Surveyed, after: SequenceNumber) -> Result<Option<u64>, LogError> {
    let mut reader = segment.frames(fs, segment.footer_offset())?;
    let mut end = HEADER_BYTES as u64;
    loop {
        let offset = reader.offset();
        match reader.next().map_err(segment.io())? {
            Frame::Record(record) if record.seq > after => return Ok(Some(end)),
            Frame::Record(_) => end = reader.offset(),
            Frame::Mark(_) => {}
            Frame::Bad(bad) if segment.footer.is_some() => {
                return Err(segment.corrupt(offset, bad.expected, bad.found));
            }
            // A torn tail is left to the next opening.
            Frame::Bad(_) | Frame::End | Frame::Footer(_) => return Ok(None),
            Frame::UnknownKind(kind) => {
                return Err(LogError::UnsupportedKind { segment: segment.name(), offset, kind });
            }
        }
    }
}
