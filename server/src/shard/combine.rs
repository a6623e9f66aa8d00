//! The shard's one writer, without a thread of its own: whoever hands work in while nobody
//! evaluates does it, for all that are waiting (flat combining, Hendler et al., 2010).
//!
//! A thread of its own would be woken for nearly every write of a slow client, which costs more
//! than the write. Nobody waits for the lock of the writer: who does not get it leaves the work to
//! whom holds it. Evaluation may read from the disk and may wait for the fold; it then holds up
//! the thread it runs on, and reads go on on the others.

use std::sync::Arc;

use larder_storage::{Batch, Writer};
use parking_lot::Mutex;

use super::{evaluate::evaluate, queue::Queue, watch::Watches, work::Work};
use crate::clock::wall_ms;

/// Evaluation waits for the sync thread while this much is staged: memory is bounded by it.
const STAGED_BYTES_MAX: usize = 64 << 20;

/// What was evaluated and is not written yet.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) batch: Option<Batch>,
    pub(super) works: Vec<Work>,
}

/// The writer and those who wait for it.
pub(super) struct Combiner {
    /// `None` once the shard takes no more work: what is handed in then is dropped, which its
    /// connection sees.
    waiting: Mutex<Option<Vec<Work>>>,
    writer: Mutex<Writer>,
    staged: Arc<Queue<Staged>>,
    watches: Arc<Watches>,
}

impl Combiner {
    pub(super) fn new(writer: Writer, staged: Arc<Queue<Staged>>, watches: Arc<Watches>) -> Self {
        Self { waiting: Mutex::new(Some(Vec::new())), writer: Mutex::new(writer), staged, watches }
    }

    /// Hands work in, and evaluates all that is waiting unless somebody does that already.
    pub(super) fn submit(&self, work: Work) {
        match &mut *self.waiting.lock() {
            Some(waiting) => waiting.push(work),
            None => return,
        }
        // Whoever holds the writer looks once more after letting it go, so that work which was
        // handed in just before is not left behind.
        while let Some(mut writer) = self.writer.try_lock() {
            self.evaluate_waiting(&mut writer);
            drop(writer);
            if self.waiting.lock().as_ref().is_none_or(Vec::is_empty) {
                break;
            }
        }
    }

    /// Takes no more work, finishes what was handed in, and seals the top layer, so that all of it
    /// gets folded.
    pub(super) fn close(&self) {
        let mut writer = self.writer.lock();
        self.evaluate_waiting(&mut writer);
        let left = self.waiting.lock().take().unwrap_or_default();
        self.evaluate(&mut writer, left);
        writer.seal();
        self.staged.close();
    }

    fn evaluate_waiting(&self, writer: &mut Writer) {
        loop {
            let works = match &mut *self.waiting.lock() {
                Some(waiting) => std::mem::take(waiting),
                None => return,
            };
            if works.is_empty() {
                return;
            }
            self.evaluate(writer, works);
        }
    }

    fn evaluate(&self, writer: &mut Writer, mut works: Vec<Work>) {
        writer.wait_for_room();
        let now_ms = wall_ms();
        for work in &mut works {
            evaluate(work, writer, &self.watches, now_ms);
        }
        self.staged.wait_while(|staged| {
            staged.batch.as_ref().is_some_and(|batch| batch.record_bytes() > STAGED_BYTES_MAX)
        });
        let batch = writer.take_batch();
        // Where the sync thread has ended, the work is dropped, which its connection sees.
        let _ = self.staged.add(|staged| {
            match (&mut staged.batch, batch) {
                (Some(waiting), Some(batch)) => waiting.extend(batch),
                (waiting @ None, batch) => *waiting = batch,
                (Some(_), None) => {}
            }
            staged.works.append(&mut works);
        });
    }
}
