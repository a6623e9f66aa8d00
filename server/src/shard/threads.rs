//! A shard from its opening to its end: its handle, and its threads.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use larder_storage::{
    Directory, DirectoryError, LogError, Recovered, StateError, Store, StoreError, StoreOptions,
    Syncer, Watermarks,
};
use larder_types::{AckLevel, HybridTime, LogId, SequenceNumber};
use tokio::sync::oneshot;

use super::{
    awaiting::Awaiting,
    combine::{Combiner, Staged},
    keeper::{Keeper, Opening, Plan},
    mailbox::{self, Mailbox},
    pause::Pause,
    queue::{Queue, Taken},
    replicate::OrderError,
    watch::Watches,
    work::Work,
};
use crate::clock::wall_ms;

/// The sync thread looks at what is staged after this time though nobody wakes it. Where there is nothing it
/// writes its mark: soon enough to be there before most power cuts, and late enough not to double the
/// writes of a slow client.
const PATIENCE_MAX: Duration = Duration::from_millis(50);

/// The wall clock may stand this much before the newest record without a word: so far may the clocks of
/// two machines be apart, and so much may a clock be put right.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(10);

/// Why a shard did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The data directory was refused.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log failed: nothing more can be acknowledged.
    #[error(
        "the log failed, and the server ends so that nothing is acknowledged that is not safe: {0}"
    )]
    Log(#[from] LogError),
    /// The log did not take what the replication of it wrote.
    #[error("the log does not take what replication writes, which is a defect or damage: {0}")]
    Order(#[source] OrderError),
    /// The state failed, and so did opening it again.
    #[error("the state failed and cannot be opened again; what was acknowledged is in the log")]
    Reopening(#[source] StoreError),
    /// The state failed once more soon after it was opened again.
    #[error(
        "the state failed again soon after it was opened again; what was acknowledged is in the log"
    )]
    State(#[source] StateError),
    /// The store was refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be started.
    #[error("start a thread of the shard: {0}")]
    Thread(io::Error),
}

/// Told, once, why the process must end.
pub(super) type Failed = dyn Fn(ShardError) + Send + Sync;

/// What a shard tells those who replicate it.
pub enum Happened {
    /// Everything up to this record is on disk. Told on the sync thread, after each fsync.
    Durable(SequenceNumber),
    /// The state failed and is about to be opened again. No reader can see that yet.
    Failed,
    /// It was opened again: as a follower, closed to clients.
    Reopened(Store),
}

/// What a shard that is replicated needs to know beside its store.
pub struct Replicated {
    /// The namespace's level.
    pub level: AckLevel,
    /// How long a write may wait for it.
    pub ack_timeout: Duration,
    /// Told what happens.
    pub tell: Arc<dyn Fn(Happened) + Send + Sync>,
    /// The identity of the log to be made, where there is none.
    pub new_log: Option<LogId>,
}

/// A shard at work; a handle for connections.
pub struct Shard {
    pub(super) combiner: Combiner,
    /// What waits for other nodes; nothing does on a single node.
    pub(super) awaiting: Option<Arc<Awaiting>>,
    pub(super) pause: Pause,
    /// Another one each time the state was opened again.
    pub(super) store: ArcSwap<Store>,
    pub(super) reopened: AtomicU64,
    opening: ShardOpening,
    /// It is locked for as long as this is held.
    _directory: Arc<Directory>,
}

/// Where a shard is, once its store was opened for the first time.
pub type Place = Arc<OnceLock<Arc<Shard>>>;

/// What opening the store took when the shard was started.
#[derive(Clone, Copy, Debug)]
pub struct ShardOpening {
    /// Records of the log that were replayed.
    pub replayed_records: u64,
    /// Bytes of a write that no one was told of, cut from the end of the log and set aside.
    pub torn_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// The threads of a shard, for whoever started it.
pub struct Threads {
    shard: Arc<Shard>,
    keeper: JoinHandle<()>,
}

impl Shard {
    /// Opens the shard's store in the directory and starts its threads. `failed` is called, on one of
    /// them, when the log fails, or when the state does and opening it again did not help; the
    /// process must then end.
    ///
    /// # Errors
    /// When the store is refused or a thread cannot be started.
    pub fn start(
        directory: Arc<Directory>,
        options: StoreOptions,
        replicated: Option<Replicated>,
        failed: impl Fn(ShardError) + Send + Sync + 'static,
    ) -> Result<(Arc<Self>, Threads), ShardError> {
        let awaiting = replicated
            .as_ref()
            .map(|replicated| Arc::new(Awaiting::new(replicated.level, replicated.ack_timeout)));
        let new_log = replicated.as_ref().and_then(|replicated| replicated.new_log);
        let plan = Plan {
            directory,
            options,
            awaiting: awaiting.clone(),
            replicated,
            failed: Arc::new(failed),
        };
        let began = Instant::now();
        let Opening { parts, desk, store, recovered, replayed } = plan.open(new_log)?;
        let shard = Arc::new(Self {
            combiner: Combiner::new(desk, Arc::new(Watches::default())),
            awaiting,
            pause: Pause::default(),
            store: ArcSwap::from_pointee(store),
            reopened: AtomicU64::new(0),
            opening: describe_opening(&recovered, replayed, began.elapsed()),
            _directory: plan.directory.clone(),
        });
        let keeper = Keeper { shard: shard.clone(), plan };
        // It folds for nearly all of its time.
        let keeper = spawn("folder", move || keeper.keep(parts))?;
        Ok((shard.clone(), Threads { shard, keeper }))
    }

    /// Lets the sync thread take what was handed in. To be called by a thread that hands work in
    /// once it has nothing more to hand in for now; otherwise the work waits for a moment.
    pub fn commit_staged(&self) {
        self.combiner.commit_staged();
    }

    /// Hands work in, to be committed after [`Shard::commit_staged`]. The receiver answers with the
    /// same work when it is done, or with an error when the shard has ended: then nothing is known
    /// of what became of it. `mailbox` is that of the calling thread, where it has one.
    pub fn submit(
        &self,
        mut work: Work,
        mailbox: Option<&Arc<Mailbox>>,
    ) -> oneshot::Receiver<Work> {
        let (done, receiver) = oneshot::channel();
        (work.done, work.mailbox) = (Some(done), mailbox.cloned());
        self.combiner.submit(work);
        receiver
    }

    /// The store as it is now, for reading. Not to be kept: another takes its place when the state
    /// fails and is opened again.
    pub fn store(&self) -> Guard<Arc<Store>> {
        self.store.load()
    }

    /// The watched keys.
    pub fn watches(&self) -> &Watches {
        self.combiner.watches()
    }

    /// How often the state failed and was opened again.
    pub fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }

    /// What opening the store took when the shard was started.
    pub const fn opening(&self) -> ShardOpening {
        self.opening
    }

    /// Writes and what rests on them that were answered without anybody knowing what becomes of
    /// them.
    pub fn undecided(&self) -> u64 {
        self.awaiting.as_ref().map_or(0, |awaiting| awaiting.undecided())
    }
}

impl Threads {
    /// Takes no more work, finishes what was handed in, folds everything and flushes, so that the
    /// next start has nothing to replay. Blocks until that is done.
    pub fn stop(self) {
        self.shard.pause.stop();
        self.shard.combiner.close();
        self.keeper.join().expect("a panic ends the process");
    }
}

fn describe_opening(recovered: &Recovered, replayed_records: u64, took: Duration) -> ShardOpening {
    let torn_bytes = recovered.torn.as_ref().map_or(0, |torn| torn.bytes);
    tracing::info!(
        log = %recovered.id,
        created = recovered.created,
        records_replayed = replayed_records,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "the store is open"
    );
    if let Some(torn) = &recovered.torn {
        tracing::warn!(
            segment = torn.segment,
            offset = torn.offset,
            bytes = torn.bytes,
            moved_to = %torn.quarantined_to.display(),
            "the log's end was torn by a crash; what was never acknowledged was set aside"
        );
    }
    if let Some(file) = &recovered.set_aside {
        tracing::warn!(file = %file.display(), "a segment without a header was set aside");
    }
    if let Some(behind) = clock_behind(recovered.last_hybrid, wall_ms()) {
        tracing::warn!(
            ?behind,
            "the wall clock stands before the newest record: until it has caught up time stands still \
             for keys, none expires, and what is set to expire is kept longer; see that the clock is right"
        );
    }
    ShardOpening { replayed_records, torn_bytes, took }
}

/// How far the wall clock stands before the newest record, where that is too far.
fn clock_behind(newest: HybridTime, wall_ms: u64) -> Option<Duration> {
    let behind = Duration::from_millis(newest.millis().saturating_sub(wall_ms));
    (behind > CLOCK_BEHIND_MAX).then_some(behind)
}

pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShardError> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(ShardError::Thread)
}

/// Commits what is staged and answers its work, until the queue is closed; where the fold is behind, no
/// faster than it goes. Work that must wait for other nodes is left with those that wait.
pub(super) fn sync_until_closed(
    mut syncer: Syncer,
    staged: &Queue<Staged>,
    store: &Store,
    awaiting: Option<&Awaiting>,
) -> Result<(), LogError> {
    let is_empty = |staged: &Staged| staged.works.is_empty() && staged.batch.is_none();
    loop {
        syncer.keep_pace();
        let patience =
            syncer.patience().map_or(PATIENCE_MAX, |patience| patience.min(PATIENCE_MAX));
        match staged.take(is_empty, Some(patience)) {
            Taken::All(Staged { batch, works }) => {
                match batch {
                    Some(batch) => syncer.commit(batch)?,
                    // Reads alone may come again and again.
                    None if syncer.patience() == Some(Duration::ZERO) => syncer.sync_rest()?,
                    None => {}
                }
                match awaiting {
                    None => mailbox::answer(works),
                    Some(awaiting) => {
                        let Watermarks { durable, .. } = store.watermarks();
                        let (resting, free): (Vec<_>, Vec<_>) =
                            works.into_iter().partition(|work| work.task.rests_on_records());
                        mailbox::answer(free);
                        awaiting.add(durable, resting);
                        // After adding: what is committed meanwhile is not missed.
                        awaiting.release(store.watermarks().visible);
                    }
                }
            }
            Taken::Nothing => syncer.idle()?,
            Taken::Closed => return syncer.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_storage::{Durability, open, state::DatabaseOptions};

    use super::*;

    #[test]
    fn a_clock_that_stands_more_than_10_s_before_the_newest_record_is_told_of() {
        let newest = HybridTime::new(100_000, 7);
        for (wall_ms, expected_ms) in [
            (0, Some(100_000)),
            (89_999, Some(10_001)),
            (90_000, None),
            (100_000, None),
            (u64::MAX, None),
        ] {
            assert_eq!(clock_behind(newest, wall_ms), expected_ms.map(Duration::from_millis));
        }
    }

    #[test]
    fn what_nobody_wakes_the_sync_thread_for_does_not_wait_for_the_interval() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        (options.reserve_bytes, options.durability) = (0, Durability::Interval(3_600_000));
        let opened = open(&directory, options, wall_ms(), 1).unwrap();
        let (mut writer, store) = (opened.writer, opened.store);
        let staged = Queue::<Staged>::new();
        let come_back = thread::scope(|scope| {
            scope.spawn(|| sync_until_closed(opened.syncer, &staged, &store, None).unwrap());
            // What comes first meets nothing that waits for the interval.
            let come_back = (0..2).take_while(|_| {
                let mut txn = writer.transaction(wall_ms());
                txn.put_string(b"key", b"value", None).unwrap();
                txn.commit().unwrap();
                let (done, mut answer) = oneshot::channel();
                let work = Work { done: Some(done), ..Work::sets(&[]) };
                let added = staged.add(|staged| {
                    (staged.batch, staged.works) = (writer.take_batch(), vec![work]);
                    false
                });
                let until = Instant::now() + Duration::from_secs(30);
                let mut is_back = false;
                while added && !is_back && Instant::now() < until {
                    thread::yield_now();
                    is_back = answer.try_recv().is_ok();
                }
                is_back
            });
            let come_back = come_back.count();
            staged.close();
            come_back
        });
        assert_eq!(come_back, 2);
    }
}
