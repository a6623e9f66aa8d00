//! Keeps a shard's state: folds into it, and opens it again when it fails.
//!
//! A failure of RocksDB costs nothing that was acknowledged, because the log has it. So the shard
//! closes and opens itself again, from what RocksDB has on disk and the log:
//!
//! 1. Nothing more is evaluated; work that comes waits. What was evaluated is committed to the log
//!    and answered, and the sync thread ends with the log closed.
//! 2. The database is closed, once the reads of it that go on have ended. Until the next step,
//!    reads of what is in memory are answered, and others are refused for the time being.
//! 3. The directory is opened again, which replays what the state lacks, and work goes on.
//!
//! A state that fails again soon after that is beyond this cure: the process ends.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use larder_storage::{
    Directory, Folder, Recovered, Store, StoreOptions, open,
    store::{FoldError, Opened},
};
use rand::Rng as _;

use super::{
    combine::Desk,
    queue::Queue,
    threads::{Failed, Shard, ShardError, spawn, sync_until_closed},
};
use crate::clock::wall_ms;

/// A state that fails within this time of having been opened again is given up.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What works while a store is open, beside the desk.
pub(super) struct Parts {
    folder: Folder,
    /// Ends when the desk is closed or the log fails, and then lets the fold end.
    syncer: JoinHandle<()>,
    store: Store,
}

/// A store that was opened, with its sync thread at work.
pub(super) struct Opening {
    pub(super) parts: Parts,
    pub(super) desk: Desk,
    pub(super) store: Store,
    pub(super) recovered: Recovered,
    pub(super) replayed: u64,
}

impl Opening {
    pub(super) fn begin(
        directory: &Directory,
        options: &StoreOptions,
        failed: &Arc<Failed>,
    ) -> Result<Self, ShardError> {
        let epoch_id = rand::rng().random();
        let opened = open(directory, options.clone(), wall_ms(), epoch_id)?;
        let Opened { writer, syncer, folder, store, recovered, replayed, .. } = opened;
        let staged = Arc::new(Queue::new());
        let desk = Desk { writer, staged: staged.clone() };
        let sync = {
            let (store, failed) = (store.clone(), failed.clone());
            move || {
                if let Err(error) = sync_until_closed(syncer, &staged) {
                    staged.close();
                    failed(error.into());
                }
                store.stop_folding();
            }
        };
        let parts = Parts { folder, syncer: spawn("syncer", sync)?, store: store.clone() };
        Ok(Self { parts, desk, store, recovered, replayed })
    }
}

/// The fold thread's part of a shard.
pub(super) struct Keeper {
    pub(super) shard: Arc<Shard>,
    pub(super) directory: Directory,
    pub(super) options: StoreOptions,
    pub(super) failed: Arc<Failed>,
}

impl Keeper {
    /// Folds until the shard is closed, and opens the state again when it fails.
    pub(super) fn keep(self, mut parts: Parts) {
        let mut reopened_at: Option<Instant> = None;
        loop {
            let Parts { folder, syncer, store } = parts;
            let folded = folder.run();
            if folded.is_err() {
                self.shard.combiner.suspend();
            }
            syncer.join().expect("a panic ends the process");
            let why = match folded {
                Ok(()) => return,
                Err(FoldError::State(why)) if !store.log().poisoned() => why,
                Err(FoldError::Log(error)) => return (self.failed)(error.into()),
                // The sync thread has told of the log.
                Err(_) => return,
            };
            if reopened_at.is_some_and(|at| at.elapsed() < HEALTHY_AFTER) {
                return (self.failed)(ShardError::State(why));
            }
            parts = match self.reopen(&store) {
                Ok(parts) => parts,
                Err(ShardError::Store(error)) => {
                    return (self.failed)(ShardError::Reopening(error));
                }
                Err(error) => return (self.failed)(error),
            };
            reopened_at = Some(Instant::now());
        }
    }

    fn reopen(&self, store: &Store) -> Result<Parts, ShardError> {
        let began = Instant::now();
        store.close();
        let closed_after = began.elapsed();
        let opening = Opening::begin(&self.directory, &self.options, &self.failed)?;
        self.shard.store.store(Arc::new(opening.store));
        self.shard.reopened.fetch_add(1, Ordering::Relaxed);
        self.shard.combiner.resume(opening.desk);
        tracing::warn!(
            replayed = opening.replayed,
            ?closed_after,
            took = ?began.elapsed(),
            "the state was opened again"
        );
        Ok(opening.parts)
    }
}
