//! The appender: turns writes into frames in a buffer. No I/O; the syncer writes what it made.

use std::{mem, sync::Arc};

use larder_types::{Epoch, EpochStart, HybridTime, RegionId, SequenceNumber, limits};
use parking_lot::Mutex;

use super::{
    chain::CheckedFrames,
    error::{AcceptError, AppendError},
    format::{ChainPoint, MARK_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, Sums},
    handle::Shared,
    segment::{INDEX_STRIDE_BYTES, IndexEntry},
};

/// Buffers kept for the next batches: one being filled, one being written, one between.
const POOL_BUFFERS_MAX: usize = 3;
/// A buffer that has grown beyond this is given back to the allocator.
const POOL_BUFFER_BYTES_MAX: usize = 8 << 20;

/// Records that are written and synced together.
#[derive(Debug)]
pub struct Batch {
    /// Room for a mark, then the frames: both go out in one write call.
    pub(super) bytes: Vec<u8>,
    first: SequenceNumber,
    /// The chain after the last record.
    pub(super) chain: ChainPoint,
    pub(super) epochs: Vec<EpochStart>,
    /// Places in `bytes`, at least a stride apart.
    pub(super) places: Vec<IndexEntry>,
}

impl Batch {
    /// The number of the first record.
    pub const fn first(&self) -> SequenceNumber {
        self.first
    }

    /// The number of the last record.
    pub const fn last(&self) -> SequenceNumber {
        self.chain.next.prev().expect("a batch has a record")
    }

    /// The greatest stamp in the log up to the last record.
    pub const fn hybrid(&self) -> HybridTime {
        self.chain.hybrid
    }

    /// Adds the batch that comes next, so that both are written in one call.
    ///
    /// # Panics
    /// If `next` does not continue this batch.
    pub fn extend(&mut self, mut next: Self) {
        assert_eq!(next.first, self.chain.next, "batches are joined in order");
        let shift = (self.bytes.len() - MARK_BYTES) as u64;
        self.bytes.extend_from_slice(&next.bytes[MARK_BYTES..]);
        self.chain = next.chain;
        self.epochs.append(&mut next.epochs);
        self.places.extend(
            next.places.iter().map(|place| IndexEntry { offset: place.offset + shift, ..*place }),
        );
    }

    /// Bytes of the records.
    pub fn record_bytes(&self) -> usize {
        self.bytes.len() - MARK_BYTES
    }
}

/// Buffers on their way back from the syncer to the appender.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        let mut buffer = self.0.lock().pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(MARK_BYTES, 0);
        buffer
    }

    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut buffers = self.0.lock();
        if buffers.len() < POOL_BUFFERS_MAX && buffer.capacity() <= POOL_BUFFER_BYTES_MAX {
            buffers.push(buffer);
        }
    }
}

/// Encodes records into the batch that is written next. One owner: the shard's writer.
#[derive(Debug)]
pub struct Appender {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    sums: Sums,
    origin: RegionId,
    chain: ChainPoint,
    /// Whether an epoch was begun since the log was opened.
    begun: bool,
    buffer: Vec<u8>,
    /// The number of the first record in `buffer`.
    first: SequenceNumber,
    epochs: Vec<EpochStart>,
    places: Vec<IndexEntry>,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, pool: Arc<Pool>, chain: ChainPoint) -> Self {
        Self {
            sums: shared.sums,
            origin: shared.origin,
            buffer: pool.take(),
            shared,
            pool,
            chain,
            begun: false,
            first: chain.next,
            epochs: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Opens an epoch with a record of its own, stamped `hybrid`; returns that record's number.
    ///
    /// # Panics
    /// If `epoch` does not come after the one in effect: `(epoch, seq)` is never used twice.
    pub fn begin_epoch(&mut self, epoch: Epoch, hybrid: HybridTime) -> SequenceNumber {
        let current = self.chain.epoch.map(|start| start.epoch);
        assert!(
            current.is_none_or(|current| current.order(epoch) == Some(std::cmp::Ordering::Less)),
            "epoch {epoch} does not come after {current:?}"
        );
        let start = EpochStart { epoch, first: self.chain.next };
        self.chain.epoch = Some(start);
        self.epochs.push(start);
        self.begun = true;
        let before = current.map(Epoch::encode);
        self.encode(RecordKind::Epoch, epoch, hybrid, |body| {
            body.extend_from_slice(before.as_ref().map_or(&[], |epoch| &epoch[..]));
        })
        .expect("an epoch fits into a record")
    }

    /// The number that the next record gets.
    pub const fn next_seq(&self) -> SequenceNumber {
        self.chain.next
    }

    /// The epoch in effect; all zeros before the log's first.
    pub const fn epoch(&self) -> Epoch {
        match self.chain.epoch {
            Some(start) => start.epoch,
            None => Epoch { term: 0, run: 0, id: 0 },
        }
    }

    /// Appends a data record whose body `body` writes to the end of the buffer it is given.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`] if the record exceeds `limits::RECORD_BYTES_MAX`,
    /// [`AppendError::NoEpoch`] if none was begun. Nothing is left behind.
    pub fn append(
        &mut self,
        hybrid: HybridTime,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<SequenceNumber, AppendError> {
        self.append_kind(RecordKind::Data, hybrid, body)
    }

    /// Appends a record of the replica set, as [`Appender::append`] does one of data.
    ///
    /// # Errors
    /// As [`Appender::append`].
    pub fn append_replicas(
        &mut self,
        hybrid: HybridTime,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<SequenceNumber, AppendError> {
        self.append_kind(RecordKind::Replicas, hybrid, body)
    }

    fn append_kind(
        &mut self,
        kind: RecordKind,
        hybrid: HybridTime,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<SequenceNumber, AppendError> {
        match self.chain.epoch {
            Some(start) if self.begun => self.encode(kind, start.epoch, hybrid, body),
            _ => Err(AppendError::NoEpoch),
        }
    }

    /// Checks whole frames that another node's log of the same identity holds next. Nothing is
    /// taken yet.
    ///
    /// # Errors
    /// [`AcceptError`] for the first frame that is damaged or does not continue this log.
    pub fn check<'a>(&self, frames: &'a [u8]) -> Result<CheckedFrames<'a>, AcceptError> {
        CheckedFrames::check(self.sums, self.chain, frames)
    }

    /// Appends frames of another node byte by byte; returns the number of the last. This node
    /// follows from now on: it appends nothing of its own until it begins an epoch.
    ///
    /// # Panics
    /// If something was appended since they were checked.
    pub fn accept(&mut self, frames: &CheckedFrames<'_>) -> SequenceNumber {
        assert_eq!(frames.before, self.chain, "frames are accepted where they were checked");
        let mut offset = self.buffer.len();
        let mut prev_crc = self.chain.crc;
        self.buffer.extend_from_slice(frames.bytes);
        for record in &frames.records {
            self.note(record.seq, offset, prev_crc);
            if record.kind == RecordKind::Epoch {
                self.epochs.push(EpochStart { epoch: record.epoch, first: record.seq });
            }
            (prev_crc, offset) = (record.crc, offset + RECORD_HEADER_BYTES + record.body.len());
        }
        self.chain = frames.after;
        self.begun = false;
        frames.last()
    }

    /// Notes that a record begins at `offset` of the buffer, if it lies a stride beyond the last
    /// place noted.
    fn note(&mut self, seq: SequenceNumber, offset: usize, prev_crc: u32) {
        let offset = offset as u64;
        if self.places.last().is_none_or(|place| offset >= place.offset + INDEX_STRIDE_BYTES) {
            self.places.push(IndexEntry { seq, offset, prev_crc });
        }
    }

    fn encode(
        &mut self,
        kind: RecordKind,
        epoch: Epoch,
        hybrid: HybridTime,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<SequenceNumber, AppendError> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        body(&mut self.buffer);
        let length = self.buffer.len().saturating_sub(start);
        assert!(length >= RECORD_HEADER_BYTES, "a body is written behind what is there");
        if length > limits::RECORD_BYTES_MAX {
            self.buffer.truncate(start);
            return Err(AppendError::TooLarge { bytes: length, limit: limits::RECORD_BYTES_MAX });
        }
        let seq = self.chain.next;
        self.note(seq, start, self.chain.crc);
        let header = RecordHeader {
            length: length as u32,
            crc: 0,
            prev_crc: self.chain.crc,
            kind: kind.as_u8(),
            origin: self.origin,
            seq,
            epoch,
            hybrid,
        };
        self.chain.crc = header.seal(self.sums, &mut self.buffer[start..]);
        self.chain.hybrid = self.chain.hybrid.max(hybrid);
        self.chain.next = seq.next();
        Ok(seq)
    }

    /// Bytes of the records that wait to be taken.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() - MARK_BYTES
    }

    /// The records appended since the last call, or `None` if there are none.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if self.pending_bytes() == 0 {
            return None;
        }
        let first = mem::replace(&mut self.first, self.chain.next);
        let batch = Batch {
            bytes: mem::replace(&mut self.buffer, self.pool.take()),
            first,
            chain: self.chain,
            epochs: mem::take(&mut self.epochs),
            places: mem::take(&mut self.places),
        };
        self.shared.advance_appended(batch.last());
        Some(batch)
    }
}
