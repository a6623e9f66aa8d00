//! The writer's part of a store: evaluates transactions and encodes their records.

use std::{
    cmp::Ordering,
    sync::{Arc, atomic},
    time::Duration,
};

use bytes::Bytes;
use larder_types::{Epoch, HybridClock, HybridTime, Position, SequenceNumber};

use super::{
    Shared,
    apply::{self, RecordError},
    digests,
};
use crate::{
    Applied,
    effect::effects,
    inflight::Layer,
    log::{self, AppendError, Appender, Batch, Record, RecordKind, ReserveError},
    state::ReplicasRecord,
    txn::Txn,
    view::View,
};

/// Bytes of a record's frame beside its body, for counting what a layer stands for in the log.
pub(super) const FRAME_BYTES: u64 = 48;
/// Layers that are not folded, after which writes wait, and those folded, after which a flush comes:
/// every deletion of all keys may begin one.
pub(super) const LAYERS_MAX: usize = 16;

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
    /// The fold failed; the shard is being closed.
    #[error(
        "the shard's fold failed: {0}; its state is opened again, or the server ends; try again"
    )]
    FoldFailed(String),
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
    /// `None` only in an empty log.
    last: Option<Applied>,
    /// The last record below the top layer, of those written since the store was opened.
    sealed: Option<Position>,
}

/// Why another node's records were not accepted. Nothing of them was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The frames are damaged or do not continue this log.
    #[error(transparent)]
    Frames(#[from] log::AcceptError),
    /// A record cannot be applied.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// An epoch that does not come after the one in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {asked} does not come after {current}, which is in effect")]
pub struct EpochError {
    /// The epoch in effect.
    pub current: Epoch,
    /// The epoch that was to begin.
    pub asked: Epoch,
}

impl Writer {
    /// `clock` stands at the greatest stamp of the log, or above.
    pub(super) fn new(
        shared: Arc<Shared>,
        appender: Appender,
        last: Option<Applied>,
        clock: HybridClock,
    ) -> Self {
        let top = shared.inflight.top();
        Self { shared, appender, clock, body: Vec::new(), top, last, sealed: None }
    }

    /// Whether writes are taken; asked before a transaction is evaluated.
    ///
    /// # Errors
    /// What the client is told instead.
    pub fn admit(&self) -> Result<(), Refusal> {
        if let Some(why) = self.shared.failure.get() {
            return Err(Refusal::FoldFailed(why.clone()));
        }
        if self.shared.log.poisoned() {
            return Err(Refusal::Poisoned);
        }
        Ok(self.shared.log.writable(|| self.shared.owed_bytes())?)
    }

    /// Whether the fold has failed: the store must be closed, and opened again or the process ended.
    pub fn fold_failed(&self) -> bool {
        self.shared.failure.get().is_some()
    }

    /// Whether there is room for more unfolded records. What is unfolded must be replayed after a
    /// crash, and is held in memory.
    pub fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    /// Whether there is room for another node's records. They wait for the fold and never for a commit,
    /// which may be waiting for them: what is not committed is bounded by its master, which has room for
    /// no more, and tells what has been.
    pub fn has_room_to_accept(&self) -> bool {
        self.has_room() || self.shared.bottom_waits_for_commit()
    }

    /// Whether an epoch begins in frames that this log can take next. Like that of this node's own, it
    /// has its place within the reserve of the disk: before it is held nothing is committed, and nothing
    /// folded or trimmed that would make room.
    pub fn begins_epoch(&self, frames: &[u8]) -> bool {
        let begins = |record: &Record<'_>| record.kind == RecordKind::Epoch;
        self.appender.check(frames).is_ok_and(|checked| checked.records().iter().any(begins))
    }

    /// Waits until there is room for more unfolded records, or the state failed. Where visibility
    /// waits for commits, not to be called by whom these come from: the fold waits for them.
    pub fn wait_for_room(&self) {
        if self.has_room() {
            return;
        }
        // Looked at again under the lock, without which the fold tells nobody.
        let mut turn = self.shared.turn.lock();
        while !self.has_room() && !self.fold_failed() && !self.shared.log.poisoned() {
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
    ///
    /// # Panics
    /// In an empty log, which is no master's: an epoch was begun there.
    pub const fn last(&self) -> Position {
        self.tail().expect("an epoch was begun")
    }

    /// The last record that was appended or accepted; `None` in an empty log.
    pub const fn tail(&self) -> Option<Position> {
        match self.last {
            Some(last) => Some(last.position),
            None => None,
        }
    }

    /// Begins an epoch with a record of its own: this node writes the log from there on. Its clock
    /// stands above the log's greatest stamp.
    ///
    /// # Errors
    /// When the epoch does not come after the one in effect.
    pub fn begin_epoch(&mut self, epoch: Epoch, wall_ms: u64) -> Result<Position, EpochError> {
        let current = self.appender.epoch();
        if current.order(epoch) != Some(Ordering::Less) {
            return Err(EpochError { current, asked: epoch });
        }
        let stamp = self.clock.tick(wall_ms);
        let seq = self.appender.begin_epoch(epoch, stamp);
        let position = Position { epoch, seq };
        self.appended(Applied { position, hybrid: stamp }, Epoch::ENCODED_BYTES, 0);
        Ok(position)
    }

    /// Appends a record of the replica set, as replication encodes it.
    ///
    /// # Errors
    /// When it is too large, or this node has begun no epoch.
    pub fn append_replicas(&mut self, body: &[u8], wall_ms: u64) -> Result<Position, AppendError> {
        let stamp = self.clock.tick(wall_ms);
        let seq = self.appender.append_replicas(stamp, |out| out.extend_from_slice(body))?;
        let position = Position { epoch: self.appender.epoch(), seq };
        self.keep_replicas(position, body);
        self.appended(Applied { position, hybrid: stamp }, body.len(), 0);
        Ok(position)
    }

    /// Appends whole records that another node's log holds next, byte by byte; answers the last.
    /// This node writes nothing of its own until it begins an epoch.
    ///
    /// # Errors
    /// When a frame is damaged or does not continue this log, or a record cannot be applied. All
    /// of the frames are taken, or none.
    pub fn accept(&mut self, frames: &[u8]) -> Result<Position, AcceptError> {
        let checked = self.appender.check(frames)?;
        checked.records().iter().try_for_each(apply::check)?;
        self.appender.accept(&checked);
        for record in checked.records() {
            self.apply(record);
        }
        Ok(self.last())
    }

    /// Puts a record that was checked and appended into the layers.
    fn apply(&mut self, record: &Record<'_>) {
        let position = Position { epoch: record.epoch, seq: record.seq };
        let mut changes = 0;
        match record.kind {
            RecordKind::Data => {
                let floor = self.shared.floor();
                for effect in effects(record.body) {
                    changes += 1;
                    let effect = effect.expect("it was checked");
                    if !apply::put(&self.top, record.seq.as_u64(), floor, effect) {
                        self.begin_layer(Some(record.seq));
                    }
                }
            }
            RecordKind::Replicas => self.keep_replicas(position, record.body),
            RecordKind::Epoch => {}
        }
        self.clock = HybridClock::starting_above(self.clock.last().max(record.hybrid));
        self.appended(Applied { position, hybrid: record.hybrid }, record.body.len(), changes);
    }

    fn keep_replicas(&self, position: Position, body: &[u8]) {
        let record = ReplicasRecord { position, body: Bytes::copy_from_slice(body) };
        self.shared.replicas.lock().push(record.clone());
        self.top.add_replicas(record);
    }

    /// Seals the top layer, so that everything up to now gets folded. Returns the last record that
    /// the fold then takes; `None` if there was none since the store was opened.
    pub fn seal(&mut self) -> Option<Position> {
        if self.top.records() > 0 {
            self.begin_layer(None);
        }
        self.sealed
    }

    /// Appends the record of a transaction that put or deleted so many rows and fields.
    pub(crate) fn append(
        &mut self,
        seq: SequenceNumber,
        stamp: HybridTime,
        changes: u64,
    ) -> SequenceNumber {
        let body = &self.body;
        let appended = self
            .appender
            .append(stamp, |buffer| buffer.extend_from_slice(body))
            .expect("a transaction's effects are bounded by the size of a record");
        assert_eq!(appended, seq, "records are numbered without a gap");
        let position = Position { epoch: self.appender.epoch(), seq };
        self.appended(Applied { position, hybrid: stamp }, self.body.len(), changes);
        self.body.clear();
        seq
    }

    /// Counts a record that was put into the top layer, and seals that when it has grown enough.
    fn appended(&mut self, last: Applied, body_bytes: usize, changes: u64) {
        self.top.count_record(FRAME_BYTES + body_bytes as u64, changes);
        self.last = Some(last);
        let seq = last.position.seq.as_u64();
        // Before readers can see the record.
        self.shared.stamped(last.hybrid);
        self.shared.watermarks.appended.store(seq, atomic::Ordering::Release);
        let options = &self.shared.options;
        if self.top.log_bytes() >= options.layer_bytes
            || self.top.changes() >= options.layer_changes
            || digests::is_wanted(options.digest_every, seq)
        {
            self.begin_layer(None);
        }
    }

    /// Seals the top layer and begins another; `cleared` names the record that deletes all below.
    pub(crate) fn begin_layer(&mut self, cleared: Option<SequenceNumber>) {
        let top = Arc::new(Layer::new(cleared.map(SequenceNumber::as_u64)));
        let below = std::mem::replace(&mut self.top, top.clone());
        // In this order: once sealed, the layer below may be folded and taken off at any moment,
        // and the stack must not be empty then.
        self.shared.inflight.push(top);
        let last = self.last.expect("a log begins with the record of an epoch");
        below.seal(last);
        self.sealed = Some(last.position);
        self.shared.notify();
    }
}
