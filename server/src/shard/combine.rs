//! The shard's one writer, without a thread of its own: whoever hands work in while nobody
//! evaluates does it, for all that are waiting (flat combining, Hendler et al., 2010).
//!
//! A thread of its own would be woken for nearly every write of a slow client, which costs more
//! than the write. Nobody waits for the lock of the writer: who does not get it leaves the work to
//! whom holds it. Evaluation may read from the disk and may wait for the fold; it then holds up
//! the thread it runs on; reads go on on the others, where there are any.

use std::{
    borrow::Cow,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use larder_storage::{Batch, Writer};
use parking_lot::{Mutex, MutexGuard};

use super::{evaluate::evaluate, mailbox, queue::Queue, watch::Watches, work::Work};
use crate::clock::wall_ms;

/// Evaluation waits for the sync thread while this much is staged: memory is bounded by it.
const STAGED_BYTES_MAX: usize = 64 << 20;
/// What was evaluated is staged once it is this much, though more work waits: so that the bounds on
/// what is staged and on what is not folded are looked at in between.
const BATCH_BYTES: usize = 16 << 20;
/// How long evaluation waits for room that other nodes must make.
const ROOM_PATIENCE: Duration = Duration::from_millis(50);
const ROOM_STEP: Duration = Duration::from_millis(1);

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
    /// What clients' writes are refused with, where this node does not take them.
    pub(super) closed_to_clients: Option<Cow<'static, str>>,
    /// Whether records become visible, and are folded, only once other nodes have them.
    pub(super) waits_for_others: bool,
}

/// When what is staged is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// At once: nobody will wake the sync thread for it.
    Now,
    /// When the thread that staged it has nothing to add.
    OnWake,
}

/// Where the writer is.
#[expect(clippy::large_enum_variant, reason = "there is one of it a shard")]
enum Place {
    Open(Desk),
    /// The state is being opened again: work waits.
    Suspended,
    /// The state is being replaced, which may take long: work is refused with this.
    Refusing(Cow<'static, str>),
}

/// The writer and those who wait for it.
pub(super) struct Combiner {
    /// `None` once the shard takes no more work: what is handed in then is dropped, which its
    /// connection sees.
    waiting: Mutex<Option<Vec<Work>>>,
    place: Mutex<Place>,
    /// That of the desk, or of the last one.
    staged: ArcSwap<Queue<Staged>>,
    watches: Arc<Watches>,
}

impl Combiner {
    pub(super) fn new(desk: Desk, watches: Arc<Watches>) -> Self {
        let staged = ArcSwap::new(desk.staged.clone());
        Self {
            waiting: Mutex::new(Some(Vec::new())),
            place: Mutex::new(Place::Open(desk)),
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
        while let Some(mut place) = self.place.try_lock() {
            match &mut *place {
                Place::Open(desk) => {
                    if !self.evaluate_waiting(desk) {
                        return;
                    }
                }
                Place::Suspended => return,
                Place::Refusing(why) => self.refuse_waiting(why),
            }
            drop(place);
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

    /// Does something with the writer, after whoever has it now; `None` where there is none at the
    /// moment. What was appended goes to the sync thread.
    pub(super) fn with_desk<T>(&self, run: impl FnOnce(&mut Desk) -> T) -> Option<T> {
        let mut place = self.place.lock();
        let Place::Open(desk) = &mut *place else { return None };
        let done = run(desk);
        desk.stage(Vec::new(), Urgency::Now);
        drop(place);
        // Whoever came meanwhile has left its work here.
        self.combine();
        Some(done)
    }

    /// Lets nothing more be evaluated: the state has failed. What was evaluated goes to the log all
    /// the same, and is answered; what waits goes on waiting. The sync thread then ends.
    pub(super) fn suspend(&self) {
        self.take_desk(Place::Suspended);
    }

    /// The same, and refuses what waits and what comes: the state is being replaced.
    pub(super) fn refuse_all(&self, why: Cow<'static, str>) {
        self.take_desk(Place::Refusing(why));
        self.combine();
    }

    fn take_desk(&self, instead: Place) {
        if let Place::Open(desk) = std::mem::replace(&mut *self.place.lock(), instead) {
            desk.staged.close();
        }
    }

    fn refuse_waiting(&self, why: &str) {
        let works = self.waiting.lock().as_mut().map(std::mem::take).unwrap_or_default();
        mailbox::answer(works.into_iter().map(|mut work| {
            work.refusal = Some(Cow::Owned(why.to_owned()));
            work
        }));
    }

    /// Goes on with the writer of a store that was opened again.
    pub(super) fn resume(&self, desk: Desk) {
        self.put(self.place.lock(), desk);
    }

    /// The same where the state had failed; false, and its sync thread ends, where all work has come to
    /// be refused meanwhile: the state is to be replaced.
    pub(super) fn resume_suspended(&self, desk: Desk) -> bool {
        let place = self.place.lock();
        if matches!(*place, Place::Refusing(_)) {
            desk.staged.close();
            return false;
        }
        self.put(place, desk);
        true
    }

    fn put(&self, mut place: MutexGuard<'_, Place>, desk: Desk) {
        if self.waiting.lock().is_none() {
            desk.end();
            return;
        }
        self.staged.store(desk.staged.clone());
        *place = Place::Open(desk);
        drop(place);
        self.combine();
    }

    /// Takes no more work, finishes what was handed in, and seals the top layer, so that all of it
    /// gets folded.
    pub(super) fn close(&self) {
        let mut place = self.place.lock();
        if let Place::Open(desk) = &mut *place {
            self.evaluate_waiting(desk);
        }
        let left = self.waiting.lock().take().unwrap_or_default();
        if let Place::Open(mut desk) = std::mem::replace(&mut *place, Place::Suspended) {
            // Where the state has failed what is left is dropped, which its connection sees.
            let _ = self.evaluate(&mut desk, left);
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
            desk.make_room();
            let left = if desk.writer.fold_failed() { works } else { self.evaluate(desk, works) };
            if !left.is_empty() {
                if let Some(waiting) = &mut *self.waiting.lock() {
                    waiting.splice(0..0, left);
                }
                return false;
            }
        }
    }

    /// Evaluates one after the other. Answers what was not, because the state has failed meanwhile.
    fn evaluate(&self, desk: &mut Desk, works: Vec<Work>) -> Vec<Work> {
        let (mut works, mut done) = (works.into_iter(), Vec::new());
        let (mut now_ms, mut had_room) = (wall_ms(), desk.writer.has_room());
        for mut work in works.by_ref() {
            evaluate(&mut work, desk, &self.watches, now_ms);
            done.push(work);
            let took_room = had_room && !desk.writer.has_room();
            if took_room || desk.writer.pending_bytes() >= BATCH_BYTES {
                desk.stage(std::mem::take(&mut done), Urgency::Now);
                desk.make_room();
                if desk.writer.fold_failed() {
                    break;
                }
                (now_ms, had_room) = (wall_ms(), desk.writer.has_room());
            }
        }
        desk.stage(done, Urgency::OnWake);
        works.collect()
    }
}

impl Desk {
    /// Before clients' work is evaluated: waits for the fold. Where the fold waits for other nodes,
    /// which may not come, only for a moment: writes are refused then.
    fn make_room(&self) {
        if !self.waits_for_others {
            return self.writer.wait_for_room();
        }
        let until = Instant::now() + ROOM_PATIENCE;
        while !self.writer.has_room() && Instant::now() < until {
            thread::sleep(ROOM_STEP);
        }
    }

    /// Hands what was appended to the sync thread, with the work that rests on it.
    fn stage(&mut self, mut works: Vec<Work>, urgency: Urgency) {
        let Self { writer, staged, .. } = self;
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
            urgency == Urgency::Now || staged.works.len() >= STAGED_WORKS
        });
    }

    /// Seals the top layer, so that everything gets folded, and lets the sync thread end.
    fn end(mut self) {
        self.writer.seal();
        self.staged.close();
    }
}

#[cfg(test)]
mod tests {
    use larder_storage::{Directory, StoreOptions, open, state::DatabaseOptions};

    use super::*;
    use crate::shard::queue::Taken;

    const MIB: usize = 1 << 20;
    const WORKS: usize = 20;
    const VALUE_BYTES: usize = 8 * MIB;

    fn desk(writer: Writer, staged: &Arc<Queue<Staged>>) -> Desk {
        let (closed_to_clients, waits_for_others) = (None, false);
        Desk { writer, staged: staged.clone(), closed_to_clients, waits_for_others }
    }

    fn put(number: usize) -> Work {
        Work::sets(&[(&format!("key:{number}"), &"v".repeat(VALUE_BYTES))])
    }

    #[test]
    fn what_waits_is_not_staged_all_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 * MIB, 8 * MIB));
        options.reserve_bytes = 0;
        let opened = open(&directory, options, wall_ms(), 1).unwrap();
        let staged = Arc::new(Queue::<Staged>::new());
        let desk = desk(opened.writer, &staged);
        let combiner = Combiner::new(desk, Arc::default());
        thread::scope(|scope| {
            // All of it comes while somebody has the writer.
            scope
                .spawn(|| combiner.with_desk(|_| (0..WORKS).for_each(|n| combiner.submit(put(n)))));
            let (mut works, mut largest) = (0, 0);
            while works < WORKS {
                let is_empty = |staged: &Staged| staged.works.is_empty();
                let Taken::All(taken) = staged.take(is_empty, Some(Duration::from_secs(1))) else {
                    continue;
                };
                works += taken.works.len();
                largest = largest.max(taken.batch.map_or(0, |batch| batch.record_bytes()));
            }
            assert!(largest >= VALUE_BYTES);
            assert!(largest <= STAGED_BYTES_MAX + BATCH_BYTES + VALUE_BYTES, "{largest} at once");
        });
    }

    #[test]
    fn a_state_that_failed_and_is_to_be_replaced_takes_no_more_work() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 * MIB, 8 * MIB));
        options.reserve_bytes = 0;
        let mut queues = Vec::new();
        let mut opened = |run: u64| {
            let opened = open(&directory, options.clone(), wall_ms(), run).unwrap();
            let staged = Arc::new(Queue::new());
            queues.push(staged.clone());
            (desk(opened.writer, &staged), opened.store)
        };
        let (first, store) = opened(1);
        let combiner = Combiner::new(first, Arc::default());
        combiner.suspend();
        store.close();
        combiner.refuse_all("LOADING it is replaced".into());
        let (second, store) = opened(2);
        assert!(!combiner.resume_suspended(second));
        store.close();
        let mut work = put(1);
        let (done, mut answered) = tokio::sync::oneshot::channel();
        work.done = Some(done);
        combiner.submit(work);
        assert_eq!(answered.try_recv().unwrap().refusal.as_deref(), Some("LOADING it is replaced"));
        // What was to be opened then is.
        let (third, _store) = opened(3);
        combiner.resume(third);
        combiner.submit(put(2));
        combiner.commit_staged();
        let is_empty = |staged: &Staged| staged.works.is_empty();
        let mut taken = queues.iter().map(|queue| queue.take(is_empty, Some(Duration::ZERO)));
        assert!(matches!(taken.next(), Some(Taken::Closed)));
        assert!(matches!(taken.next(), Some(Taken::Closed)));
        assert!(matches!(taken.next(), Some(Taken::All(_))));
    }

    const SMALL_BYTES: usize = 1_000;
    const RUN: usize = 8;

    /// A pipeline of so many SETs.
    fn sets(number: usize) -> Work {
        let value = "x".repeat(SMALL_BYTES);
        let keys: Vec<_> = (0..RUN).map(|key| format!("key:{number}:{key}")).collect();
        let pairs: Vec<_> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
        Work::sets(&pairs)
    }

    #[test]
    fn work_that_waited_together_is_evaluated_as_far_as_there_is_room() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        (options.reserve_bytes, options.layer_bytes) = (0, 8 << 10);
        options.unapplied_bytes_max = 32 << 10;
        let most = options.unapplied_bytes_max as usize + 2 * SMALL_BYTES;
        let opened = open(&directory, options, 1_700_000_000_000, 1).unwrap();
        let (store, mut folder, mut syncer) = (opened.store, opened.folder, opened.syncer);
        let staged = Arc::new(Queue::new());
        let desk = desk(opened.writer, &staged);
        let combiner = Combiner::new(desk, Arc::new(Watches::default()));
        *combiner.waiting.lock() = Some((0..WORKS).map(sets).collect());
        let evaluating = thread::spawn(move || {
            combiner.combine();
            combiner.close();
        });
        let (mut done, mut takes) = (0, 0);
        while let Taken::All(Staged { batch, works }) =
            staged.take(|staged| staged.works.is_empty() && staged.batch.is_none(), None)
        {
            let unapplied = store.stats().unapplied_bytes as usize;
            assert!(unapplied <= most, "{unapplied} bytes of log are not folded");
            (done, takes) = (done + works.len(), takes + 1);
            if let Some(batch) = batch {
                syncer.commit(batch).unwrap();
            }
            while folder.fold_one().unwrap().is_continue() {}
        }
        evaluating.join().unwrap();
        assert_eq!(done, WORKS, "all work comes back");
        assert!(takes > WORKS * RUN * SMALL_BYTES / most / 2, "it came back in {takes} parts");
    }
}
