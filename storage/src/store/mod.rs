//! A shard's store: its log, the state folded from it, and what is between them.
//!
//! Three threads work on a store, each with a part of its own: the [`Writer`] evaluates and
//! encodes, the [`Syncer`] makes batches durable and visible, the [`Folder`] folds sealed layers
//! into RocksDB and trims the log. Everyone else reads through the [`Store`] handle.
//!
//! ```text
//! Writer --batch--> Syncer --durable, visible--> replies
//!    \--layers--> Folder --applied, persisted--> log trimmed
//! ```

mod apply;
mod digests;
mod directory;
mod folder;
mod holds;
mod open;
mod pace;
mod replay;
mod retain;
mod syncer;
mod writer;

use std::{
    error::Error,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use larder_types::{HybridTime, SequenceNumber};
use parking_lot::{Condvar, Mutex};

pub use apply::RecordError;
pub use directory::{Directory, DirectoryError, FORMAT_VERSION};
pub use folder::{FoldError, Folder};
pub use holds::SteadyView;
pub use open::{OpenAs, Opened, StoreError, StoreOptions, Visibility, open, open_as};
pub(crate) use retain::Pin;
pub use syncer::{Durability, Syncer};
pub use writer::{AcceptError, EpochError, Refusal, Writer};

use self::{digests::Digests, holds::Holds, pace::Pace, retain::Retention, writer::LAYERS_MAX};
use crate::{
    Applied,
    cache::HotCache,
    inflight::{InFlight, Layer},
    log::Log,
    state::{Database, Digest, ReplicasRecord, StateError},
    view::View,
};

/// What the parts of a store share.
pub(crate) struct Shared {
    pub(crate) inflight: InFlight,
    pub(crate) cache: HotCache,
    /// `None` once [`Store::close`] was called.
    database: ArcSwapOption<Database>,
    pub(crate) log: Log,
    options: StoreOptions,
    watermarks: Marks,
    holds: Holds,
    fold: FoldOrders,
    retention: Arc<Retention>,
    digests: Digests,
    /// Every record of the replica set that is known, oldest first.
    replicas: Mutex<Vec<ReplicasRecord>>,
    pub(crate) fsyncs: Fsyncs,
    pace: Pace,
    on_durable: OnceLock<Box<OnDurable>>,
    /// Wakes the fold when a layer was sealed or became durable, and the writer when one was
    /// folded.
    turn: Mutex<()>,
    turned: Condvar,
    failure: OnceLock<String>,
}

/// Told of each durable tail.
type OnDurable = dyn Fn(SequenceNumber) + Send + Sync;

/// The watermarks as sequence numbers; 0 for none. Each only grows.
#[derive(Default)]
struct Marks {
    appended: AtomicU64,
    durable: AtomicU64,
    visible: AtomicU64,
    /// RocksDB may hold records up to this one: what is being folded, or was.
    folding: AtomicU64,
    applied: AtomicU64,
    persisted: AtomicU64,
    /// Not a record: the greatest time that a record was stamped with, in milliseconds.
    stamped_ms: AtomicU64,
}

/// Counts fsyncs and how long they took, in buckets of powers of two microseconds.
#[derive(Default)]
pub struct Fsyncs {
    buckets: [AtomicU64; FSYNC_BUCKETS],
    micros: AtomicU64,
}

/// Buckets of [`Fsyncs`]: the last one takes everything from 2^19 us, half a second, on.
pub const FSYNC_BUCKETS: usize = 20;

impl Fsyncs {
    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (64 - micros.leading_zeros() as usize).min(FSYNC_BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many took less than 2^i microseconds and not less than half of that, for each i.
    pub fn counts(&self) -> [u64; FSYNC_BUCKETS] {
        std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed))
    }

    /// Microseconds spent in fsync altogether.
    pub fn micros(&self) -> u64 {
        self.micros.load(Ordering::Relaxed)
    }
}

/// How long [`Store::close`] sleeps before it looks again whether somebody reads.
const READS_END: Duration = Duration::from_millis(1);

/// The open database; keeps it open while it is held.
pub struct DatabaseRef(Guard<Option<Arc<Database>>>);

impl Deref for DatabaseRef {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_deref().expect("it is only made of an open database")
    }
}

/// What others want of the fold.
#[derive(Default)]
struct FoldOrders {
    stop: AtomicBool,
    flush: AtomicBool,
}

impl Shared {
    fn new(
        options: StoreOptions,
        database: Database,
        inflight: InFlight,
        log: Log,
        replicas: Vec<ReplicasRecord>,
    ) -> Self {
        let retention = Retention::default();
        retention.keep_for_followers(options.retain_from);
        Self {
            inflight,
            cache: HotCache::new(options.hot_cache_bytes),
            database: ArcSwapOption::from_pointee(database),
            log,
            options,
            watermarks: Marks::default(),
            holds: Holds::default(),
            fold: FoldOrders::default(),
            retention: Arc::new(retention),
            digests: Digests::default(),
            replicas: Mutex::new(replicas),
            fsyncs: Fsyncs::default(),
            pace: Pace::default(),
            on_durable: OnceLock::new(),
            turn: Mutex::new(()),
            turned: Condvar::new(),
            failure: OnceLock::new(),
        }
    }

    /// Whether there is room for more unfolded records.
    fn has_room(&self) -> bool {
        self.inflight.log_bytes() <= self.options.unapplied_bytes_max
            && self.inflight.changes() <= self.options.unapplied_changes_max
            && self.inflight.stack().len() <= LAYERS_MAX
    }

    /// Bytes that RocksDB may yet take on the disk because of what the log holds.
    fn owed_bytes(&self) -> u64 {
        let unfolded = self.inflight.log_bytes();
        self.database.load().as_ref().map_or(unfolded, |database| database.owed_bytes(unfolded))
    }

    /// Sets the watermarks of a store that was just opened.
    fn start_at(&self, durable: u64, persisted: Option<Applied>) {
        let persisted = persisted.map_or(0, |at| at.position.seq.as_u64());
        assert!(persisted <= durable, "applied <= durable");
        let visible = match self.options.visibility {
            Visibility::Durable => durable,
            // What was folded had been committed, or acknowledged at `local`; of the rest nothing is
            // known yet.
            Visibility::Committed => persisted,
        };
        let marks = &self.watermarks;
        for (mark, to) in [
            (&marks.appended, durable),
            (&marks.durable, durable),
            (&marks.visible, visible),
            (&marks.folding, persisted),
            (&marks.applied, persisted),
            (&marks.persisted, persisted),
        ] {
            mark.store(to, Ordering::Release);
        }
    }

    pub(crate) fn database(&self) -> Result<DatabaseRef, StateError> {
        let database = self.database.load();
        if database.is_some() { Ok(DatabaseRef(database)) } else { Err(StateError::Closed) }
    }

    /// The greatest time that a record was stamped with, in milliseconds since the Unix epoch.
    pub(crate) fn stamped_ms(&self) -> u64 {
        self.watermarks.stamped_ms.load(Ordering::Relaxed)
    }

    fn stamped(&self, at: HybridTime) {
        self.watermarks.stamped_ms.fetch_max(at.millis(), Ordering::Relaxed);
    }

    pub(crate) const fn visible_watermark(&self) -> &AtomicU64 {
        &self.watermarks.visible
    }

    pub(crate) fn visible(&self) -> u64 {
        self.watermarks.visible.load(Ordering::Acquire)
    }

    /// The record below which no reader asks: older versions than the newest at it are dropped.
    pub(crate) fn floor(&self) -> u64 {
        self.holds.floor(&self.watermarks.visible)
    }

    /// The last record of which RocksDB may hold something.
    pub(crate) fn folding(&self) -> u64 {
        self.watermarks.folding.load(Ordering::Acquire)
    }

    /// Raises a watermark.
    ///
    /// # Panics
    /// When it would fall, or pass the one above it: a defect that must not reach a reader.
    fn raise(&self, mark: &AtomicU64, to: u64, bound: &AtomicU64) {
        let bound = bound.load(Ordering::Acquire);
        let before = mark.swap(to, Ordering::AcqRel);
        assert!(before <= to && to <= bound, "watermark {before} -> {to} beyond {bound}");
    }

    fn tell_durable(&self) {
        let durable = SequenceNumber::new(self.watermarks.durable.load(Ordering::Acquire));
        if let (Some(durable), Some(hook)) = (durable, self.on_durable.get()) {
            hook(durable);
        }
    }

    /// The bottom layer and its last record, if it is sealed, durable and visible, and nobody reads as of
    /// a record before its end.
    fn foldable(&self) -> Option<(Arc<Layer>, Applied)> {
        let bottom = self.inflight.stack().last().expect("the stack is never empty").clone();
        let last = *bottom.sealed()?;
        let durable = self.watermarks.durable.load(Ordering::Acquire);
        (durable.min(self.floor()) >= last.position.seq.as_u64()).then_some((bottom, last))
    }

    /// Whether the fold cannot take the bottom layer before more is committed.
    fn bottom_waits_for_commit(&self) -> bool {
        let stack = self.inflight.stack();
        let bottom = stack.last().expect("the stack is never empty").sealed();
        let is_visible = |last: &Applied| last.position.seq.as_u64() <= self.visible();
        self.options.visibility == Visibility::Committed && !bottom.is_some_and(is_visible)
    }

    /// Wakes the fold if there is anything to fold. A layer that is sealed right afterwards is told
    /// of by whoever seals it.
    fn notify_fold(&self) {
        if self.inflight.bottom_is_sealed() {
            self.notify();
        }
    }

    fn notify(&self) {
        drop(self.turn.lock());
        self.turned.notify_all();
    }

    /// The fold has ended: whoever waits for it waits no more.
    fn fail(&self, why: &FoldError) {
        let cause = why.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        let why = format!("{why}{cause}");
        tracing::error!(error = why, "the fold failed and has ended");
        let _ = self.failure.set(why);
        self.notify();
    }
}

/// The watermarks of a store at one moment; 0 for "no record". See the architecture's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are defined once, in ARCHITECTURE.md")]
pub struct Watermarks {
    pub appended: u64,
    pub durable: u64,
    pub committed: u64,
    pub visible: u64,
    pub applied: u64,
    pub persisted: u64,
    pub trimmed: u64,
}

/// Figures of a store, for people and metrics.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Bytes of log that RocksDB has not taken yet.
    pub unapplied_bytes: u64,
    /// Records that RocksDB has not taken yet.
    pub unapplied_records: u64,
    /// Rows and fields that they put or delete; each record counts as one at least.
    pub unapplied_changes: u64,
    /// Layers of writes in flight.
    pub layers: usize,
    /// How long the sync thread paused so far because the fold was behind.
    pub paused: Duration,
    /// Reads answered by the cache of hot rows.
    pub hot_hits: u64,
    /// Reads that the cache of hot rows passed on to RocksDB.
    pub hot_misses: u64,
    /// Bytes in the cache of hot rows.
    pub hot_bytes: u64,
    /// Bytes of log segments on disk.
    pub log_bytes: u64,
}

/// A handle on a store, for readers and figures; cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// A view of what is visible; `now_ms` is the wall clock in milliseconds since the epoch.
    pub fn view(&self, now_ms: u64) -> View<'_> {
        View::visible(&self.shared, now_ms)
    }

    /// A view of what is visible for a replica that goes on from there.
    pub(crate) fn view_of_kept(&self) -> Result<View<'_>, StateError> {
        View::of_kept(&self.shared)
    }

    /// A view of what is visible now, and of nothing that becomes visible later: all that is read
    /// from it is read as of one record. The fold waits for it, so that it is to be dropped soon.
    pub fn steady_view(&self, now_ms: u64) -> SteadyView<'_> {
        SteadyView::of(&self.shared, now_ms)
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.shared.log
    }

    /// The database, for figures.
    ///
    /// # Errors
    /// When it is closed.
    pub fn database(&self) -> Result<DatabaseRef, StateError> {
        self.shared.database()
    }

    /// Closes the database, so that the directory can be opened again: waits for the reads of it
    /// that are going on, each of one row, one hash or one block of a scan. Afterwards what is in
    /// memory can still be read; the rest is refused with [`StateError::Closed`]. The writer, the
    /// syncer and the folder must have ended.
    pub fn close(&self) {
        let Some(mut database) = self.shared.database.swap(None) else { return };
        while let Err(read) = Arc::try_unwrap(database).map(drop) {
            database = read;
            thread::sleep(READS_END);
        }
    }

    /// Whether nobody has closed the database.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.database().is_ok()
    }

    /// Where the watermarks stand. Read in an order that keeps their inequalities true.
    pub fn watermarks(&self) -> Watermarks {
        let marks = &self.shared.watermarks;
        let trimmed = self.shared.log.first().as_u64() - 1;
        let persisted = marks.persisted.load(Ordering::Acquire);
        let applied = marks.applied.load(Ordering::Acquire);
        let visible = marks.visible.load(Ordering::Acquire);
        let durable = marks.durable.load(Ordering::Acquire);
        let appended = marks.appended.load(Ordering::Acquire);
        Watermarks { appended, durable, committed: visible, visible, applied, persisted, trimmed }
    }

    /// Says that everything up to and with record `seq` is committed: what of it is durable here
    /// becomes visible. Answers up to which record that is now, 0 for none. Where visibility does
    /// not wait for commits nothing is done.
    pub fn commit(&self, seq: SequenceNumber) -> u64 {
        let marks = &self.shared.watermarks;
        if self.shared.options.visibility == Visibility::Durable {
            return self.shared.visible();
        }
        let to = seq.as_u64().min(marks.durable.load(Ordering::Acquire));
        let before = marks.visible.fetch_max(to, Ordering::AcqRel);
        if before < to {
            self.shared.notify_fold();
        }
        before.max(to)
    }

    /// Has `hook` called on the sync thread after each fsync, with the last durable record, when
    /// the watermarks say so already. The first hook stays.
    pub fn on_durable(&self, hook: impl Fn(SequenceNumber) + Send + Sync + 'static) {
        let _ = self.shared.on_durable.set(Box::new(hook));
    }

    /// Keeps the log from `from` on for followers, as far as `retain_bytes_max` allows; `None`:
    /// nothing is kept for them.
    pub fn retain_from(&self, from: Option<SequenceNumber>) {
        self.shared.retention.keep_for_followers(from);
    }

    /// The first record kept, if a follower needs one before it: the cap was reached, or what it
    /// needs was trimmed before it was registered. It is detached, and comes back by a snapshot.
    pub fn passed_floor(&self) -> Option<SequenceNumber> {
        let first = self.shared.log.first();
        self.shared.retention.followers().filter(|floor| *floor < first).map(|_| first)
    }

    /// Keeps the log from `from` on while the pin lives, as far as `retain_bytes_max` allows.
    pub(crate) fn pin(&self, from: SequenceNumber) -> Pin {
        self.shared.retention.pin(from, false)
    }

    /// The same whatever the log's size: for a moment only.
    pub(crate) fn pin_firmly(&self, from: SequenceNumber) -> Pin {
        self.shared.retention.pin(from, true)
    }

    /// The records of the replica set, oldest first: those in the state, and all in the log beyond.
    pub fn replicas(&self) -> Vec<ReplicasRecord> {
        self.shared.replicas.lock().clone()
    }

    /// Of those the ones behind record `after`.
    pub fn replicas_behind(&self, after: Option<SequenceNumber>) -> Vec<ReplicasRecord> {
        let replicas = self.shared.replicas.lock();
        let known = replicas.partition_point(|record| Some(record.position.seq) <= after);
        replicas[known..].to_vec()
    }

    /// The digests of the state that were finished since this was asked before, oldest first. They
    /// are made after every [`StoreOptions::digest_every`] records; where one takes longer than that,
    /// those that it runs into are left out.
    pub fn take_digests(&self) -> Vec<Digest> {
        self.shared.digests.take()
    }

    /// Figures for people and metrics.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            unapplied_bytes: self.shared.inflight.log_bytes(),
            unapplied_records: self.shared.inflight.records(),
            unapplied_changes: self.shared.inflight.changes(),
            layers: self.shared.inflight.stack().len(),
            paused: self.shared.pace.paused(),
            hot_hits: self.shared.cache.hits(),
            hot_misses: self.shared.cache.misses(),
            hot_bytes: self.shared.cache.bytes(),
            log_bytes: self.shared.log.bytes(),
        }
    }

    /// Counts of fsyncs and how long they took.
    pub fn fsyncs(&self) -> &Fsyncs {
        &self.shared.fsyncs
    }

    /// When a write counts as done.
    pub fn durability(&self) -> Durability {
        self.shared.options.durability
    }

    /// Why the state failed, once it has: the shard must be closed and opened again.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// Lets the fold end once it has folded every sealed layer. Whoever seals layers must have
    /// ended before.
    pub fn stop_folding(&self) {
        self.shared.fold.stop.store(true, Ordering::Release);
        self.shared.notify();
    }

    /// Asks the fold to flush RocksDB once it has folded every sealed layer. Done when the
    /// `persisted` watermark has reached the last record of the last sealed layer.
    pub fn request_flush(&self) {
        self.shared.fold.flush.store(true, Ordering::Release);
        self.shared.notify();
    }

    /// The position that the state had last applied.
    ///
    /// # Errors
    /// When RocksDB cannot be read.
    pub fn applied(&self) -> Result<Option<Applied>, StateError> {
        self.shared.database()?.applied()
    }
}
