//! The first page of what is in flight, in order, out of layers that are in none.

use std::collections::BTreeMap;

use super::RowBytes;

/// The changes of the lowest places: as many as put `limit` rows, with the deletions among them.
/// What lies beyond it costs a comparison.
pub(crate) struct Lowest<K> {
    changes: BTreeMap<K, RowBytes>,
    puts: usize,
    limit: usize,
    cut: bool,
}

impl<K: Ord> Lowest<K> {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { changes: BTreeMap::new(), puts: 0, limit, cut: false }
    }

    /// How many puts it takes at most.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a change lies beyond the page, which is full, as `is_beyond` says of the page's last
    /// place.
    pub(crate) fn passes_over(&mut self, is_beyond: impl FnOnce(&K) -> bool) -> bool {
        let full = self.puts >= self.limit;
        let passes = full && self.changes.last_key_value().is_none_or(|(last, _)| is_beyond(last));
        self.cut |= passes;
        passes
    }

    /// Takes a change in where it is low enough. The newest change of a place must be offered first:
    /// older ones are passed over.
    pub(crate) fn offer(&mut self, place: K, change: &RowBytes) {
        if self.passes_over(|last| *last < place) || self.changes.contains_key(&place) {
            return;
        }
        self.puts += usize::from(change.is_some());
        self.changes.insert(place, change.clone());
        while self.puts > self.limit {
            let last = self.changes.pop_last();
            self.puts -= usize::from(last.is_some_and(|(_, change)| change.is_some()));
            self.cut = true;
        }
    }

    /// The changes in order, and whether there are more beyond the last of them. Up to that one
    /// none is left out.
    pub(crate) fn take(self) -> (BTreeMap<K, RowBytes>, bool) {
        (self.changes, self.cut)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn the_first_page_is_that_of_all_changes_in_order() {
        let mut random = StdRng::seed_from_u64(1);
        let value: Arc<[u8]> = Arc::from(&b"v"[..]);
        for round in 0..2_000 {
            let limit = random.random_range(0..8);
            let (mut lowest, mut all) = (Lowest::new(limit), BTreeMap::new());
            for _ in 0..random.random_range(0..40) {
                let place = random.random_range(0..20);
                let change = random.random::<bool>().then(|| value.clone());
                lowest.offer(place, &change);
                all.entry(place).or_insert(change);
            }
            let (page, cut) = lowest.take();
            let puts = page.values().filter(|change| change.is_some()).count();
            assert!(puts <= limit, "round {round}");
            assert_eq!(cut, page.len() < all.len(), "round {round}");
            assert!(!cut || puts == limit, "round {round}: a page that is cut is full");
            assert!(page.iter().eq(all.iter().take(page.len())), "round {round}");
        }
    }
}
