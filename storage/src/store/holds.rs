//! The records at which somebody reads several things one after the other.
//!
//! Such a reader takes no part in what is visible: that moves on. What is held back for it are the
//! fold, and the dropping of versions that it may still ask for.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::Shared;
use crate::view::View;

/// Of a lowest record held, where there is none.
const NOTHING: u64 = u64::MAX;

/// What is held.
#[derive(Debug)]
pub(super) struct Holds {
    /// How many hold each record.
    held: Mutex<BTreeMap<u64, usize>>,
    /// The lowest of them.
    lowest: AtomicU64,
}

impl Default for Holds {
    fn default() -> Self {
        Self { held: Mutex::default(), lowest: AtomicU64::new(NOTHING) }
    }
}

impl Holds {
    /// The record below which no reader asks: the lowest held, or `visible` where that is lower.
    ///
    /// Whoever holds a record says so first, and then looks how far the watermark is. Here it is
    /// looked at in the other order: who is not seen to hold anything will read no lower than what
    /// is visible now. Both need all four in one order that everybody agrees on.
    pub(super) fn floor(&self, visible: &AtomicU64) -> u64 {
        let visible = visible.load(Ordering::SeqCst);
        visible.min(self.lowest.load(Ordering::SeqCst))
    }

    fn hold(&self, seq: u64) {
        let mut held = self.held.lock();
        *held.entry(seq).or_default() += 1;
        self.note(&held);
    }

    fn release(&self, seq: u64) {
        let mut held = self.held.lock();
        if let Some(count) = held.get_mut(&seq) {
            *count -= 1;
            if *count == 0 {
                held.remove(&seq);
            }
        }
        self.note(&held);
    }

    fn note(&self, held: &BTreeMap<u64, usize>) {
        let lowest = held.first_key_value().map_or(NOTHING, |(seq, _)| *seq);
        self.lowest.store(lowest, Ordering::SeqCst);
    }
}

/// While it lives, everything can be read as of the record that was visible when it was made.
struct Hold<'a> {
    shared: &'a Shared,
    held: u64,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.shared.holds.release(self.held);
        self.shared.notify_fold();
    }
}

/// A view that does not move: all that is read from it is read as of one record.
pub struct SteadyView<'a> {
    view: View<'a>,
    _hold: Hold<'a>,
}

impl<'a> SteadyView<'a> {
    pub(super) fn of(shared: &'a Shared, now_ms: u64) -> Self {
        let hold = Hold { shared, held: shared.visible() };
        shared.holds.hold(hold.held);
        let seq = shared.watermarks.visible.load(Ordering::SeqCst);
        // The layers are looked up last: they have every record in sight that RocksDB may lack.
        Self { view: View::upto(shared, seq, now_ms), _hold: hold }
    }
}

impl<'a> Deref for SteadyView<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.view
    }
}
