//! What is known of one segment file in memory, its sparse index included.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use larder_types::SequenceNumber;
use parking_lot::RwLock;

use super::format::{ChainPoint, HEADER_BYTES, segment_name};

/// Bytes between two entries of the sparse index: what a reader passes over at most before it
/// is at its record.
pub(super) const INDEX_STRIDE_BYTES: u64 = 64 << 10;

/// One segment, as told to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// The number of its first record, written or not.
    pub first: SequenceNumber,
    /// Its last durable record, `None` while it has none.
    pub last: Option<SequenceNumber>,
    /// Bytes written to it.
    pub bytes: u64,
    /// Whether a footer has sealed it.
    pub sealed: bool,
}

/// Where a record begins, and the checksum it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) seq: SequenceNumber,
    pub(super) offset: u64,
    pub(super) prev_crc: u32,
}

/// One segment of an open log; shared by the syncer, the readers and trimming.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The chain before its first record; `chain.next` is its base.
    pub(super) chain: ChainPoint,
    /// Whether this opening of the log has made it, and not one before.
    pub(super) made_here: bool,
    /// Number of its last durable record, 0 while it has none.
    last: AtomicU64,
    /// Bytes written, the footer included.
    bytes: AtomicU64,
    sealed: AtomicBool,
    /// Ascending. Grows as records are written, and as readers pass through a segment that was
    /// not read at the start.
    index: RwLock<Vec<IndexEntry>>,
}

impl Segment {
    /// One that was found.
    pub(super) fn found(dir: &Path, chain: ChainPoint) -> Self {
        Self { made_here: false, ..Self::made(dir, chain) }
    }

    /// One that is made now.
    pub(super) fn made(dir: &Path, chain: ChainPoint) -> Self {
        Self {
            path: dir.join(segment_name(chain.next)),
            chain,
            made_here: true,
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(HEADER_BYTES as u64),
            sealed: AtomicBool::new(false),
            index: RwLock::new(Vec::new()),
        }
    }

    pub(super) const fn base(&self) -> SequenceNumber {
        self.chain.next
    }

    pub(super) fn name(&self) -> String {
        segment_name(self.base())
    }

    pub(super) fn last(&self) -> Option<SequenceNumber> {
        SequenceNumber::new(self.last.load(Ordering::Acquire))
    }

    pub(super) fn set_last(&self, last: SequenceNumber) {
        let before = self.last.swap(last.as_u64(), Ordering::Release);
        assert!(before <= last.as_u64() && self.base() <= last, "a segment's last record grows");
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(super) fn set_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    pub(super) fn info(&self) -> SegmentInfo {
        SegmentInfo {
            path: self.path.clone(),
            first: self.base(),
            last: self.last(),
            bytes: self.bytes(),
            sealed: self.is_sealed(),
        }
    }

    /// The nearest known place at or before `seq`.
    pub(super) fn nearest(&self, seq: SequenceNumber) -> IndexEntry {
        let index = self.index.read();
        let after = index.partition_point(|entry| entry.seq <= seq);
        match after.checked_sub(1) {
            Some(at) => index[at],
            None => IndexEntry {
                seq: self.base(),
                offset: HEADER_BYTES as u64,
                prev_crc: self.chain.crc,
            },
        }
    }

    /// Notes where a record begins, if it lies a stride beyond the last entry.
    pub(super) fn note(&self, entry: IndexEntry) {
        let far_enough = |index: &[IndexEntry]| {
            let last = index.last().map_or(HEADER_BYTES as u64, |last| last.offset);
            entry.offset >= last + INDEX_STRIDE_BYTES
        };
        if far_enough(&self.index.read()) {
            let mut index = self.index.write();
            if far_enough(&index) {
                index.push(entry);
            }
        }
    }
}
