//! The queue from the writer to the sync thread. It hands over everything at once, so that a batch is
//! what gathered meanwhile.

use parking_lot::{Condvar, Mutex};

/// A queue that many fill and one empties.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    filled: Condvar,
    emptied: Condvar,
}

struct Waiting<T> {
    held: T,
    closed: bool,
}

impl<T: Default> Queue<T> {
    pub(super) fn new() -> Self {
        let waiting = Waiting { held: T::default(), closed: false };
        Self { waiting: Mutex::new(waiting), filled: Condvar::new(), emptied: Condvar::new() }
    }

    /// Adds to what is waiting; false if the queue was closed.
    #[must_use]
    pub(super) fn add(&self, add: impl FnOnce(&mut T)) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return false;
        }
        add(&mut waiting.held);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// Takes everything once there is something; `None` when closed and empty, or after `patience`.
    pub(super) fn take(
        &self,
        is_empty: impl Fn(&T) -> bool,
        patience: Option<std::time::Duration>,
    ) -> Taken<T> {
        let mut waiting = self.waiting.lock();
        while is_empty(&waiting.held) {
            if waiting.closed {
                return Taken::Closed;
            }
            match patience {
                None => self.filled.wait(&mut waiting),
                Some(patience) => {
                    if self.filled.wait_for(&mut waiting, patience).timed_out()
                        && is_empty(&waiting.held)
                        && !waiting.closed
                    {
                        return Taken::Nothing;
                    }
                }
            }
        }
        let held = std::mem::take(&mut waiting.held);
        drop(waiting);
        self.emptied.notify_one();
        Taken::All(held)
    }

    /// Waits until what is held is no longer `too_much`, or the queue is closed.
    pub(super) fn wait_while(&self, too_much: impl Fn(&T) -> bool) {
        let mut waiting = self.waiting.lock();
        while too_much(&waiting.held) && !waiting.closed {
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
