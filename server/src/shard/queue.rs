//! The queue from the writer to the sync thread. It hands over everything at once, so that a batch is
//! what gathered meanwhile.
//!
//! What is put in waits until somebody calls [`Queue::wake`], or until it is older than the patience
//! of who takes: a batch of all that a thread has to do costs the disk no more than one of the first
//! part of it.

use parking_lot::{Condvar, Mutex};

/// A queue that many fill and one empties.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    filled: Condvar,
    emptied: Condvar,
}

struct Waiting<T> {
    held: T,
    /// Whether something was added since it was last taken.
    filled: bool,
    /// Whether what is held is wanted now.
    wanted: bool,
    closed: bool,
}

impl<T: Default> Queue<T> {
    pub(super) fn new() -> Self {
        let waiting = Waiting { held: T::default(), filled: false, wanted: false, closed: false };
        Self { waiting: Mutex::new(waiting), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Adds to what is waiting; false if the queue was closed. `add` says whether it must be taken
    /// now.
    #[must_use]
    pub(super) fn add(&self, add: impl FnOnce(&mut T) -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return false;
        }
        let wanted = add(&mut waiting.held);
        waiting.filled = true;
        drop(waiting);
        if wanted {
            self.wake();
        }
        true
    }

    /// Lets what is held be taken, if there is anything.
    pub(super) fn wake(&self) {
        let mut waiting = self.waiting.lock();
        if waiting.filled && !waiting.wanted {
            waiting.wanted = true;
            drop(waiting);
            self.filled.notify_one();
        }
    }

    /// Takes everything once it is wanted; what there is, after `patience`.
    pub(super) fn take(
        &self,
        is_empty: impl Fn(&T) -> bool,
        patience: Option<std::time::Duration>,
    ) -> Taken<T> {
        let mut waiting = self.waiting.lock();
        while is_empty(&waiting.held) || !waiting.wanted {
            if waiting.closed && is_empty(&waiting.held) {
                return Taken::Closed;
            }
            if waiting.closed {
                break;
            }
            match patience {
                None => self.filled.wait(&mut waiting),
                Some(patience) => {
                    if self.filled.wait_for(&mut waiting, patience).timed_out() && !waiting.closed {
                        if is_empty(&waiting.held) {
                            return Taken::Nothing;
                        }
                        break;
                    }
                }
            }
        }
        let held = std::mem::take(&mut waiting.held);
        (waiting.filled, waiting.wanted) = (false, false);
        drop(waiting);
        self.emptied.notify_one();
        Taken::All(held)
    }

    /// Waits until what is held is no longer `too_much`, or the queue is closed.
    pub(super) fn wait_while(&self, too_much: impl Fn(&T) -> bool) {
        let mut waiting = self.waiting.lock();
        while too_much(&waiting.held) && !waiting.closed {
            waiting.wanted = true;
            self.filled.notify_one();
            self.emptied.wait(&mut waiting);
        }
    }

    /// Lets nothing more in. What is held is still taken.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }
}

/// What [`Queue::take`] found.
pub(super) enum Taken<T> {
    All(T),
    Nothing,
    Closed,
}
