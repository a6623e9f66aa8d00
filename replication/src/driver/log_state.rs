//! An open store's log, as the core needs to know it.

use larder_storage::{Directory, ReplicasRecord, Store, peek, state::DatabaseOptions};
use larder_types::{LogId, Position, SequenceNumber};

use super::DriverError;
use crate::{
    core::{LogState, PlacedSet, Tail},
    message::decode_set,
};

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
        sets: sets(&store.replicas())?,
        applied: SequenceNumber::new(store.watermarks().applied),
    }))
}

/// An empty log of this identity, which goes on with the first record.
pub(super) const fn empty(id: LogId) -> LogState {
    LogState {
        id,
        first: SequenceNumber::FIRST,
        tail: Tail::EMPTY,
        epochs: Vec::new(),
        sets: Vec::new(),
        applied: None,
    }
}

/// A log without records that came with a snapshot is a log; one that was only made is none yet.
fn is_adopted(store: &Store) -> bool {
    !store.replicas().is_empty()
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

/// The replica sets that a store knows of, those included whose records are not durable yet.
pub(super) fn sets(records: &[ReplicasRecord]) -> Result<Vec<PlacedSet>, DriverError> {
    records
        .iter()
        .map(|record| {
            let seq = record.position.seq;
            let set = decode_set(record.body.clone())
                .map_err(|error| DriverError::ReplicaSet { seq, why: error.to_string() })?;
            Ok(PlacedSet { seq, set })
        })
        .collect()
}

/// The log of a directory that nobody has open.
pub(super) fn at_rest(
    directory: &Directory,
    options: &DatabaseOptions,
) -> Result<Option<LogState>, DriverError> {
    let Some(found) = peek(directory, options)? else { return Ok(None) };
    let tail = Tail { last: found.last, crc: found.crc };
    if tail == Tail::EMPTY && found.first == SequenceNumber::FIRST && found.replicas.is_empty() {
        return Ok(None);
    }
    Ok(Some(LogState {
        id: found.log,
        first: found.first,
        tail,
        epochs: found.epochs,
        sets: sets(&found.replicas)?,
        applied: found.applied,
    }))
}
