//! A cache of hot rows between the table of writes in flight and RocksDB.
//!
//! A hit costs a hash lookup where RocksDB's own block cache costs a search through index, filter
//! and block. That a key is absent is kept as well: RocksDB would look into the filter of each table
//! that could have it. Coherence: the fold refreshes or removes what it wrote after RocksDB has it and
//! before it takes the layer off the stack, so a reader that no longer sees the layer sees the
//! refreshed entry; and a reader that fills the cache does it through a guard which the fold's
//! change of the same key voids.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::{
    Weighter,
    sync::{Cache, GuardResult},
};
use smallvec::SmallVec;

use crate::inflight::RowBytes;

/// What an entry takes beside the bytes of key and row: room for a short key, the row's header, the
/// cache's own bookkeeping and the allocator's rounding.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// A row beyond this size is left to the block cache: it would push out thousands of others.
const ROW_BYTES_MAX: usize = 64 << 10;

/// A short key stands in its entry, where a lookup compares it without going elsewhere in memory.
type Key = SmallVec<[u8; 24]>;

#[derive(Clone)]
struct Weight;

impl Weighter<Key, RowBytes> for Weight {
    fn weight(&self, key: &Key, row: &RowBytes) -> u64 {
        weight(key, row.as_deref())
    }
}

fn weight(key: &[u8], row: Option<&[u8]>) -> u64 {
    key.len() as u64 + row.map_or(0, <[u8]>::len) as u64 + ENTRY_OVERHEAD_BYTES
}

/// The cache; bounded in bytes.
pub(crate) struct HotCache {
    /// `None` where RocksDB is known to have no row.
    rows: Cache<Key, RowBytes, Weight>,
    /// What weighs more is not kept. The cache itself refuses what weighs almost as much as all of one
    /// shard, without a word to a reader who is about to fill in what he found before.
    weight_max: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl HotCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let rows_expected = (bytes_max / 512) as usize;
        let rows = Cache::with_weighter(rows_expected.min(1 << 16), bytes_max, Weight);
        Self {
            weight_max: rows.shard_capacity() / 2,
            rows,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The row of `key`, from the cache or from `load`, which is asked once even if many want the
    /// same key at once.
    pub(crate) fn row<E>(
        &self,
        key: &[u8],
        load: impl FnOnce() -> Result<RowBytes, E>,
    ) -> Result<RowBytes, E> {
        if let Some(row) = self.rows.get(key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(row);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let key = Key::from_slice(key);
        match self.rows.get_value_or_guard(&key, None) {
            GuardResult::Value(row) => Ok(row),
            GuardResult::Guard(guard) => {
                let row = load()?;
                if self.keeps(&key, row.as_deref()) {
                    // An error says that the fold changed the key meanwhile: its row is newer.
                    let _ = guard.insert(row.clone());
                }
                Ok(row)
            }
            GuardResult::Timeout => load(),
        }
    }

    fn keeps(&self, key: &[u8], row: Option<&[u8]>) -> bool {
        row.is_none_or(|row| row.len() <= ROW_BYTES_MAX) && weight(key, row) <= self.weight_max
    }

    /// The fold wrote `row`: whoever reads it next finds it here.
    pub(crate) fn refresh(&self, key: &[u8], row: &Arc<[u8]>) {
        if self.keeps(key, Some(row)) {
            self.rows.insert(Key::from_slice(key), Some(row.clone()));
        } else {
            self.rows.remove(key);
        }
    }

    /// The fold deleted the row.
    pub(crate) fn remove(&self, key: &[u8]) {
        self.rows.remove(key);
    }

    /// The fold deleted every row.
    pub(crate) fn clear(&self) {
        self.rows.clear();
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub(crate) fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"key";
    const MIB: u64 = 1 << 20;

    fn row(bytes: usize) -> Arc<[u8]> {
        Arc::from(vec![7; bytes])
    }

    /// What a reader is answered, and whether RocksDB was asked, where that has `stored`.
    fn read(cache: &HotCache, stored: &RowBytes) -> (RowBytes, bool) {
        let mut asked = false;
        let load = || {
            asked = true;
            Ok::<_, ()>(stored.clone())
        };
        (cache.row(KEY, load).unwrap(), asked)
    }

    #[test]
    fn rocksdb_is_asked_once_for_a_row_and_once_whether_there_is_one() {
        for stored in [Some(row(10)), None] {
            let cache = HotCache::new(MIB);
            assert_eq!(read(&cache, &stored), (stored.clone(), true));
            assert_eq!(read(&cache, &stored), (stored.clone(), false));
        }
    }

    #[test]
    fn what_the_fold_wrote_or_deleted_takes_the_place_of_what_was_known() {
        let cache = HotCache::new(MIB);
        read(&cache, &None);
        cache.refresh(KEY, &row(10));
        assert_eq!(read(&cache, &None), (Some(row(10)), false));
        cache.remove(KEY);
        assert_eq!(read(&cache, &None), (None, true));
        cache.refresh(KEY, &row(10));
        cache.clear();
        assert_eq!(read(&cache, &None), (None, true));
    }

    /// The reader asks RocksDB, the fold changes the key, and only then the reader fills the cache.
    #[test]
    fn a_reader_never_fills_in_what_it_found_before_the_fold_changed_it() {
        let changes: [fn(&HotCache); 5] = [
            |cache| cache.refresh(KEY, &row(10)),
            |cache| cache.refresh(KEY, &row(40 << 10)),
            |cache| cache.refresh(KEY, &row(ROW_BYTES_MAX + 1)),
            |cache| cache.remove(KEY),
            |cache| cache.clear(),
        ];
        for bytes_max in [0, 64 << 10, MIB, 64 * MIB] {
            for (which, change) in changes.iter().enumerate() {
                for stored in [Some(row(5)), None] {
                    let cache = HotCache::new(bytes_max);
                    let load = || {
                        change(&cache);
                        Ok::<_, ()>(stored.clone())
                    };
                    cache.row(KEY, load).unwrap();
                    let now = Some(row(1));
                    let (found, asked) = read(&cache, &now);
                    let news = asked || found.as_ref().is_some_and(|found| found.len() >= 10);
                    assert!(news, "change {which} in a cache of {bytes_max} bytes: {found:?}");
                }
            }
        }
    }
}
