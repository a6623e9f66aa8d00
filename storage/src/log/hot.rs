//! The hot tail: the last batches of a log in memory, bounded in bytes, so that a reader near
//! the tail costs no disk read.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use larder_types::SequenceNumber;
use parking_lot::RwLock;

use super::format::ChainPoint;

/// The records of one batch, framed as they are in the file.
#[derive(Debug)]
pub(super) struct HotBatch {
    pub(super) first: SequenceNumber,
    pub(super) last: SequenceNumber,
    /// The chain after the last record.
    pub(super) chain: ChainPoint,
    pub(super) frames: Bytes,
}

/// The last batches, oldest first, without a gap between them.
#[derive(Debug)]
pub(super) struct HotTail {
    bytes_max: usize,
    /// Number of the oldest record held; `u64::MAX` while there is none. A hint that saves
    /// readers the lock.
    first: AtomicU64,
    batches: RwLock<Batches>,
}

#[derive(Debug, Default)]
struct Batches {
    queue: VecDeque<Arc<HotBatch>>,
    bytes: usize,
}

impl HotTail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, first: AtomicU64::new(u64::MAX), batches: RwLock::default() }
    }

    /// Keeps a copy of a batch that was written, after which the chain stands so, and lets the
    /// oldest go until the bound is kept.
    pub(super) fn push(&self, first: SequenceNumber, chain: ChainPoint, frames: &[u8]) {
        let last = chain.next.prev().expect("a batch has a record");
        let mut batches = self.batches.write();
        if frames.len() > self.bytes_max {
            *batches = Batches::default();
        } else {
            while batches.bytes + frames.len() > self.bytes_max {
                let oldest = batches.queue.pop_front().expect("bytes are held by batches");
                batches.bytes -= oldest.frames.len();
            }
            if let Some(newest) = batches.queue.back() {
                assert_eq!(newest.last.next(), first, "the hot tail has no gaps");
            }
            batches.bytes += frames.len();
            let frames = Bytes::copy_from_slice(frames);
            batches.queue.push_back(Arc::new(HotBatch { first, last, chain, frames }));
        }
        let oldest = batches.queue.front().map_or(u64::MAX, |batch| batch.first.as_u64());
        self.first.store(oldest, Ordering::Release);
    }

    /// Whether `seq` is, or is newer than, the oldest record held.
    pub(super) fn reaches(&self, seq: SequenceNumber) -> bool {
        seq.as_u64() >= self.first.load(Ordering::Acquire)
    }

    /// The batch that holds `seq`, if it is still held.
    pub(super) fn batch_with(&self, seq: SequenceNumber) -> Option<Arc<HotBatch>> {
        if !self.reaches(seq) {
            return None;
        }
        let batches = self.batches.read();
        // Followers ask for the newest as a rule: the search would touch a dozen others.
        let newest = batches.queue.back().filter(|batch| batch.first <= seq);
        let batch = newest.or_else(|| {
            let at = batches.queue.partition_point(|batch| batch.last < seq);
            batches.queue.get(at)
        });
        batch.filter(|batch| batch.first <= seq && seq <= batch.last).cloned()
    }
}
