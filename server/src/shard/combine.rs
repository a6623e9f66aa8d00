//! The shard's one writer, without a thread of its own: whoever hands work in while nobody
//! evaluates does it, for all that are waiting (flat combining, Hendler et al., 2010).
//!
//! A thread of its own would be woken for nearly every write of a slow client, which costs more
//! than the write. Nobody waits for the lock of the writer: who does not get it leaves the work to
//! whom holds it. Evaluation may read from the disk and may wait for the fold; it then holds up
//! the thread it runs on, and reads go on on the others.

use std::sync::Arc;

use arc_swap::ArcSwap;
use larder_storage::{Batch, Writer};
use parking_lot::Mutex;

use super::{evaluate::evaluate, queue::Queue, watch::Watches, work::Work};
use crate::clock::wall_ms;

/// Evaluation waits for the sync thread while this much is staged: memory is bounded by it.
const STAGED_BYTES_MAX: usize = 64 << 20;

/// The sync thread is woken once so many pieces of work are staged, though the thread that stages
/// them has more to do: it must not starve those that wait.
const STAGED_WORKS: usize = 64;

/// What was evaluated and is not written yet.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) batch: Option<Batch>,
    pub(super) works: Vec<Work>,
}

/// The writer, and the way from it to the sync thread of the same opening.
pub(super) struct Desk {
    pub(super) writer: Writer,
    pub(super) staged: Arc<Queue<Staged>>,
}

/// The writer and those who wait for it.
pub(super) struct Combiner {
    /// `None` once the shard takes no more work: what is handed in then is dropped, which its
    /// connection sees.
    waiting: Mutex<Option<Vec<Work>>>,
    /// `None` while the state is being opened again: work waits.
    desk: Mutex<Option<Desk>>,
    /// That of the desk, or of the last one.
    staged: ArcSwap<Queue<Staged>>,
    watches: Arc<Watches>,
}

impl Combiner {
    pub(super) fn new(desk: Desk, watches: Arc<Watches>) -> Self {
        let staged = ArcSwap::new(desk.staged.clone());
        Self {
            waiting: Mutex::new(Some(Vec::new())),
            desk: Mutex::new(Some(desk)),
            staged,
            watches,
        }
    }

    /// Hands work in, and evaluates all that is waiting unless somebody does that already.
    pub(super) fn submit(&self, work: Work) {
        match &mut *self.waiting.lock() {
            Some(waiting) => waiting.push(work),
            None => return,
        }
        self.combine();
    }

    fn combine(&self) {
        // Whoever holds the writer looks once more after letting it go, so that work which was
        // handed in just before is not left behind.
        while let Some(mut desk) = self.desk.try_lock() {
            let Some(open) = &mut *desk else { return };
            if !self.evaluate_waiting(open) {
                return;
            }
            drop(desk);
            if self.waiting.lock().as_ref().is_none_or(Vec::is_empty) {
                break;
            }
        }
    }

    /// Lets the sync thread take what is staged: the calling thread has nothing to add.
    pub(super) fn commit_staged(&self) {
        self.staged.load().wake();
    }

    pub(super) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Lets nothing more be evaluated: the state has failed. What was evaluated goes to the log all
    /// the same, and is answered; what waits goes on waiting. The sync thread then ends.
    pub(super) fn suspend(&self) {
        if let Some(desk) = self.desk.lock().take() {
            desk.staged.close();
        }
    }

    /// Goes on with the writer of a store that was opened again.
    pub(super) fn resume(&self, desk: Desk) {
        let mut place = self.desk.lock();
        if self.waiting.lock().is_none() {
            desk.end();
            return;
        }
        self.staged.store(desk.staged.clone());
        *place = Some(desk);
        drop(place);
        self.combine();
    }

    /// Takes no more work, finishes what was handed in, and seals the top layer, so that all of it
    /// gets folded.
    pub(super) fn close(&self) {
        let mut place = self.desk.lock();
        if let Some(desk) = &mut *place {
            self.evaluate_waiting(desk);
        }
        let left = self.waiting.lock().take().unwrap_or_default();
        if let Some(mut desk) = place.take() {
            self.evaluate(&mut desk, left);
            desk.end();
        }
    }

    /// False when the state has failed: then what is waiting still waits.
    fn evaluate_waiting(&self, desk: &mut Desk) -> bool {
        loop {
            let works = match &mut *self.waiting.lock() {
                Some(waiting) => std::mem::take(waiting),
                None => return true,
            };
            if works.is_empty() {
                return true;
            }
            desk.writer.wait_for_room();
            if desk.writer.state_failed() {
                if let Some(waiting) = &mut *self.waiting.lock() {
                    waiting.splice(0..0, works);
                }
                return false;
            }
            self.evaluate(desk, works);
        }
    }

    fn evaluate(&self, Desk { writer, staged }: &mut Desk, mut works: Vec<Work>) {
        let now_ms = wall_ms();
        for work in &mut works {
            evaluate(work, writer, &self.watches, now_ms);
        }
        staged.wait_while(|staged| {
            staged.batch.as_ref().is_some_and(|batch| batch.record_bytes() > STAGED_BYTES_MAX)
        });
        let batch = writer.take_batch();
        // Where the sync thread has ended, the work is dropped, which its connection sees.
        let _ = staged.add(|staged| {
            match (&mut staged.batch, batch) {
                (Some(waiting), Some(batch)) => waiting.extend(batch),
                (waiting @ None, batch) => *waiting = batch,
                (Some(_), None) => {}
            }
            staged.works.append(&mut works);
            staged.works.len() >= STAGED_WORKS
        });
    }
}

impl Desk {
    /// Seals the top layer, so that everything gets folded, and lets the sync thread end.
    fn end(mut self) {
        self.writer.seal();
        self.staged.close();
    }
}
