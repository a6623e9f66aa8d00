//! What the core knows of its own log: its ends, its table of epochs, its replica sets.

use larder_types::{Epoch, EpochStart, LogId, Position, SequenceNumber};

use super::{Durable, LogState, PlacedSet, Tail};

/// A log, seen from the core. Everything in it is durable.
#[derive(Clone, Debug)]
pub(super) struct LogView {
    pub(super) id: LogId,
    pub(super) first: SequenceNumber,
    pub(super) tail: Tail,
    pub(super) epochs: Vec<EpochStart>,
    sets: Vec<PlacedSet>,
    pub(super) applied: Option<SequenceNumber>,
    pub(super) visible: Option<SequenceNumber>,
}

impl LogView {
    pub(super) fn new(state: LogState) -> Self {
        let LogState { id, first, tail, epochs, sets, applied } = state;
        let mut log = Self { id, first, tail, epochs, sets, applied: None, visible: None };
        log.show(applied, applied);
        log
    }

    /// An empty log of this identity.
    pub(super) const fn empty(id: LogId) -> Self {
        Self {
            id,
            first: SequenceNumber::FIRST,
            tail: Tail::EMPTY,
            epochs: Vec::new(),
            sets: Vec::new(),
            applied: None,
            visible: None,
        }
    }

    /// Takes in that the durable tail moved.
    pub(super) fn grow(&mut self, durable: &Durable) {
        assert!(durable.tail.number() >= self.tail.number(), "a durable tail never moves back");
        self.tail = durable.tail;
        self.epochs.extend_from_slice(&durable.epochs);
        self.sets.extend_from_slice(&durable.sets);
    }

    /// Takes in what readers see and what is folded: less than before after a rewind, and never
    /// more than the log has, although a state may hold what was cut until it is put back.
    pub(super) fn show(
        &mut self,
        visible: Option<SequenceNumber>,
        applied: Option<SequenceNumber>,
    ) {
        let last = self.tail.last.map(|last| last.seq);
        self.visible = visible.min(last);
        self.applied = applied.min(last);
    }

    /// The epoch of the last record.
    pub(super) fn last_epoch(&self) -> Option<Epoch> {
        self.tail.last.map(|last| last.epoch)
    }

    /// The term of the last record; 0 in an empty log.
    pub(super) fn last_term(&self) -> u32 {
        self.last_epoch().map_or(0, |epoch| epoch.term)
    }

    /// The epoch of a record at or before the tail; `None` for others, and where the table does
    /// not reach back so far.
    pub(super) fn epoch_at(&self, seq: SequenceNumber) -> Option<Epoch> {
        if seq.as_u64() > self.tail.number() {
            return None;
        }
        let behind = self.epochs.partition_point(|start| start.first <= seq);
        behind.checked_sub(1).map(|at| self.epochs[at].epoch)
    }

    /// The place of a record at or before the tail.
    pub(super) fn position_at(&self, seq: SequenceNumber) -> Option<Position> {
        self.epoch_at(seq).map(|epoch| Position { epoch, seq })
    }

    /// The same for a number, of which 0 is none.
    pub(super) fn position_at_number(&self, number: u64) -> Option<Position> {
        SequenceNumber::new(number).and_then(|seq| self.position_at(seq))
    }

    /// Whether this very record is in the log.
    pub(super) fn holds(&self, position: Position) -> bool {
        self.epoch_at(position.seq) == Some(position.epoch)
    }

    /// The replica set before the newest, which was settled before that was begun; `None` where
    /// nothing is known of it.
    pub(super) fn set_before(&self) -> Option<&PlacedSet> {
        self.sets.len().checked_sub(2).map(|at| &self.sets[at])
    }

    /// The newest replica set.
    pub(super) fn set(&self) -> Option<&PlacedSet> {
        self.sets.last()
    }
}
