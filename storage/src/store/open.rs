//! Opening a store: the state, then the log, then what the log holds beyond the state.
//!
//! A master begins an epoch before it takes a write; a follower begins none, and goes on with the
//! records of another node.

use std::{io, path::PathBuf, sync::Arc};

use larder_types::{
    Epoch, HybridClock, HybridTime, LogId, Position, RegionId, SequenceNumber,
    limits::SEGMENT_BYTES_DEFAULT,
};

use super::{
    Directory, DirectoryError, Durability, Folder, Shared, Store, Syncer, Writer,
    apply::RecordError, replay::Replay,
};
use crate::{
    Applied,
    atomic_file::FileError,
    fs::RealFs,
    log::{
        self, LogError, LogOptions, Preparer, Recovered,
        format::{ChainPoint, Header},
    },
    state::{Database, DatabaseOptions, StateError},
};

/// Rows and fields put or deleted in one layer. One costs a microsecond to replay, more or less.
const LAYER_CHANGES: u64 = 500_000;
/// The same in all that is not folded.
const UNAPPLIED_CHANGES_MAX: u64 = 1_500_000;

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
    /// The same in rows and fields that are put or deleted, each record counting as one at least:
    /// small ones take more time to replay, and more memory, than their bytes say.
    pub layer_changes: u64,
    /// Writes wait while the records not yet folded take more of the log than this. With
    /// twice `layer_bytes`, for what is folded and not yet flushed, it bounds what a start must replay.
    /// A record is never divided: each of the bounds is passed by one at most.
    pub unapplied_bytes_max: u64,
    /// The same in rows and fields that are put or deleted.
    pub unapplied_changes_max: u64,
    /// When a record can be read.
    pub visibility: Visibility,
    /// What [`Store::retain_from`] has said before it is called: a node with followers gives the
    /// first number, so that nothing they need is trimmed before it is known what that is.
    pub retain_from: Option<SequenceNumber>,
    /// The log is kept for followers up to this size.
    pub retain_bytes_max: u64,
    /// Records between two digests of the state, at the same ones on every replica; 0 for none. See
    /// [`Store::take_digests`].
    pub digest_every: u64,
    /// RocksDB.
    pub database: DatabaseOptions,
}

/// When a record can be read, and folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Once it counts as done here, as [`Durability`] says.
    #[default]
    Durable,
    /// Once it is durable here and [`Store::commit`] has said that it is committed: nobody reads
    /// what could vanish.
    Committed,
}

/// As what a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAs {
    /// Writes the log: begins an epoch of the same term and the next run.
    Master {
        /// The wall clock, in milliseconds since the Unix epoch.
        wall_ms: u64,
        /// Random.
        epoch_id: u64,
    },
    /// Follows another node: begins no epoch. An empty log of this identity is made where there is
    /// none; `None`: there must be one.
    Follower {
        /// The log that is followed.
        log: Option<LogId>,
    },
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
            layer_changes: LAYER_CHANGES,
            unapplied_bytes_max: 256 << 20,
            unapplied_changes_max: UNAPPLIED_CHANGES_MAX,
            visibility: Visibility::Durable,
            retain_from: None,
            retain_bytes_max: 8 << 30,
            digest_every: 0,
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
    /// A record cannot be applied.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The directory holds another log than the one to follow.
    #[error(
        "{log}: holds log {found}, but {expected} is to be followed; give --data an empty directory, or take this node out of the cluster first"
    )]
    OtherLog {
        /// The log's directory.
        log: PathBuf,
        /// The identity found.
        found: LogId,
        /// The one that is to be followed.
        expected: LogId,
    },
    /// There is no log, and none is to be made.
    #[error("{log}: holds no log yet, and its identity comes from the master")]
    NoLog {
        /// The log's directory.
        log: PathBuf,
    },
    /// A rewind has begun and is not over.
    #[error(
        "{root}: log and state are being taken back to where they parted from the master's: the rewind must be ended first"
    )]
    Rewinding {
        /// The data directory.
        root: PathBuf,
    },
    /// The marker of a rewind, or of a snapshot that is being installed, was refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory was refused.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log was refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// RocksDB was refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system refused a thread.
    #[error("cannot start the thread that applies the log: {0}; raise what the system allows")]
    Thread(#[source] io::Error),
}

/// A store's parts, each for a thread of its own.
pub struct Opened {
    /// For whoever evaluates the shard's writes: one at a time.
    pub writer: Writer,
    /// For the sync thread.
    pub syncer: Syncer,
    /// For a thread that makes the log's next segment ahead. Ends after the syncer.
    pub preparer: Preparer,
    /// For the fold thread.
    pub folder: Folder,
    /// For everyone else.
    pub store: Store,
    /// What recovery found.
    pub recovered: Recovered,
    /// Records that were replayed.
    pub replayed: u64,
}

/// Opens the store in `directory` as [`OpenAs::Master`]: replays what the state lacks, and begins
/// a new epoch, whose first record is durable before this returns.
///
/// # Errors
/// As [`open_as`].
pub fn open(
    directory: &Directory,
    options: StoreOptions,
    wall_ms: u64,
    epoch_id: u64,
) -> Result<Opened, StoreError> {
    open_as(directory, options, OpenAs::Master { wall_ms, epoch_id })
}

/// Opens the store in `directory` and replays what the state lacks.
///
/// # Errors
/// When log or state are damaged, or not of one history: nothing is repaired by deleting. While a
/// rewind is not over.
pub fn open_as(
    directory: &Directory,
    options: StoreOptions,
    role: OpenAs,
) -> Result<Opened, StoreError> {
    crate::snapshot::finish_install(directory)?;
    crate::snapshot::remove_stale(directory)?;
    if !crate::rewind::is_whole(directory)? {
        return Err(StoreError::Rewinding { root: directory.root().to_path_buf() });
    }
    if let OpenAs::Follower { log } = role {
        prepare_followed(directory, log)?;
    }
    // Before the database, which may need what room takes of a full disk.
    let dir = directory.log();
    log::remove_left(&RealFs, &dir)?;
    let database = Database::open(&directory.state(), &options.database)?;
    let persisted = database.persisted()?;
    let mut replay = Replay::new(&options, persisted);
    let opened = replay.run(|feed| {
        log::open(
            Arc::new(RealFs),
            &dir,
            &directory.quarantine(),
            log_options(&options),
            persisted.map_or(SequenceNumber::FIRST, |at| at.position.seq.next()),
            &mut |record| feed.push(record),
        )
    });
    let opened = opened.map_err(|error| match (error, persisted) {
        (StoreError::Log(LogError::Gap { tail, .. }), Some(Applied { position, .. }))
            if tail <= position.seq =>
        {
            StoreError::StateAhead { log: dir, applied: position }
        }
        (error, _) => error,
    })?;
    check_lineage(directory, persisted, &opened.recovered)?;
    let replicas = [database.replicas()?, std::mem::take(&mut replay.replicas)].concat();
    let (last, replayed) = (replay.last.or(persisted), opened.recovered.replayed);
    let shared = Shared::new(options, database, replay.inflight, opened.log, replicas);
    let shared = Arc::new(shared);
    shared.start_at(opened.recovered.tail.as_u64() - 1, persisted);
    let clock = HybridClock::starting_above(opened.recovered.last_hybrid);
    shared.stamped(persisted.map_or(HybridTime::ZERO, |at| at.hybrid).max(clock.last()));
    let mut opened = Opened {
        writer: Writer::new(shared.clone(), opened.appender, last, clock),
        syncer: Syncer::new(shared.clone(), opened.syncer),
        preparer: opened.preparer,
        folder: Folder::new(shared.clone()),
        store: Store { shared },
        recovered: opened.recovered,
        replayed,
    };
    if let OpenAs::Master { wall_ms, epoch_id } = role {
        opened.begin_run(wall_ms, epoch_id)?;
    }
    Ok(opened)
}

impl Opened {
    /// Begins an epoch of the same term and the next run, durably.
    fn begin_run(&mut self, wall_ms: u64, id: u64) -> Result<(), StoreError> {
        let epoch = match self.recovered.last_epoch {
            Some(last) => Epoch { term: last.term, run: last.run + 1, id },
            None => Epoch { term: 1, run: 1, id },
        };
        self.writer.begin_epoch(epoch, wall_ms).expect("the next run comes after");
        let batch = self.writer.take_batch().expect("an epoch record was appended");
        self.syncer.commit(batch)?;
        // At every level of durability: the run must never be used again.
        Ok(self.syncer.sync_rest()?)
    }
}

const fn log_options(options: &StoreOptions) -> LogOptions {
    LogOptions {
        segment_bytes: options.segment_bytes,
        reserve_bytes: options.reserve_bytes,
        hot_tail_bytes: options.hot_tail_bytes,
        origin: RegionId(0),
    }
}

/// Makes sure that the directory holds the log that is to be followed.
fn prepare_followed(directory: &Directory, wanted: Option<LogId>) -> Result<(), StoreError> {
    let log = directory.log();
    match (log::head(&RealFs, &log)?, wanted) {
        (Some(Header { id: found, .. }), Some(expected)) if found != expected => {
            Err(StoreError::OtherLog { log, found, expected })
        }
        (Some(_), _) => Ok(()),
        (None, None) => Err(StoreError::NoLog { log }),
        (None, Some(id)) => {
            let header = Header { id, origin: RegionId(0), chain: ChainPoint::START };
            Ok(log::create(&RealFs, &log, &header)?)
        }
    }
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
