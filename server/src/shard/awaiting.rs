//! Work that is durable here and has not reached the namespace's level yet.
//!
//! It is answered when its records are committed; or, once its time is up or nobody can commit it
//! any more, with a refusal that says what is not known. Nothing waits here for longer than that.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use larder_types::AckLevel;
use parking_lot::Mutex;

use super::{mailbox, work::Work};

/// The work of a shard that waits for other nodes. A connection has one work under way at a time,
/// so that there is never more of it than there are clients.
pub(super) struct Awaiting {
    queue: Mutex<VecDeque<Waiting>>,
    level: AckLevel,
    patience: Duration,
    undecided: AtomicU64,
}

struct Waiting {
    /// The last record that the work wrote or may have seen.
    seq: u64,
    until: Instant,
    work: Work,
}

impl Awaiting {
    pub(super) fn new(level: AckLevel, patience: Duration) -> Self {
        let (queue, undecided) = (Mutex::default(), AtomicU64::new(0));
        Self { queue, level, patience, undecided }
    }

    /// Takes work that rests on the records up to `seq`.
    pub(super) fn add(&self, seq: u64, works: impl IntoIterator<Item = Work>) {
        let until = Instant::now() + self.patience;
        self.queue.lock().extend(works.into_iter().map(|work| Waiting { seq, until, work }));
    }

    /// Answers what rests on nothing beyond `visible`.
    pub(super) fn release(&self, visible: u64) {
        mailbox::answer(self.take_while(|waiting| waiting.seq <= visible));
    }

    /// Answers what has waited for too long.
    pub(super) fn expire(&self, now: Instant) {
        let late = self.take_while(|waiting| waiting.until <= now);
        let within = format!("within {} ms", self.patience.as_millis());
        self.refuse(late, &within);
    }

    /// Answers everything: this node can commit nothing any more.
    pub(super) fn give_up(&self) {
        let all = self.take_while(|_| true);
        self.refuse(all, "before this node ceased to be the master");
    }

    /// How much work was answered without anybody knowing what becomes of it.
    pub(super) fn undecided(&self) -> u64 {
        self.undecided.load(Ordering::Relaxed)
    }

    fn refuse(&self, works: impl Iterator<Item = Work>, when: &str) {
        mailbox::answer(works.map(|mut work| {
            self.undecided.fetch_add(1, Ordering::Relaxed);
            work.refusal = Some(undecided(self.level, when));
            work
        }));
    }

    fn take_while(&self, ready: impl Fn(&Waiting) -> bool) -> impl Iterator<Item = Work> {
        let mut queue = self.queue.lock();
        let count = queue.partition_point(ready);
        let taken: Vec<_> = queue.drain(..count).map(|waiting| waiting.work).collect();
        taken.into_iter()
    }
}

/// What a client is told whose write, or read, rests on records of which nobody knows whether they
/// will be applied.
pub(crate) fn undecided(level: AckLevel, when: &str) -> Cow<'static, str> {
    format!(
        "UNDECIDED what this rests on is on this node's disk, but was not committed at level {level} \
         {when}; it may yet be applied: read before you write it again"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::shard::Task;

    fn awaiting() -> Awaiting {
        Awaiting::new(AckLevel::Majority, Duration::from_secs(5))
    }

    fn work() -> (Work, oneshot::Receiver<Work>) {
        let (done, receiver) = oneshot::channel();
        let mut work = Work::of(Task::Seal);
        work.done = Some(done);
        (work, receiver)
    }

    #[test]
    fn work_is_answered_when_its_records_are_committed_and_not_before() {
        let awaiting = awaiting();
        let ((one, mut first), (two, mut second)) = (work(), work());
        awaiting.add(7, [one]);
        awaiting.add(9, [two]);
        awaiting.release(6);
        assert!(first.try_recv().is_err());
        awaiting.release(8);
        assert!(first.try_recv().is_ok_and(|work| work.refusal.is_none()));
        assert!(second.try_recv().is_err());
        awaiting.release(9);
        assert!(second.try_recv().is_ok());
        assert_eq!(awaiting.undecided(), 0);
    }

    #[test]
    fn work_that_waits_too_long_is_told_that_it_may_yet_be_applied() {
        let awaiting = awaiting();
        let (work, mut answer) = work();
        awaiting.add(7, [work]);
        awaiting.expire(Instant::now());
        assert!(answer.try_recv().is_err());
        awaiting.expire(Instant::now() + Duration::from_secs(6));
        let refusal = answer.try_recv().ok().and_then(|work| work.refusal);
        let refusal = refusal.expect("it is refused");
        assert!(refusal.starts_with("UNDECIDED ") && refusal.contains("majority"), "{refusal}");
        assert_eq!(awaiting.undecided(), 1);
    }

    #[test]
    fn nothing_waits_for_a_master_that_is_none_any_more() {
        let awaiting = awaiting();
        let (work, mut answer) = work();
        awaiting.add(7, [work]);
        awaiting.give_up();
        assert!(answer.try_recv().is_ok_and(|work| work.refusal.is_some()));
    }
}
