//! Digests at chosen positions: the fold pauses exactly there, and the state as it is then is read
//! beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use larder_types::SequenceNumber;
use parking_lot::Mutex;

use super::Shared;
use crate::{Applied, state::Digest};

/// What is wanted, and what was found.
#[derive(Default)]
pub(super) struct Digests {
    /// The record after which a digest is wanted; 0 for none.
    wanted: AtomicU64,
    /// One at a time.
    busy: AtomicBool,
    last: Mutex<Option<Digest>>,
}

impl Digests {
    pub(super) fn want(&self, seq: SequenceNumber) {
        self.wanted.store(seq.as_u64(), Ordering::Release);
    }

    /// Whether a layer has to end with record `seq`.
    pub(super) fn is_wanted(&self, seq: u64) -> bool {
        self.wanted.load(Ordering::Acquire) == seq
    }

    pub(super) fn last(&self) -> Option<Digest> {
        self.last.lock().clone()
    }

    /// The fold has applied everything up to `applied`: begins the digest that is wanted there.
    /// Returns once the state that it is of is held.
    pub(super) fn reached(&self, shared: &Arc<Shared>, applied: Applied) {
        let seq = applied.position.seq.as_u64();
        let wanted = self.is_wanted(seq)
            && self.wanted.compare_exchange(seq, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !wanted || self.busy.swap(true, Ordering::AcqRel) {
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
                    Ok(Some(digest)) => *digests.last.lock() = Some(digest),
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
