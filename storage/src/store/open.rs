//! Opening a store: the state, then the log, then what the log holds beyond the state.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use arc_swap::ArcSwapOption;
use larder_types::{
    Epoch, HybridClock, Position, RegionId, SequenceNumber, limits::SEGMENT_BYTES_DEFAULT,
};
use parking_lot::{Condvar, Mutex};

use super::{
    Directory, DirectoryError, Durability, FoldOrders, Folder, Fsyncs, Marks, Shared, Store,
    Syncer, Writer,
};
use crate::{
    Applied,
    cache::HotCache,
    effect::{Effect, EffectError, effects},
    fs::RealFs,
    inflight::{FieldChange, InFlight, KeyRef, Layer},
    log::{self, LogError, LogOptions, Record, RecordKind, Recovered},
    row::{FieldRef, RowError, RowRef},
    state::{Database, DatabaseOptions, StateError},
};

/// How a store is kept. The defaults suit a node with 2 cores and 4 GiB.
#[derive(Clone)]
pub struct StoreOptions {
    /// When a write counts as done.
    pub durability: Durability,
    /// A log segment is sealed at this size.
    pub segment_bytes: u64,
    /// Writes are refused while the disk has less than this free.
    pub reserve_bytes: u64,
    /// The newest records kept in memory for followers, in bytes.
    pub hot_tail_bytes: usize,
    /// The cache of hot rows, in bytes.
    pub hot_cache_bytes: u64,
    /// A layer is sealed, and folded, once its records take this much of the log.
    pub layer_bytes: u64,
    /// The same in records, so that small records do not make a layer slow to replay.
    pub layer_records: u64,
    /// Writes wait while the records not yet folded take more of the log than this. With
    /// `layer_bytes`, for what is folded and not yet flushed, it bounds what a start must replay.
    pub unapplied_bytes_max: u64,
    /// The same in records.
    pub unapplied_records_max: u64,
    /// RocksDB.
    pub database: DatabaseOptions,
}

impl StoreOptions {
    /// The defaults, over this database configuration.
    pub fn new(database: DatabaseOptions) -> Self {
        Self {
            durability: Durability::Fsync,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            reserve_bytes: 256 << 20,
            hot_tail_bytes: 8 << 20,
            hot_cache_bytes: 256 << 20,
            layer_bytes: 64 << 20,
            layer_records: 500_000,
            unapplied_bytes_max: 192 << 20,
            unapplied_records_max: 1_500_000,
            database,
        }
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The state says it has applied a record which the log has with another epoch.
    #[error(
        "{log}: record {seq} was written in epoch {found}, but the state applied it as of epoch {expected}: log and state are not of one history; restore both from a replica or a backup"
    )]
    Parted {
        /// The log's directory.
        log: PathBuf,
        /// The record.
        seq: SequenceNumber,
        /// Its epoch in the log.
        found: Epoch,
        /// Its epoch in the state.
        expected: Epoch,
    },
    /// The state is ahead of the log.
    #[error(
        "{log}: ends before record {applied}, which the state has applied: the log lost its end; restore it from a replica or a backup"
    )]
    StateAhead {
        /// The log's directory.
        log: PathBuf,
        /// The state's position.
        applied: Position,
    },
    /// A record's body does not decode.
    #[error("record {seq}: {source}; it was written by a newer version, or there is a defect")]
    Effect {
        /// The record.
        seq: SequenceNumber,
        /// What does not decode.
        source: EffectError,
    },
    /// A record puts a row that does not parse.
    #[error("record {seq}: {source}; it was written by a newer version, or there is a defect")]
    Row {
        /// The record.
        seq: SequenceNumber,
        /// What is wrong with the row.
        source: RowError,
    },
    /// A record changes a field without putting its hash's row.
    #[error(
        "record {seq}: changes a field of a key whose row it does not put; it was written by a newer version, or there is a defect"
    )]
    FieldWithoutRow {
        /// The record.
        seq: SequenceNumber,
    },
    /// The directory was refused.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log was refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// RocksDB was refused.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A store's parts, each for a thread of its own.
pub struct Opened {
    /// For whoever evaluates the shard's writes: one at a time.
    pub writer: Writer,
    /// For the sync thread.
    pub syncer: Syncer,
    /// For the fold thread.
    pub folder: Folder,
    /// For everyone else.
    pub store: Store,
    /// What recovery found.
    pub recovered: Recovered,
    /// Records that were replayed.
    pub replayed: u64,
}

/// Opens the store in `directory`, replays what the state lacks, and begins a new epoch, whose
/// first record is durable before this returns.
///
/// # Errors
/// When log or state are damaged, or not of one history: nothing is repaired by deleting.
pub fn open(
    directory: &Directory,
    options: StoreOptions,
    wall_ms: u64,
    epoch_id: u64,
) -> Result<Opened, StoreError> {
    let database = Database::open(&directory.state(), &options.database)?;
    let persisted = database.persisted()?;
    let replay_from = persisted.map_or(SequenceNumber::FIRST, |at| at.position.seq.next());
    let log_options = LogOptions {
        segment_bytes: options.segment_bytes,
        reserve_bytes: options.reserve_bytes,
        hot_tail_bytes: options.hot_tail_bytes,
        origin: RegionId::default(),
    };
    let mut replay = Replay::new(&options);
    let opened = log::open(
        Arc::new(RealFs),
        &directory.log(),
        &directory.quarantine(),
        log_options,
        replay_from,
        &mut |record| replay.record(record),
    );
    let mut opened = opened.map_err(|error| match (error, persisted) {
        (LogError::Gap { tail, .. }, Some(Applied { position, .. })) if tail <= position.seq => {
            StoreError::StateAhead { log: directory.log(), applied: position }
        }
        (error, _) => error.into(),
    })?;
    check_lineage(directory, persisted, &opened.recovered)?;

    let mut clock = HybridClock::starting_above(opened.recovered.last_hybrid);
    let stamp = clock.tick(wall_ms);
    let epoch = match opened.recovered.last_epoch {
        Some(last) => Epoch { term: last.term, run: last.run + 1, id: epoch_id },
        None => Epoch { term: 1, run: 1, id: epoch_id },
    };
    let seq = opened.appender.begin_epoch(epoch, stamp);
    let batch = opened.appender.take_batch().expect("an epoch record was appended");
    opened.syncer.commit(batch)?;

    let last = Applied { position: Position { epoch, seq }, hybrid: stamp };
    let replayed = replay.records;
    let shared = Arc::new(Shared {
        inflight: replay.inflight,
        cache: HotCache::new(options.hot_cache_bytes),
        database: ArcSwapOption::from_pointee(database),
        log: opened.log,
        options,
        watermarks: Marks::default(),
        fold: FoldOrders::default(),
        fsyncs: Fsyncs::default(),
        turn: Mutex::new(()),
        turned: Condvar::new(),
        failure: OnceLock::new(),
    });
    let marks = &shared.watermarks;
    for mark in [&marks.appended, &marks.durable, &marks.visible] {
        mark.store(seq.as_u64(), Ordering::Release);
    }
    let persisted = persisted.map_or(0, |at| at.position.seq.as_u64());
    marks.folding.store(persisted, Ordering::Release);
    marks.applied.store(persisted, Ordering::Release);
    marks.persisted.store(persisted, Ordering::Release);
    Ok(Opened {
        writer: Writer::new(shared.clone(), opened.appender, last),
        syncer: Syncer::new(shared.clone(), opened.syncer),
        folder: Folder::new(shared.clone()),
        store: Store { shared },
        recovered: opened.recovered,
        replayed,
    })
}

/// The state must be a fold of this very log.
fn check_lineage(
    directory: &Directory,
    persisted: Option<Applied>,
    recovered: &Recovered,
) -> Result<(), StoreError> {
    let Some(Applied { position, .. }) = persisted else { return Ok(()) };
    let known = recovered.epochs.iter().rev().find(|(_, first)| *first <= position.seq);
    match known {
        Some((found, _)) if *found != position.epoch => Err(StoreError::Parted {
            log: directory.log(),
            seq: position.seq,
            found: *found,
            expected: position.epoch,
        }),
        _ => Ok(()),
    }
}

/// Puts replayed records into layers, as the writer did when it wrote them.
struct Replay {
    inflight: InFlight,
    top: Arc<Layer>,
    last: Option<Applied>,
    layer_bytes: u64,
    layer_records: u64,
    records: u64,
}

impl Replay {
    fn new(options: &StoreOptions) -> Self {
        let inflight = InFlight::new();
        let top = inflight.top();
        let (layer_bytes, layer_records) = (options.layer_bytes, options.layer_records);
        Self { inflight, top, last: None, layer_bytes, layer_records, records: 0 }
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), StoreError> {
        let seq = record.seq;
        if record.kind == RecordKind::Data {
            for effect in effects(record.body) {
                self.effect(seq, effect.map_err(|source| StoreError::Effect { seq, source })?)?;
            }
        }
        self.records += 1;
        self.top.count_record(super::writer::FRAME_BYTES + record.body.len() as u64);
        let position = Position { epoch: record.epoch, seq };
        self.last = Some(Applied { position, hybrid: record.hybrid });
        if self.top.log_bytes() >= self.layer_bytes || self.top.records() >= self.layer_records {
            self.begin_layer(None);
        }
        Ok(())
    }

    /// Everything that is replayed is durable, so no reader wants an older version: the visible
    /// watermark is given as the record's own number.
    fn effect(&mut self, seq: SequenceNumber, effect: Effect<'_>) -> Result<(), StoreError> {
        let at = seq.as_u64();
        let damaged = |source| StoreError::Row { seq, source };
        match effect {
            Effect::PutRow { key, row } => {
                RowRef::parse(row).map_err(damaged)?;
                self.top.put_row(KeyRef::new(key), at, at, Some(Arc::from(row)));
            }
            Effect::DeleteRow { key } => self.top.put_row(KeyRef::new(key), at, at, None),
            Effect::PutField { key, generation, field, row } => {
                FieldRef::parse(row).map_err(damaged)?;
                self.field(seq, key, field, (generation, Some(Arc::from(row))))?;
            }
            Effect::DeleteField { key, generation, field } => {
                self.field(seq, key, field, (generation, None))?;
            }
            Effect::Clear => self.begin_layer(Some(at)),
        }
        Ok(())
    }

    fn field(
        &self,
        seq: SequenceNumber,
        key: &[u8],
        field: &[u8],
        change: FieldChange,
    ) -> Result<(), StoreError> {
        let at = seq.as_u64();
        let put = self.top.put_field(KeyRef::new(key), at, at, field, change);
        put.then_some(()).ok_or(StoreError::FieldWithoutRow { seq })
    }

    fn begin_layer(&mut self, cleared: Option<u64>) {
        match self.last {
            Some(last) => self.top.seal(last),
            // Nothing is below the first replayed record: the layer stays, as the cleared one.
            None => {
                self.top = Arc::new(Layer::new(cleared));
                self.inflight = InFlight::over(self.top.clone());
                return;
            }
        }
        self.top = Arc::new(Layer::new(cleared));
        self.inflight.push(self.top.clone());
    }
}
