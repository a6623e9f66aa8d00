//! An open store's log, as the core needs to know it.

use larder_storage::Store;
use larder_types::{EpochStart, Position, SequenceNumber};

use super::DriverError;
use crate::core::{LogState, PlacedSet, ReplicaSet, Tail};

/// The log of an open store; `None` where it never held a record and nothing was put under it.
pub(super) fn of(store: &Store) -> Result<Option<LogState>, DriverError> {
    let log = store.log();
    let tail = tail(store)?;
    if tail == Tail::EMPTY && log.first() == SequenceNumber::FIRST && !is_adopted(store) {
        return Ok(None);
    }
    Ok(Some(LogState {
        id: log.id(),
        first: log.first(),
        tail,
        epochs: log.epochs(),
        sets: newest_set(store)?.into_iter().collect(),
        applied: SequenceNumber::new(store.watermarks().applied),
    }))
}

/// A log without records that came with a snapshot is a log; one that was only made is none yet.
fn is_adopted(store: &Store) -> bool {
    store.replicas().is_some()
}

/// The durable end of the log.
pub(super) fn tail(store: &Store) -> Result<Tail, DriverError> {
    let last = store.log().durable().or_else(|| store.log().first().prev());
    last.map_or(Ok(Tail::EMPTY), |seq| joint(store, seq))
}

/// The joint behind the record `seq`.
pub(super) fn joint(store: &Store, seq: SequenceNumber) -> Result<Tail, DriverError> {
    let (epoch, crc) = store.log().record_at(seq)?;
    Ok(Tail { last: Some(Position { epoch, seq }), crc })
}

/// The newest replica set whose record is durable.
pub(super) fn newest_set(store: &Store) -> Result<Option<PlacedSet>, DriverError> {
    let Some(record) = store.replicas() else { return Ok(None) };
    let seq = record.position.seq;
    let set = ReplicaSet::decode(&record.body)
        .map_err(|error| DriverError::ReplicaSet { seq, why: error.to_string() })?;
    Ok(Some(PlacedSet { seq, set }))
}

/// What is left of a log once its records from `parting` on are gone.
pub(super) fn cut(log: LogState, parting: SequenceNumber, tail: Tail) -> LogState {
    let epochs = log.epochs.into_iter().filter(|EpochStart { first, .. }| *first < parting);
    let sets = log.sets.into_iter().filter(|placed| placed.seq < parting);
    let applied = log.applied.min(parting.prev());
    LogState { tail, epochs: epochs.collect(), sets: sets.collect(), applied, ..log }
}
