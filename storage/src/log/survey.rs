//! Looks over a log's directory without changing it: which segments there are, whether headers
//! and footers fit together, and where the last segment ends.
//!
//! Recovery acts on what is found here; verification only reports it.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_types::{EpochStart, LogId, SequenceNumber};

use super::{
    chain::Mismatch,
    error::LogError,
    format::{
        ChainPoint, FOOTER_EPOCH_BYTES, FOOTER_FIXED_BYTES, FOOTER_TRAILER_BYTES, Footer,
        HEADER_BYTES, HEADER_BYTES_MAX, Header, HeaderRead, Sums, VERSION, segment_base,
        segment_name, u32_at,
    },
    frames::{Frame, FrameReader, Record},
};
use crate::fs::{File, Fs, OpenMode, read_full_at};

/// Bytes read at once in search of the end of what was written.
const ZEROS_READ_BYTES: usize = 64 << 10;

/// A segment whose header is right, and whose footer is if it has one.
#[derive(Debug)]
pub(super) struct Surveyed {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) header: Header,
    /// `None` for the segment that is being written: only the last may lack it.
    pub(super) footer: Option<Footer>,
}

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Survey {
    /// Ascending, each continuing the one before.
    pub(super) segments: Vec<Surveyed>,
    /// A last file without a whole header: made just before a crash, never held a record.
    pub(super) unborn: Option<PathBuf>,
}

impl Survey {
    /// Lists and checks the segments in `dir`. An absent directory is an empty one.
    pub(super) fn of(fs: &dyn Fs, dir: &Path) -> Result<Self, LogError> {
        let bases = list_segments(fs, dir)?;
        let mut survey = Self { segments: Vec::with_capacity(bases.len()), unborn: None };
        for (at, &base) in bases.iter().enumerate() {
            let is_last = Some(&base) == bases.last();
            match survey_segment(fs, dir, base, is_last, at == 0)? {
                Some(segment) => {
                    survey.check_order(&segment, is_last)?;
                    survey.segments.push(segment);
                }
                None => survey.unborn = Some(dir.join(segment_name(base))),
            }
        }
        if let (Some(unborn), Some(last)) = (&survey.unborn, survey.segments.last()) {
            let expected = last.footer.as_ref().map(|footer| footer.last.next());
            let expected = expected.ok_or_else(|| last.footer_missing())?;
            if *unborn != dir.join(segment_name(expected)) {
                return Err(corrupt(unborn, 0, format!("a file named for {expected}"), "another"));
            }
        }
        Ok(survey)
    }

    fn check_order(&self, segment: &Surveyed, is_last: bool) -> Result<(), LogError> {
        if !is_last && segment.footer.is_none() {
            return Err(segment.footer_missing());
        }
        let Some(before) = self.segments.last() else { return Ok(()) };
        let expected_id = self.segments[0].header.id;
        if segment.header.id != expected_id {
            return Err(LogError::Foreign {
                segment: segment.name(),
                expected: expected_id,
                found: segment.header.id,
            });
        }
        let expected = before.chain_after().ok_or_else(|| before.footer_missing())?;
        let found = segment.header.chain;
        if found.next > expected.next {
            let (expected, found) = (expected.next, found.next);
            return Err(LogError::MissingSegment { segment: segment.name(), expected, found });
        }
        if found != expected {
            let describe = |chain: &ChainPoint| {
                format!("a header that continues {} ({:#010x})", chain.last_stored(), chain.crc)
            };
            return Err(segment.corrupt(0, describe(&expected), describe(&found)));
        }
        Ok(())
    }

    /// The first number without a whole record.
    pub(super) fn tail(&self, fs: &dyn Fs) -> Result<SequenceNumber, LogError> {
        let Some(last) = self.segments.last() else { return Ok(SequenceNumber::FIRST) };
        match last.chain_after() {
            Some(chain) => Ok(chain.next),
            None => Ok(last.scan_tail(fs)?.chain.next),
        }
    }

    pub(super) fn id(&self) -> Option<LogId> {
        self.segments.first().map(|segment| segment.header.id)
    }
}

impl Surveyed {
    pub(super) const fn base(&self) -> SequenceNumber {
        self.header.chain.next
    }

    pub(super) fn name(&self) -> String {
        segment_name(self.base())
    }

    /// The chain after its last record; `None` if it is not sealed.
    pub(super) fn chain_after(&self) -> Option<ChainPoint> {
        let footer = self.footer.as_ref()?;
        Some(ChainPoint {
            next: footer.last.next(),
            crc: footer.crc,
            epoch: footer.epochs.last().copied().or(self.header.chain.epoch),
            hybrid: footer.hybrid,
        })
    }

    /// Where its footer begins, or its end if it has none.
    pub(super) fn footer_offset(&self) -> u64 {
        let footer = self.footer.as_ref().map_or(0, Footer::encoded_bytes);
        self.bytes.saturating_sub(footer as u64)
    }

    /// A reader of its frames up to an offset. Files are opened when they are read: a log can
    /// have more segments than a process may have files.
    pub(super) fn frames(&self, fs: &dyn Fs, end: u64) -> Result<FrameReader, LogError> {
        let (sums, range) = (Sums::new(self.header.id), HEADER_BYTES as u64..end);
        Ok(FrameReader::new(self.open(fs)?, sums, self.base(), self.header.chain, range))
    }

    fn open(&self, fs: &dyn Fs) -> Result<Arc<dyn File>, LogError> {
        let opened = fs.open(&self.path, OpenMode::Read);
        opened.map_err(LogError::io("open log segment", &self.path))
    }

    pub(super) fn io(&self) -> impl FnOnce(io::Error) -> LogError {
        LogError::io("read log segment", &self.path)
    }

    pub(super) fn corrupt(
        &self,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> LogError {
        corrupt(&self.path, offset, expected, found)
    }

    fn footer_missing(&self) -> LogError {
        self.corrupt(self.bytes, "a footer at the end of the file", "none that is whole")
    }

    /// Reads a sealed segment through: every frame must be right and the footer must be last.
    pub(super) fn scan_sealed(
        &self,
        fs: &dyn Fs,
        each: &mut dyn FnMut(Place, Record<'_>) -> Result<(), LogError>,
    ) -> Result<u64, LogError> {
        let mut reader = self.frames(fs, self.bytes)?;
        let mut marks = 0_u64;
        loop {
            let place = Place::of(&reader);
            match reader.next().map_err(self.io())? {
                Frame::Record(record) => each(place, record)?,
                Frame::Mark(_) => marks = marks.saturating_add(1),
                Frame::Footer(footer) if Some(&footer) == self.footer.as_ref() => {
                    if reader.offset() == self.bytes {
                        return Ok(marks);
                    }
                    return Err(self.corrupt(place.offset, "the end of the file", "more"));
                }
                Frame::Footer(_) => {
                    return Err(self.corrupt(place.offset, "one footer", "another before it"));
                }
                Frame::UnknownKind(kind) => return Err(self.unknown_kind(place.offset, kind)),
                Frame::Bad(Mismatch { expected, found }) => {
                    return Err(self.corrupt(place.offset, expected, found));
                }
                Frame::End => return Err(self.footer_missing()),
            }
        }
    }

    /// Reads the segment that is being written, and finds its end.
    ///
    /// A bad frame is damage if a later mark says that it was durable, and torn otherwise.
    pub(super) fn scan_tail(&self, fs: &dyn Fs) -> Result<TailScan, LogError> {
        let mut reader = self.frames(fs, self.bytes)?;
        let mut scan = TailScan::at(&self.header.chain);
        loop {
            let place = Place::of(&reader);
            match reader.next().map_err(self.io())? {
                Frame::Record(_) => scan.marked = false,
                Frame::Mark(mark) => {
                    scan.marks = scan.marks.saturating_add(1);
                    scan.pass_mark(place, mark.durable);
                }
                Frame::UnknownKind(kind) => return Err(self.unknown_kind(place.offset, kind)),
                Frame::Footer(_) => {
                    // It would have been found from the end of the file if it were the last.
                    let after = reader.offset();
                    return Err(self.corrupt(after, "the end of the file after a footer", "more"));
                }
                Frame::Bad(mismatch) => {
                    if let Some((at, durable)) = reader.find_later_mark().map_err(self.io())? {
                        return Err(self.corrupt(
                            place.offset,
                            format!(
                                "{}, for the mark at offset {at} says that record {durable} \
                                 was durable",
                                mismatch.expected
                            ),
                            mismatch.found,
                        ));
                    }
                    scan.finish(place);
                    scan.torn_end = self.end_of_bytes(fs, scan.end)?;
                    return Ok(scan);
                }
                Frame::End => {
                    scan.finish(place);
                    return Ok(scan);
                }
            }
            if let Some(start) = reader.chain().epoch.filter(|start| place.begins(start)) {
                scan.epochs.push(start);
            }
        }
    }

    /// Gives the records of the segment that is being written to `each`, as [`Self::scan_tail`]
    /// found them.
    pub(super) fn replay_tail(
        &self,
        fs: &dyn Fs,
        scan: &TailScan,
        each: &mut dyn FnMut(Place, Record<'_>) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut reader = self.frames(fs, scan.end)?;
        loop {
            let place = Place::of(&reader);
            match reader.next().map_err(self.io())? {
                Frame::Record(record) => each(place, record)?,
                Frame::Mark(_) => {}
                Frame::End if place.chain == scan.chain => return Ok(()),
                _ => {
                    let expected = "what was read there a moment ago";
                    return Err(self.corrupt(place.offset, expected, "other bytes"));
                }
            }
        }
    }

    /// The offset after the last byte from `start` on that is not zero; `start` if all are.
    fn end_of_bytes(&self, fs: &dyn Fs, start: u64) -> Result<u64, LogError> {
        let file = self.open(fs)?;
        let mut buffer = vec![0; ZEROS_READ_BYTES];
        let (mut offset, mut end) = (start, start);
        loop {
            let read = read_full_at(&*file, &mut buffer, offset).map_err(self.io())?;
            if let Some(at) = buffer[..read].iter().rposition(|byte| *byte != 0) {
                end = offset.saturating_add(at as u64).saturating_add(1);
            }
            offset = offset.saturating_add(read as u64);
            if read < buffer.len() {
                return Ok(end);
            }
        }
    }

    fn unknown_kind(&self, offset: u64, kind: u8) -> LogError {
        LogError::UnsupportedKind { segment: self.name(), offset, kind }
    }
}

/// Where a frame begins, and the chain before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) chain: ChainPoint,
}

impl Place {
    pub(super) const fn of(reader: &FrameReader) -> Self {
        Self { offset: reader.offset(), chain: *reader.chain() }
    }

    /// Whether the frame here is the record that opened the epoch.
    pub(super) fn begins(&self, start: &EpochStart) -> bool {
        start.first == self.chain.next
    }
}

/// Where the last segment ends, and what of it is known to be durable.
#[derive(Debug)]
pub(super) struct TailScan {
    /// The chain after the last whole record.
    pub(super) chain: ChainPoint,
    /// The offset after the last whole frame.
    pub(super) end: u64,
    /// The offset after the last byte that is not zero; zeros behind it are room made ahead. Equal
    /// to `end` unless something was torn.
    pub(super) torn_end: u64,
    /// No mark says of the bytes from here to `end` that they are durable: they follow the
    /// greatest record that one names.
    unproven_from: u64,
    /// The last record before `unproven_from`.
    unproven_after: Option<SequenceNumber>,
    /// Whether the last frame is a mark that says that all before it is durable.
    pub(super) marked: bool,
    pub(super) marks: u64,
    /// The epochs opened in the segment.
    pub(super) epochs: Vec<EpochStart>,
    /// The greatest record that a mark, or the header, says is durable.
    proven: Option<SequenceNumber>,
    /// Marks whose place is not proven durable yet: (offset, last record before).
    places: VecDeque<(u64, Option<SequenceNumber>)>,
}

impl TailScan {
    fn at(chain: &ChainPoint) -> Self {
        Self {
            chain: *chain,
            end: HEADER_BYTES as u64,
            torn_end: HEADER_BYTES as u64,
            unproven_from: HEADER_BYTES as u64,
            unproven_after: chain.next.prev(),
            marked: true,
            marks: 0,
            epochs: Vec::new(),
            proven: chain.next.prev(),
            places: VecDeque::new(),
        }
    }

    /// Where the bytes begin that nothing proves durable. The header is one of them until a record
    /// behind it is proven: no record is written before the header is durable.
    pub(super) const fn unproven_from(&self) -> u64 {
        if self.unproven_from == HEADER_BYTES as u64 { 0 } else { self.unproven_from }
    }

    fn pass_mark(&mut self, place: Place, durable: Option<SequenceNumber>) {
        let last = place.chain.next.prev();
        self.marked = durable == last;
        self.proven = self.proven.max(durable);
        self.places.push_back((place.offset, last));
        while let Some(&(offset, last)) = self.places.front()
            && last <= self.proven
        {
            // Of several marks behind the same record only the first stands right behind it, and
            // the others may be lost.
            if last > self.unproven_after {
                (self.unproven_from, self.unproven_after) = (offset, last);
            }
            self.places.pop_front();
        }
    }

    fn finish(&mut self, place: Place) {
        self.chain = place.chain;
        (self.end, self.torn_end) = (place.offset, place.offset);
    }
}

fn list_segments(fs: &dyn Fs, dir: &Path) -> Result<Vec<SequenceNumber>, LogError> {
    let names = match fs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(LogError::io("list directory", dir))?,
    };
    let mut bases = Vec::with_capacity(names.len());
    for name in names {
        let Some(name) = name.to_str().filter(|name| name.ends_with(".seg")) else { continue };
        let base = segment_base(name);
        bases.push(base.ok_or_else(|| LogError::UnexpectedFile { path: dir.join(name) })?);
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Reads header and footer; `None` for a last file that never got as far as its header.
fn survey_segment(
    fs: &dyn Fs,
    dir: &Path,
    base: SequenceNumber,
    is_last: bool,
    is_first: bool,
) -> Result<Option<Surveyed>, LogError> {
    let path = dir.join(segment_name(base));
    let opened = fs.open(&path, OpenMode::Read);
    let file = opened.map_err(LogError::io("open log segment", &path))?;
    let bytes = file.len().map_err(LogError::io("read the length of", &path))?;
    let mut head = vec![0; HEADER_BYTES_MAX.min(usize::try_from(bytes).unwrap_or(usize::MAX))];
    let read =
        read_full_at(&*file, &mut head, 0).map_err(LogError::io("read log segment", &path))?;
    head.truncate(read);
    let header = match Header::decode(&head) {
        HeaderRead::Valid(header) => header,
        HeaderRead::OtherVersion(found) => {
            let segment = segment_name(base);
            return Err(LogError::UnsupportedVersion { segment, found, supported: VERSION });
        }
        HeaderRead::Damaged { expected, found } => {
            // No record is written before the header is durable, so a file that ends with its
            // header holds none; and only the log's very first segment has none before it.
            let never_written = bytes <= HEADER_BYTES as u64;
            let nothing_before = !is_first || base == SequenceNumber::FIRST;
            if is_last && never_written && nothing_before {
                return Ok(None);
            }
            return Err(corrupt(
                &path,
                0,
                format!("a segment header with checksum {expected:#010x}"),
                format!("{found:#010x}, or no header"),
            ));
        }
    };
    if header.chain.next != base {
        let found = format!("a header for base {}", header.chain.next);
        return Err(corrupt(&path, 0, format!("a header for base {base}"), found));
    }
    let footer =
        read_footer(&*file, bytes, &header).map_err(LogError::io("read log segment", &path))?;
    Ok(Some(Surveyed { path, bytes, header, footer }))
}

fn read_footer(file: &dyn File, bytes: u64, header: &Header) -> io::Result<Option<Footer>> {
    let Some(room) = bytes.checked_sub(HEADER_BYTES as u64) else { return Ok(None) };
    if room < FOOTER_FIXED_BYTES as u64 {
        return Ok(None);
    }
    let mut trailer = [0; FOOTER_TRAILER_BYTES];
    let trailer_at = bytes.saturating_sub(FOOTER_TRAILER_BYTES as u64);
    let read = read_full_at(file, &mut trailer, trailer_at)?;
    let length = u32_at(&trailer[..read], 0).unwrap_or(0) as usize;
    let table = length.checked_sub(FOOTER_FIXED_BYTES);
    let fits = table.is_some_and(|table| table.is_multiple_of(FOOTER_EPOCH_BYTES))
        && length as u64 <= room;
    if !fits {
        return Ok(None);
    }
    let offset = bytes.saturating_sub(length as u64);
    let mut footer = vec![0; length];
    let read = read_full_at(file, &mut footer, offset)?;
    let base = header.chain.next;
    let footer = Footer::decode(&footer[..read], Sums::new(header.id), base, offset);
    Ok(footer.filter(|footer| {
        let before_last = footer.last.as_u64().checked_sub(base.as_u64());
        before_last.is_some_and(|before| footer.count.checked_sub(1) == Some(before))
    }))
}

pub(super) fn corrupt(
    path: &Path,
    offset: u64,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> LogError {
    let segment = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    LogError::Corrupt { segment, offset, expected: expected.into(), found: found.into() }
}
