//! A shard from its opening to its end: its handle, and its two threads.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use larder_storage::{
    Directory, DirectoryError, LogError, Recovered, StateError, Store, StoreError, StoreOptions,
    Syncer,
};
use tokio::sync::oneshot;

use super::{
    combine::{Combiner, Staged},
    keeper::{Keeper, Opening},
    queue::{Queue, Taken},
    watch::Watches,
    work::Work,
};

/// The sync thread writes its mark after this much idleness: soon enough to be there before most
/// power cuts, and late enough not to double the writes of a slow client.
const IDLE_BEFORE_MARK: Duration = Duration::from_millis(50);

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

/// A shard at work; a handle for connections.
pub struct Shard {
    pub(super) combiner: Combiner,
    /// Another one each time the state was opened again.
    pub(super) store: ArcSwap<Store>,
    pub(super) reopened: AtomicU64,
    recovered: Recovered,
    replayed: u64,
    root: PathBuf,
}

/// The threads of a shard, for whoever started it.
pub struct Threads {
    shard: Arc<Shard>,
    keeper: JoinHandle<()>,
}

impl Shard {
    /// Opens the shard's store under `root` and starts its threads. `failed` is called, on one of
    /// them, when the log fails, or when the state does and opening it again did not help; the
    /// process must then end.
    ///
    /// # Errors
    /// When the store is refused or a thread cannot be started.
    pub fn start(
        root: &Path,
        options: StoreOptions,
        failed: impl Fn(ShardError) + Send + Sync + 'static,
    ) -> Result<(Arc<Self>, Threads), ShardError> {
        let directory = Directory::open(root)?;
        let failed: Arc<Failed> = Arc::new(failed);
        let Opening { parts, desk, store, recovered, replayed } =
            Opening::begin(&directory, &options, &failed)?;
        let shard = Arc::new(Self {
            combiner: Combiner::new(desk, Arc::new(Watches::default())),
            store: ArcSwap::from_pointee(store),
            reopened: AtomicU64::new(0),
            recovered,
            replayed,
            root: root.to_path_buf(),
        });
        let keeper = Keeper { shard: shard.clone(), directory, options, failed };
        let keeper = spawn("folder", move || keeper.keep(parts))?;
        Ok((shard.clone(), Threads { shard, keeper }))
    }

    /// Lets the sync thread take what was handed in. To be called by a thread that hands work in
    /// once it has nothing more to hand in for now; otherwise the work waits for a moment.
    pub fn commit_staged(&self) {
        self.combiner.commit_staged();
    }

    /// Hands work in, to be committed after [`Shard::commit_staged`]. The receiver answers with the same work when it is done, or with an error
    /// when the shard has ended: then nothing is known of what became of it.
    pub fn submit(&self, mut work: Work) -> oneshot::Receiver<Work> {
        let (done, receiver) = oneshot::channel();
        work.done = Some(done);
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

    /// What recovery found when the shard was started.
    pub const fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Records that were replayed when the shard was started.
    pub const fn replayed(&self) -> u64 {
        self.replayed
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Threads {
    /// Takes no more work, finishes what was handed in, folds everything and flushes, so that the
    /// next start has nothing to replay. Blocks until that is done.
    pub fn stop(self) {
        self.shard.combiner.close();
        self.keeper.join().expect("a panic ends the process");
    }
}

pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShardError> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(ShardError::Thread)
}

/// Commits what is staged and answers its work, until the queue is closed.
pub(super) fn sync_until_closed(
    mut syncer: Syncer,
    staged: &Queue<Staged>,
) -> Result<(), LogError> {
    let is_empty = |staged: &Staged| staged.works.is_empty();
    loop {
        match staged.take(is_empty, Some(syncer.patience().unwrap_or(IDLE_BEFORE_MARK))) {
            Taken::All(Staged { batch, works }) => {
                if let Some(batch) = batch {
                    syncer.commit(batch)?;
                }
                works.into_iter().for_each(answer);
            }
            Taken::Nothing => syncer.idle()?,
            Taken::Closed => return syncer.close(),
        }
    }
}

fn answer(mut work: Work) {
    if let Some(done) = work.done.take() {
        // The connection may have gone meanwhile; what it wrote stays.
        let _ = done.send(work);
    }
}
