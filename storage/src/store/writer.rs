//! The writer's part of a store: evaluates transactions and encodes their records.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use larder_types::{HybridClock, HybridTime, Position, SequenceNumber};

use super::Shared;
use crate::{
    Applied,
    inflight::Layer,
    log::{Appender, Batch, ReserveError},
    txn::Txn,
    view::View,
};

/// Bytes of a record's frame beside its body, for counting what a layer stands for in the log.
pub(super) const FRAME_BYTES: u64 = 48;

/// Why writes are not taken now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The disk is nearly full.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The log failed; the process is about to end.
    #[error("the log failed and takes no more writes; the server ends and must be restarted")]
    Poisoned,
    /// The state failed; the shard is being closed.
    #[error("the shard's state failed and is being opened again: {0}; try again")]
    StateFailed(String),
}

/// The writer's part; used by one thread at a time.
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) appender: Appender,
    pub(crate) clock: HybridClock,
    /// The body of the transaction under way; empty between transactions.
    pub(crate) body: Vec<u8>,
    /// The layer that is written to: the top of the stack.
    pub(crate) top: Arc<Layer>,
    last: Applied,
    /// The last record below the top layer, of those written since the store was opened.
    sealed: Option<Position>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, appender: Appender, last: Applied) -> Self {
        let clock = HybridClock::starting_above(last.hybrid);
        let top = shared.inflight.top();
        Self { shared, appender, clock, body: Vec::new(), top, last, sealed: None }
    }

    /// Whether writes are taken; asked before a transaction is evaluated.
    ///
    /// # Errors
    /// What the client is told instead.
    pub fn admit(&self) -> Result<(), Refusal> {
        if let Some(why) = self.shared.failure.get() {
            return Err(Refusal::StateFailed(why.clone()));
        }
        if self.shared.log.poisoned() {
            return Err(Refusal::Poisoned);
        }
        // What is not folded yet will be written once more, into RocksDB's files.
        Ok(self.shared.log.writable(self.shared.inflight.log_bytes())?)
    }

    /// Whether the state has failed: the store must be closed and opened again.
    pub fn state_failed(&self) -> bool {
        self.shared.failure.get().is_some()
    }

    /// Waits until there is room for more unfolded records, or the state failed. What is unfolded
    /// must be replayed after a crash, and is held in memory.
    pub fn wait_for_room(&self) {
        const LAYERS_MAX: usize = 16;
        let options = &self.shared.options;
        let full = || {
            let inflight = &self.shared.inflight;
            inflight.log_bytes() > options.unapplied_bytes_max
                || inflight.records() > options.unapplied_records_max
                || inflight.stack().len() > LAYERS_MAX
        };
        if !full() {
            return;
        }
        // Looked at again under the lock, without which the fold tells nobody.
        let mut turn = self.shared.turn.lock();
        while full() && !self.state_failed() && !self.shared.log.poisoned() {
            self.shared.turned.wait_for(&mut turn, Duration::from_millis(100));
        }
    }

    /// Begins a transaction at this wall clock, in milliseconds since the Unix epoch.
    pub fn transaction(&mut self, now_ms: u64) -> Txn<'_> {
        Txn::begin(self, now_ms)
    }

    /// A view of the newest, writes in flight included.
    pub fn view(&self, now_ms: u64) -> View<'_> {
        View::newest(&self.shared, now_ms)
    }

    /// The records appended since the last call, for [`super::Syncer::commit`].
    pub fn take_batch(&mut self) -> Option<Batch> {
        self.appender.take_batch()
    }

    /// Bytes of records not yet taken by [`Writer::take_batch`].
    pub fn pending_bytes(&self) -> usize {
        self.appender.pending_bytes()
    }

    /// The last record that was appended.
    pub const fn last(&self) -> Position {
        self.last.position
    }

    /// Seals the top layer, so that everything up to now gets folded. Returns the last record that
    /// the fold then takes; `None` if there was none since the store was opened.
    pub fn seal(&mut self) -> Option<Position> {
        if self.top.records() > 0 {
            self.begin_layer(None);
        }
        self.sealed
    }

    pub(crate) fn append(&mut self, seq: SequenceNumber, stamp: HybridTime) -> SequenceNumber {
        let body = &self.body;
        let appended = self
            .appender
            .append(stamp, |buffer| buffer.extend_from_slice(body))
            .expect("a transaction's effects are bounded by the size of a record");
        assert_eq!(appended, seq, "records are numbered without a gap");
        self.top.count_record(FRAME_BYTES + self.body.len() as u64);
        self.body.clear();
        self.last =
            Applied { position: Position { epoch: self.appender.epoch(), seq }, hybrid: stamp };
        self.shared.watermarks.appended.store(seq.as_u64(), Ordering::Release);
        let options = &self.shared.options;
        if self.top.log_bytes() >= options.layer_bytes
            || self.top.records() >= options.layer_records
        {
            self.begin_layer(None);
        }
        seq
    }

    /// Seals the top layer and begins another; `cleared` names the record that deletes all below.
    pub(crate) fn begin_layer(&mut self, cleared: Option<SequenceNumber>) {
        let top = Arc::new(Layer::new(cleared.map(SequenceNumber::as_u64)));
        let below = std::mem::replace(&mut self.top, top.clone());
        // In this order: once sealed, the layer below may be folded and taken off at any moment,
        // and the stack must not be empty then.
        self.shared.inflight.push(top);
        below.seal(self.last);
        self.sealed = Some(self.last.position);
        self.shared.notify();
    }
}
