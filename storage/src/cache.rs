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

/// What an entry takes beside the bytes of key and row: two reference-counted headers, the
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
        let row_bytes = row.as_ref().map_or(0, |row| row.len());
        key.len() as u64 + row_bytes as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// The cache; bounded in bytes.
pub(crate) struct HotCache {
    /// `None` where RocksDB is known to have no row.
    rows: Cache<Key, RowBytes, Weight>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl HotCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let rows_expected = (bytes_max / 512) as usize;
        Self {
            rows: Cache::with_weighter(rows_expected.min(1 << 16), bytes_max, Weight),
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
                if row.as_ref().is_none_or(|row| row.len() <= ROW_BYTES_MAX) {
                    // An error says that the fold changed the key meanwhile: its row is newer.
                    let _ = guard.insert(row.clone());
                }
                Ok(row)
            }
            GuardResult::Timeout => load(),
        }
    }

    /// The fold wrote `row`: whoever reads it next finds it here.
    pub(crate) fn refresh(&self, key: &[u8], row: &Arc<[u8]>) {
        if row.len() <= ROW_BYTES_MAX {
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
