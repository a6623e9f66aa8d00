//! A turn of a thread that serves connections: what it does from one rest to the next.
//!
//! What its connections stage is committed when it ends (docs/adr/0007-a-runtime-a-thread.md). While
//! some are always ready the thread never rests, so that it must end its turn now and then without.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::shard::Mailbox;

/// A turn in which so many commands were read for ends, where each reads one small key some 0.3 ms after
/// it began: writes of the same thread wait for that. Pieces of work that write are bounded by who
/// stages them.
const READS_MAX: u32 = 256;

/// The present turn of a thread.
pub(super) struct Turn {
    /// Lets the shard commit what was staged.
    commit: Box<dyn Fn() + Send + Sync>,
    mailbox: Arc<Mailbox>,
    /// Changed by the thread itself only.
    reads: AtomicU32,
}

impl Turn {
    pub(super) fn new(commit: impl Fn() + Send + Sync + 'static) -> Self {
        Self { commit: Box::new(commit), mailbox: Arc::default(), reads: AtomicU32::new(0) }
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
