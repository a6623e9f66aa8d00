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
//!
//! The same closes the store for those who work on its directory: see [`super::pause`].

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use larder_storage::{
    Directory, Folder, Recovered, Store, StoreOptions, Visibility, open_as,
    store::{FoldError, OpenAs, Opened},
};
use larder_types::LogId;
use rand::Rng as _;

use super::{
    awaiting::Awaiting,
    combine::Desk,
    queue::Queue,
    threads::{Failed, Happened, Replicated, Shard, ShardError, spawn, sync_until_closed},
};
use crate::clock::wall_ms;

/// A state that fails within this time of having been opened again is given up.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What clients are told until a node of a cluster knows what it is.
const STARTING: &str = "LOADING this node does not know yet whether it is the master; try again";

/// What works while a store is open, beside the desk.
pub(super) struct Parts {
    folder: Folder,
    /// Ends when the desk is closed or the log fails, and then lets the preparer end, and the fold.
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

/// How a shard's store is opened, each time.
pub(super) struct Plan {
    pub(super) directory: Arc<Directory>,
    pub(super) options: StoreOptions,
    pub(super) replicated: Option<Replicated>,
    pub(super) awaiting: Option<Arc<Awaiting>>,
    pub(super) failed: Arc<Failed>,
}

impl Plan {
    /// Opens the store: as the master of its log where nobody else knows of it, else as a follower,
    /// which writes nothing and takes no writes until it is told to.
    pub(super) fn open(&self, new_log: Option<LogId>) -> Result<Opening, ShardError> {
        let (role, closed_to_clients) = match &self.replicated {
            None => {
                let epoch_id = rand::rng().random();
                (OpenAs::Master { wall_ms: wall_ms(), epoch_id }, None)
            }
            Some(_) => (OpenAs::Follower { log: new_log }, Some(STARTING.into())),
        };
        let opened = open_as(&self.directory, self.options.clone(), role)?;
        let Opened { writer, syncer, preparer, folder, store, recovered, replayed } = opened;
        if let Some(replicated) = &self.replicated {
            let tell = replicated.tell.clone();
            store.on_durable(move |seq| tell(Happened::Durable(seq)));
        }
        let staged = Arc::new(Queue::new());
        let waits_for_others = self.options.visibility == Visibility::Committed;
        let desk = Desk { writer, staged: staged.clone(), closed_to_clients, waits_for_others };
        let preparing = spawn("preparer", move || preparer.run())?;
        let sync = {
            let (store, failed, awaiting) =
                (store.clone(), self.failed.clone(), self.awaiting.clone());
            move || {
                if let Err(error) = sync_until_closed(syncer, &staged, &store, awaiting.as_deref())
                {
                    staged.close();
                    failed(error.into());
                }
                // It works in the log's directory, which others may take over from now on.
                preparing.join().expect("a panic ends the process");
                store.stop_folding();
            }
        };
        let parts = Parts { folder, syncer: spawn("syncer", sync)?, store: store.clone() };
        Ok(Opening { parts, desk, store, recovered, replayed })
    }
}

/// The part of a shard of the thread that keeps its store open.
pub(super) struct Keeper {
    pub(super) shard: Arc<Shard>,
    pub(super) plan: Plan,
}

impl Keeper {
    /// Folds until the shard is closed. Opens the state again when it fails, and when
    /// somebody has worked on its directory.
    pub(super) fn keep(self, mut parts: Parts) {
        let mut reopened_at: Option<Instant> = None;
        loop {
            let Parts { folder, syncer, store } = parts;
            let folded = folder.run();
            if folded.is_err() {
                self.shard.combiner.suspend();
            }
            syncer.join().expect("a panic ends the process");
            let reopened = match folded {
                Err(FoldError::Log(error)) => return (self.plan.failed)(error.into()),
                // The sync thread has told of the log.
                Err(_) if store.log().poisoned() => return,
                _ if self.shard.pause.is_asked() => match self.hand_over(&store) {
                    None => return,
                    Some(reopened) => reopened,
                },
                Ok(()) => return,
                Err(FoldError::State(why))
                    if reopened_at.is_some_and(|at| at.elapsed() < HEALTHY_AFTER) =>
                {
                    Err(ShardError::State(why))
                }
                Err(_) => {
                    reopened_at = Some(Instant::now());
                    self.reopen_failed(&store)
                }
            };
            parts = match reopened {
                Ok(parts) => parts,
                Err(error) => {
                    self.shard.pause.stop();
                    return (self.plan.failed)(error);
                }
            };
        }
    }

    /// Closes the store, waits until its directory has been worked on, and opens it again; `None`
    /// when the shard ends instead.
    fn hand_over(&self, store: &Store) -> Option<Result<Parts, ShardError>> {
        store.close();
        let new_log = self.shard.pause.closed()?;
        let opened = self.open_again(new_log).map(|(parts, desk)| {
            self.shard.combiner.resume(desk);
            self.shard.pause.opened();
            parts
        });
        Some(opened)
    }

    fn reopen_failed(&self, store: &Store) -> Result<Parts, ShardError> {
        let began = Instant::now();
        store.close();
        let closed_after = began.elapsed();
        if let Some(replicated) = &self.plan.replicated {
            (replicated.tell)(Happened::Failed);
        }
        let (parts, desk) = self.open_again(None).map_err(|error| match error {
            ShardError::Store(error) => ShardError::Reopening(error),
            error => error,
        })?;
        self.shard.reopened.fetch_add(1, Ordering::Relaxed);
        let took = began.elapsed();
        tracing::warn!(?closed_after, ?took, "the state was opened again");
        if self.shard.combiner.resume_suspended(desk)
            && let Some(replicated) = &self.plan.replicated
        {
            (replicated.tell)(Happened::Reopened(parts.store.clone()));
        }
        Ok(parts)
    }

    fn open_again(&self, new_log: Option<LogId>) -> Result<(Parts, Desk), ShardError> {
        let opening = self.plan.open(new_log)?;
        tracing::info!(replayed = opening.replayed, "the store is open again");
        self.shard.store.store(Arc::new(opening.store));
        Ok((opening.parts, opening.desk))
    }
}
