//! The threads of a shard, from its opening to its end.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use larder_storage::{
    Directory, DirectoryError, Folder, LogError, Recovered, Store, StoreError, StoreOptions,
    Syncer, open,
};
use tokio::sync::oneshot;

use super::{
    combine::{Combiner, Staged},
    queue::{Queue, Taken},
    watch::Watches,
    work::Work,
};
use crate::clock::wall_ms;

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
    /// The store was refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be started.
    #[error("start a thread of the shard: {0}")]
    Thread(io::Error),
}

/// A shard at work; a handle for connections.
pub struct Shard {
    combiner: Arc<Combiner>,
    store: Store,
    watches: Arc<Watches>,
    recovered: Recovered,
    replayed: u64,
    root: PathBuf,
}

/// The threads of a shard, for whoever started it.
pub struct Threads {
    combiner: Arc<Combiner>,
    store: Store,
    syncer: JoinHandle<()>,
    folder: JoinHandle<()>,
    _directory: Directory,
}

impl Shard {
    /// Opens the shard's store under `root` and starts its threads. `failed` is called, on the
    /// sync thread, when the log fails; the process must then end.
    ///
    /// # Errors
    /// When the store is refused or a thread cannot be started.
    pub fn start(
        root: &Path,
        options: StoreOptions,
        epoch_id: u64,
        failed: impl FnOnce(LogError) + Send + 'static,
    ) -> Result<(Arc<Self>, Threads), ShardError> {
        let directory = Directory::open(root)?;
        let opened = open(&directory, options, wall_ms(), epoch_id)?;
        let staged = Arc::new(Queue::<Staged>::new());
        let watches = Arc::new(Watches::default());
        let combiner = Combiner::new(opened.writer, staged.clone(), watches.clone());
        let combiner = Arc::new(combiner);
        let (folder, syncer) = (opened.folder, opened.syncer);
        let sync = move || {
            if let Err(error) = sync_until_closed(syncer, &staged) {
                staged.close();
                failed(error);
            }
        };
        let shard = Arc::new(Self {
            combiner: combiner.clone(),
            store: opened.store.clone(),
            watches,
            recovered: opened.recovered,
            replayed: opened.replayed,
            root: root.to_path_buf(),
        });
        let threads = Threads {
            combiner,
            store: opened.store,
            syncer: spawn("syncer", sync)?,
            folder: spawn("folder", move || fold_until_stopped(folder))?,
            _directory: directory,
        };
        Ok((shard, threads))
    }

    /// Hands work in. The receiver answers with the same work when it is done, or with an error
    /// when the shard has ended: then nothing is known of what became of it.
    pub fn submit(&self, mut work: Work) -> oneshot::Receiver<Work> {
        let (done, receiver) = oneshot::channel();
        work.done = Some(done);
        self.combiner.submit(work);
        receiver
    }

    /// The store, for reading.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The watched keys.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// What recovery found when the shard was opened.
    pub const fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Records that were replayed when the shard was opened.
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
        self.combiner.close();
        let joined = "a panic ends the process";
        self.syncer.join().expect(joined);
        self.store.stop_folding();
        self.folder.join().expect(joined);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShardError> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(ShardError::Thread)
}

fn sync_until_closed(mut syncer: Syncer, staged: &Queue<Staged>) -> Result<(), LogError> {
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

fn fold_until_stopped(folder: Folder) {
    if let Err(error) = folder.run() {
        tracing::error!(%error, "the fold ended");
    }
}
