//! A turn of a thread that serves connections: what it does from one rest to the next.
//!
//! What its connections stage is committed when it ends (docs/adr/0007-a-runtime-a-thread.md). While
//! some are always ready the thread never rests, so that it must end its turn now and then without.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::yield_now;

use crate::shard::Mailbox;

/// A turn in which so many commands were read for ends, where each reads one small key some 0.3 ms after
/// it began: writes of the same thread wait for that. Pieces of work that write are bounded by who
/// stages them.
const READS_MAX: u32 = 256;

/// Where the others that are ready took longer than this, nobody gives way to them for a while: each
/// would wait for them twice.
const GIVING_WAY_MAX: Duration = Duration::from_millis(1);
/// For so many pipelines.
const HURRIED: u32 = 1_000;

/// The present turn of a thread.
pub(super) struct Turn {
    /// Lets the shard commit what was staged.
    commit: Box<dyn Fn() + Send + Sync>,
    mailbox: Arc<Mailbox>,
    /// Changed by the thread itself only.
    reads: AtomicU32,
    /// Pipelines for which nobody gives way. As above.
    hurried: AtomicU32,
}

impl Turn {
    pub(super) fn new(commit: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            commit: Box::new(commit),
            mailbox: Arc::default(),
            reads: AtomicU32::new(0),
            hurried: AtomicU32::new(0),
        }
    }

    /// Where the work comes back that the thread hands in.
    pub(super) const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Counts a command that was read for.
    pub(super) fn count_read(&self) {
        let reads = self.reads.load(Ordering::Relaxed) + 1;
        self.reads.store(reads, Ordering::Relaxed);
        if reads >= READS_MAX {
            self.end();
        }
    }

    /// Lets the others that are ready be served before replies are sent, unless that took long lately:
    /// replies that leave one after the other wake a client's process once
    /// (docs/adr/0019-replies-leave-together.md).
    pub(super) async fn give_way(&self) {
        if let Some(left) = self.hurried.load(Ordering::Relaxed).checked_sub(1) {
            self.hurried.store(left, Ordering::Relaxed);
            return;
        }
        let began = Instant::now();
        yield_now().await;
        if began.elapsed() > GIVING_WAY_MAX {
            self.hurried.store(HURRIED, Ordering::Relaxed);
        }
    }

    /// Ends it, and begins the next.
    pub(super) fn end(&self) {
        self.reads.store(0, Ordering::Relaxed);
        (self.commit)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_staged_beside_readers_that_never_rest_is_committed() {
        let commits = Arc::new(AtomicU32::new(0));
        let counted = commits.clone();
        let turn = Turn::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let read = |reads: u32| (0..reads).for_each(|_| turn.count_read());
        read(READS_MAX - 1);
        assert_eq!(commits.load(Ordering::Relaxed), 0);
        read(1);
        assert_eq!(commits.load(Ordering::Relaxed), 1);
        turn.end();
        read(READS_MAX);
        assert_eq!(commits.load(Ordering::Relaxed), 3, "a rest begins the count anew");
    }
}
