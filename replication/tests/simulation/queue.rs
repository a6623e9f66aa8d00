//! What will happen, in the order of virtual time. What falls on one microsecond happens in the
//! order in which it was planned, so that a run is the same every time.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Microseconds since the run began. No node sees them: each has a clock of its own.
pub(crate) type Time = u64;

/// One millisecond of virtual time.
pub(crate) const MS: Time = 1_000;
/// One second of virtual time.
pub(crate) const SECOND: Time = 1_000 * MS;

/// The events to come.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<Planned<E>>>,
    planned: u64,
    now: Time,
}

struct Planned<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0, now: 0 }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Lets `event` happen `delay` from now.
    pub(crate) fn after(&mut self, delay: Time, event: E) {
        self.at(self.now + delay, event);
    }

    /// Lets `event` happen at `at`, or now where that is past.
    pub(crate) fn at(&mut self, at: Time, event: E) {
        self.planned += 1;
        let planned = Planned { at: at.max(self.now), number: self.planned, event };
        self.heap.push(Reverse(planned));
    }

    /// Moves the time to the next event, unless that is later than `end`.
    pub(crate) fn next_until(&mut self, end: Time) -> Option<E> {
        if self.heap.peek()?.0.at > end {
            self.now = end;
            return None;
        }
        let Reverse(planned) = self.heap.pop()?;
        self.now = planned.at;
        Some(planned.event)
    }
}

impl<E> Planned<E> {
    fn key(&self) -> (Time, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
