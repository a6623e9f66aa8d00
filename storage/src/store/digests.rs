//! Digests after every so many records: the fold pauses exactly there, and the state as it is then is
//! read beside it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use parking_lot::Mutex;

use super::Shared;
use crate::{Applied, state::Digest};

/// Digests that nobody has taken yet, at most: the oldest goes first.
const FINISHED_MAX: usize = 64;

/// Whether a layer has to end with record `seq`, for a digest of the state after it.
pub(super) const fn is_wanted(every: u64, seq: u64) -> bool {
    every != 0 && seq.is_multiple_of(every)
}

/// What was found.
#[derive(Default)]
pub(super) struct Digests {
    /// One at a time.
    busy: AtomicBool,
    finished: Mutex<VecDeque<Digest>>,
}

impl Digests {
    /// Those that were finished since this was asked before, oldest first.
    pub(super) fn take(&self) -> Vec<Digest> {
        self.finished.lock().drain(..).collect()
    }

    fn finish(&self, digest: Digest) {
        let mut finished = self.finished.lock();
        if finished.len() == FINISHED_MAX {
            finished.pop_front();
        }
        finished.push_back(digest);
    }

    /// The fold has applied everything up to `applied`: begins the digest that is wanted there.
    /// Returns once the state that it is of is held.
    pub(super) fn reached(&self, shared: &Arc<Shared>, applied: Applied) {
        let seq = applied.position.seq.as_u64();
        if !is_wanted(shared.options.digest_every, seq) {
            return;
        }
        if self.busy.swap(true, Ordering::AcqRel) {
            tracing::info!(
                record = seq,
                "no digest of the state is made here: the one before is still under way"
            );
            return;
        }
        let (held, holding) = mpsc::channel::<()>();
        let shared = shared.clone();
        let reader = thread::Builder::new().name("digest".into()).spawn(move || {
            let digests = &shared.digests;
            if let Some(database) = shared.database.load_full() {
                // Whoever closes the store waits for this reader.
                let go_on = || {
                    let ending = shared.fold.stop.load(Ordering::Acquire);
                    !ending && shared.failure.get().is_none() && shared.database.load().is_some()
                };
                match database.digest(applied, || drop(held), &go_on) {
                    Ok(Some(digest)) => digests.finish(digest),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "a digest of the state failed"),
                }
            }
            digests.busy.store(false, Ordering::Release);
        });
        match reader {
            // The sender is dropped, nothing is ever sent.
            Ok(_) => drop(holding.recv()),
            Err(error) => {
                tracing::warn!(%error, "no thread for a digest of the state");
                self.busy.store(false, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_types::{Epoch, Position, SequenceNumber};

    use super::*;

    #[test]
    fn each_is_taken_once_and_of_very_many_the_newest() {
        let digests = Digests::default();
        let epoch = Epoch { term: 1, run: 1, id: 1 };
        let numbers = 1..=FINISHED_MAX as u64 + 2;
        for seq in numbers.clone().filter_map(SequenceNumber::new) {
            digests.finish(Digest { position: Position { epoch, seq }, hash: [0; 32], keys: 0 });
        }
        let taken: Vec<_> = digests.take().iter().map(|it| it.position.seq.as_u64()).collect();
        assert_eq!(taken, numbers.skip(2).collect::<Vec<_>>());
        assert!(digests.take().is_empty());
    }

    #[test]
    fn none_is_wanted_where_there_is_no_interval() {
        assert!((1..10).all(|seq| !is_wanted(0, seq)));
        assert!(is_wanted(5, 5) && !is_wanted(5, 6) && is_wanted(5, 10));
    }
}
