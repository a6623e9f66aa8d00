//! What keeps the log beyond what the state needs: registered followers, and open snapshots.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use larder_types::SequenceNumber;
use parking_lot::Mutex;

/// Whether a pin holds whatever the log's size, or is given up beyond the cap as followers are.
type Firm = bool;

/// The floors of a log.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// The first record that followers need; 0 for none. Given up beyond a cap in bytes.
    followers: AtomicU64,
    /// How many pin each record, and whether firmly.
    pins: Mutex<BTreeMap<(Firm, SequenceNumber), usize>>,
    /// Whether a floor has moved since the log was trimmed.
    moved: AtomicBool,
}

impl Retention {
    pub(super) fn keep_for_followers(&self, from: Option<SequenceNumber>) {
        self.followers.store(from.map_or(0, SequenceNumber::as_u64), Ordering::Release);
        self.moved.store(true, Ordering::Release);
    }

    pub(super) fn followers(&self) -> Option<SequenceNumber> {
        SequenceNumber::new(self.followers.load(Ordering::Acquire))
    }

    pub(super) fn take_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed) && self.moved.swap(false, Ordering::AcqRel)
    }

    /// The first record that is pinned in this way.
    pub(super) fn pinned(&self, firm: Firm) -> Option<SequenceNumber> {
        let pins = self.pins.lock();
        pins.keys().find(|(it, _)| *it == firm).map(|(_, from)| *from)
    }

    /// Keeps the log from `from` on while the pin lives.
    pub(super) fn pin(self: &Arc<Self>, from: SequenceNumber, firm: Firm) -> Pin {
        *self.pins.lock().entry((firm, from)).or_default() += 1;
        Pin { retention: self.clone(), at: (firm, from) }
    }
}

/// Keeps a log from a record on until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    retention: Arc<Retention>,
    at: (Firm, SequenceNumber),
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.retention.pins.lock();
        if let Some(count) = pins.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.at);
            }
        }
        self.retention.moved.store(true, Ordering::Release);
    }
}
