//! What a data directory holds, without a store at work on it: for those who decide what to open it
//! as.

use std::sync::Arc;

use bytes::Bytes;
use larder_types::{EpochStart, LogId, Position, SequenceNumber};

use crate::{
    Applied, Directory, ReplicasRecord, StoreError,
    fs::RealFs,
    log::{self, LogOptions, Record, RecordKind},
    state::{Database, DatabaseOptions},
};

/// A log and its state at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The log's identity.
    pub log: LogId,
    /// The first record that is kept; the number after the tail where none is.
    pub first: SequenceNumber,
    /// The last record; `None` in an empty log.
    pub last: Option<Position>,
    /// Its checksum; 0 in an empty log.
    pub crc: u32,
    /// Where epochs began, oldest first: the one in effect at `first`, and all after.
    pub epochs: Vec<EpochStart>,
    /// The records of the replica set, oldest first, also where the log has trimmed them.
    pub replicas: Vec<ReplicasRecord>,
    /// The last record that the state holds on disk.
    pub applied: Option<SequenceNumber>,
}

/// Looks at log and state, which nobody has open; `None` where there is no log. A torn tail is
/// cut, as by opening the store.
///
/// # Errors
/// When log or state are damaged.
pub fn peek(directory: &Directory, options: &DatabaseOptions) -> Result<Option<Peek>, StoreError> {
    crate::snapshot::finish_install(directory)?;
    let Some(extent) = log::extent(&RealFs, &directory.log())? else { return Ok(None) };
    // Before the database, which may need what room takes of a full disk.
    log::remove_left(&RealFs, &directory.log())?;
    let (applied, mut replicas) = {
        let database = Database::open(&directory.state(), options)?;
        (database.persisted()?, database.replicas()?)
    };
    let after = |at: Applied| at.position.seq.next();
    let from = applied.map_or(SequenceNumber::FIRST, after);
    let from = from.clamp(extent.head.chain.next, extent.tail);
    // While a rewind is under way the state may hold what the log does not hold any more.
    replicas.retain(|record| record.position.seq < from);
    let opened = log::open(
        Arc::new(RealFs),
        &directory.log(),
        &directory.quarantine(),
        LogOptions::default(),
        from,
        &mut |record: Record<'_>| {
            if record.kind == RecordKind::Replicas {
                let position = Position { epoch: record.epoch, seq: record.seq };
                let body = Bytes::copy_from_slice(record.body);
                replicas.push(ReplicasRecord { position, body });
            }
            Ok::<(), StoreError>(())
        },
    )?;
    let last = opened.recovered.tail.prev();
    let found = last.map(|seq| opened.log.record_at(seq)).transpose();
    let found = found.map_err(|error| match error {
        log::ReadError::Log(error) => error,
        _ => unreachable!("the last record is known from the log or from its first header"),
    })?;
    Ok(Some(Peek {
        log: opened.recovered.id,
        first: opened.recovered.first,
        last: last.zip(found).map(|(seq, (epoch, _))| Position { epoch, seq }),
        crc: found.map_or(0, |(_, crc)| crc),
        epochs: opened.log.epochs(),
        replicas,
        applied: applied.map(|at| at.position.seq),
    }))
}
