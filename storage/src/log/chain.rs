//! The chain of records: what the next record has to continue, wherever its bytes come from.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::cmp::Ordering;

use larder_types::{EpochStart, SequenceNumber};

use super::{
    error::AcceptError,
    format::{
        ChainPoint, RECORD_HEADER_BYTES, RecordHeader, RecordKind, Sums, record_length_fits, u32_at,
    },
    frames::Record,
};

/// Why bytes are not the frame that has to stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) expected: String,
    pub(super) found: String,
}

impl Mismatch {
    pub(super) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { expected: expected.into(), found: found.into() }
    }

    pub(super) fn crc(expected: u32, found: u32) -> Self {
        Self::new(format!("checksum {expected:#010x}"), format!("{found:#010x}"))
    }
}

impl ChainPoint {
    /// Checks that a record continues the chain, and moves the chain on. Epochs are not checked
    /// where the one in effect is not known.
    pub(super) fn admit(
        &mut self,
        header: &RecordHeader,
        kind: RecordKind,
        check_epochs: bool,
    ) -> Result<(), Mismatch> {
        if header.seq != self.next {
            return Err(Mismatch::new(
                format!("record {}", self.next),
                format!("record {}", header.seq),
            ));
        }
        if header.prev_crc != self.crc {
            return Err(Mismatch::new(
                format!("a record after checksum {:#010x}", self.crc),
                format!("one after {:#010x}", header.prev_crc),
            ));
        }
        let current = self.epoch.map(|start| start.epoch);
        let continues = match kind {
            RecordKind::Epoch => {
                current.is_none_or(|current| current.order(header.epoch) == Some(Ordering::Less))
            }
            RecordKind::Data | RecordKind::Replicas => current == Some(header.epoch),
        };
        if check_epochs && !continues {
            let current = current.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
            return Err(Mismatch::new(
                format!("a record that continues epoch {current}"),
                format!("{:?} record of epoch {}", kind, header.epoch),
            ));
        }
        if kind == RecordKind::Epoch {
            self.epoch = Some(EpochStart { epoch: header.epoch, first: header.seq });
        }
        self.crc = header.crc;
        self.hybrid = self.hybrid.max(header.hybrid);
        self.next = header.seq.next();
        Ok(())
    }
}

/// Whole frames of another node that continue this log: every checksum, link, number and epoch
/// has been found right.
#[derive(Debug)]
pub struct CheckedFrames<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) records: Vec<Record<'a>>,
    /// The chain before the first of them.
    pub(super) before: ChainPoint,
    /// The chain after the last of them.
    pub(super) after: ChainPoint,
}

impl<'a> CheckedFrames<'a> {
    /// Checks that `bytes` are whole record frames, at least one, that continue `before`.
    pub(super) fn check(
        sums: Sums,
        before: ChainPoint,
        bytes: &'a [u8],
    ) -> Result<Self, AcceptError> {
        let (mut records, mut after, mut at) = (Vec::new(), before, 0);
        while at < bytes.len() || records.is_empty() {
            let (record, length) = check_frame(sums, &mut after, &bytes[at..]).map_err(
                |Mismatch { expected, found }| AcceptError { offset: at, expected, found },
            )?;
            records.push(record);
            at = at.saturating_add(length);
        }
        Ok(Self { bytes, records, before, after })
    }

    /// The records, in order.
    pub fn records(&self) -> &[Record<'a>] {
        &self.records
    }

    /// The number of the last record.
    pub const fn last(&self) -> SequenceNumber {
        self.after.next.prev().expect("there is a record")
    }
}

/// Checks the frame that `bytes` begin with; answers its record and its length.
fn check_frame<'a>(
    sums: Sums,
    chain: &mut ChainPoint,
    bytes: &'a [u8],
) -> Result<(Record<'a>, usize), Mismatch> {
    let short = || Mismatch::new("a whole frame", format!("{} bytes of one", bytes.len()));
    let length = u32_at(bytes, 0).ok_or_else(short)?;
    if !record_length_fits(length) {
        return Err(Mismatch::new("a frame", format!("length {length}")));
    }
    let frame = bytes.get(..length as usize).ok_or_else(short)?;
    let header = RecordHeader::decode(frame)
        .ok_or_else(|| Mismatch::new("a record", "one with number 0"))?;
    let crc = sums.record(frame);
    if crc != header.crc {
        return Err(Mismatch::crc(crc, header.crc));
    }
    let kind = RecordKind::from_u8(header.kind)
        .ok_or_else(|| Mismatch::new("a known kind of record", format!("kind {}", header.kind)))?;
    if !header.epoch.is_reachable() {
        return Err(Mismatch::new("an epoch that a log reaches", header.epoch.to_string()));
    }
    chain.admit(&header, kind, true)?;
    let RecordHeader { seq, epoch, hybrid, origin, .. } = header;
    let body = &frame[RECORD_HEADER_BYTES..];
    Ok((Record { seq, epoch, hybrid, origin, kind, body, crc }, length as usize))
}
