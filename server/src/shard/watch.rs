//! Watched keys: who wants to know that a key changed before their EXEC.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// The keys that one connection watches, each with whether it was there when it was first watched.
pub type WatchedKeys = HashMap<Arc<[u8]>, bool>;

/// The keys that connections watch. Keys are added and touched by the writer alone, so
/// that no change falls between a WATCH and the reads that follow it; any thread may remove.
#[derive(Default)]
pub struct Watches {
    keys: Mutex<HashMap<Arc<[u8]>, Vec<Watcher>>>,
    /// How many keys are watched; spares the writer the lock while there is none.
    watched: AtomicUsize,
}

struct Watcher {
    touched: Arc<AtomicBool>,
    present: bool,
}

impl Watches {
    pub(super) fn add(&self, key: &Arc<[u8]>, touched: &Arc<AtomicBool>, present: bool) {
        let mut keys = self.keys.lock();
        let watchers = keys.entry(key.clone()).or_default();
        if !watchers.iter().any(|watcher| Arc::ptr_eq(&watcher.touched, touched)) {
            watchers.push(Watcher { touched: touched.clone(), present });
        }
        self.watched.store(keys.len(), Ordering::Release);
    }

    /// Forgets what this watcher watched.
    pub fn remove(&self, watched: &WatchedKeys, touched: &Arc<AtomicBool>) {
        if watched.is_empty() {
            return;
        }
        let mut keys = self.keys.lock();
        for key in watched.keys() {
            if let Some(watchers) = keys.get_mut(key) {
                watchers.retain(|watcher| !Arc::ptr_eq(&watcher.touched, touched));
                if watchers.is_empty() {
                    keys.remove(key);
                }
            }
        }
        self.watched.store(keys.len(), Ordering::Release);
    }

    pub(super) fn any(&self) -> bool {
        self.watched.load(Ordering::Acquire) > 0
    }

    /// A record changed `key`.
    pub(super) fn touch(&self, key: &[u8]) {
        if let Some(watchers) = self.keys.lock().get(key) {
            watchers.iter().for_each(|watcher| watcher.touched.store(true, Ordering::Release));
        }
    }

    /// Records changed keys that nobody looked at.
    pub(super) fn touch_every(&self) {
        if self.any() {
            let keys = self.keys.lock();
            let watchers = keys.values().flatten();
            watchers.for_each(|watcher| watcher.touched.store(true, Ordering::Release));
        }
    }

    /// A record deleted every key: of the watched ones, those changed that were there.
    pub(super) fn touch_all(&self) {
        let keys = self.keys.lock();
        let present = keys.values().flatten().filter(|watcher| watcher.present);
        present.for_each(|watcher| watcher.touched.store(true, Ordering::Release));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reaches_those_who_watch_the_key_and_nobody_else() {
        let watches = Watches::default();
        let (mine, other) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (a, b): (Arc<[u8]>, Arc<[u8]>) = (Arc::from(&b"a"[..]), Arc::from(&b"b"[..]));
        watches.add(&a, &mine, true);
        watches.add(&b, &other, false);
        watches.touch(b"a");
        assert!(mine.load(Ordering::Acquire) && !other.load(Ordering::Acquire));
        watches.touch_all();
        assert!(!other.load(Ordering::Acquire), "an absent key is not changed by a flush");
        watches.remove(&WatchedKeys::from([(a, true)]), &mine);
        assert!(watches.any());
        watches.remove(&WatchedKeys::from([(b, false)]), &other);
        assert!(!watches.any());
    }
}
