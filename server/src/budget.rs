//! What the requests of all clients may take of the node's memory together, and what their replies.
//!
//! One client's bounds are generous, and there may be ten thousand: each counts what it holds here.
//! Requests wait for room. Replies do not, because it is for their reader to give it: they are
//! counted when they are there, and beyond the budget reads are refused, and who holds most is closed.
//! A value that a reply shares with the store counts like one that was copied: the store may drop it, and
//! then the reply alone keeps it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// What a client may hold uncounted: the buffer of one that is idle, or sends small requests.
const UNCOUNTED_BYTES: usize = 32 << 10;
/// Bytes are counted in steps of this, so that small changes cost nothing.
const STEP_BYTES: usize = 64 << 10;

/// The bytes that the requests, or the replies, of all clients take.
pub struct Budget {
    /// As users call it.
    what: &'static str,
    bytes_max: usize,
    held: AtomicUsize,
    freed: Notify,
}

/// What one client has of it; given back when dropped.
pub struct Share {
    budget: Arc<Budget>,
    /// A multiple of [`STEP_BYTES`].
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes, for this.
    pub fn new(what: &'static str, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { what, bytes_max, held: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// Bytes that are counted now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that are counted beyond the budget.
    pub fn excess(&self) -> usize {
        self.held().saturating_sub(self.bytes_max)
    }

    /// Whether no more than half of it is counted now.
    pub fn is_half_free(&self) -> bool {
        self.held() <= self.bytes_max / 2
    }

    /// What a client is told whose share cannot grow.
    pub fn refusal(&self) -> String {
        format!(
            "ERR the {} of all clients together would take more than {} bytes; try again later",
            self.what, self.bytes_max
        )
    }
}

impl Share {
    /// A share of nothing.
    pub fn of(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// Changes the share to what a client holds that has `bytes`; false, and nothing is changed, where
    /// there is no room.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        self.resize_within(bytes, self.budget.bytes_max)
    }

    /// Changes the share to what a client holds that has `bytes`, whether there is room or not.
    pub fn hold(&mut self, bytes: usize) {
        let _ = self.resize_within(bytes, usize::MAX);
    }

    /// Bytes that are counted.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it is a share of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    fn resize_within(&mut self, bytes: usize, bytes_max: usize) -> bool {
        let wanted = bytes.saturating_sub(UNCOUNTED_BYTES).next_multiple_of(STEP_BYTES);
        let Budget { held, freed, .. } = &*self.budget;
        if wanted > self.bytes {
            let more = wanted - self.bytes;
            let grow = |held: usize| held.checked_add(more).filter(|held| *held <= bytes_max);
            if held.fetch_update(Ordering::AcqRel, Ordering::Acquire, grow).is_err() {
                return false;
            }
        } else if wanted < self.bytes {
            held.fetch_sub(self.bytes - wanted, Ordering::AcqRel);
            freed.notify_waiters();
        }
        self.bytes = wanted;
        true
    }

    /// The same, and waits for others to give back where there is no room.
    pub async fn resize_when_possible(&mut self, bytes: usize) {
        while !self.resize(bytes) {
            let budget = self.budget.clone();
            let mut freed = std::pin::pin!(budget.freed.notified());
            freed.as_mut().enable();
            // What was given back just before is not told of any more.
            if self.resize(bytes) {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn shares_grow_up_to_the_budget_and_are_given_back() {
        let budget = Budget::new("requests", 2 * MIB);
        let (mut one, mut other) = (Share::of(&budget), Share::of(&budget));
        assert!(one.resize(UNCOUNTED_BYTES));
        assert_eq!(budget.held(), 0, "who holds little is not counted");
        assert!(one.resize(MIB) && other.resize(MIB));
        let held = budget.held();
        assert!(!one.resize(2 * MIB));
        assert_eq!(budget.held(), held, "what is refused changes nothing");
        assert!(other.resize(0) && one.resize(2 * MIB));
        drop((one, other));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn what_is_held_beyond_the_budget_is_its_excess_until_it_is_given_back() {
        let budget = Budget::new("replies", MIB);
        let (mut one, mut other) = (Share::of(&budget), Share::of(&budget));
        one.hold(MIB);
        assert_eq!(budget.excess(), 0);
        assert!(!budget.is_half_free());
        other.hold(MIB);
        assert_eq!(budget.excess(), one.bytes() + other.bytes() - MIB);
        drop(one);
        assert_eq!(budget.excess(), 0);
        other.hold(MIB / 2);
        assert!(budget.is_half_free());
        assert!(budget.refusal().starts_with("ERR the replies of all clients together"));
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_another_gives_back() {
        let budget = Budget::new("requests", MIB);
        let (mut one, mut other) = (Share::of(&budget), Share::of(&budget));
        assert!(one.resize(MIB));
        let waits = tokio::spawn(async move {
            other.resize_when_possible(MIB).await;
            other
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(one);
        let other = waits.await.expect("it ends");
        assert!(budget.held() >= MIB - UNCOUNTED_BYTES);
        drop(other);
    }
}
