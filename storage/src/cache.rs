//! A cache of hot rows between the table of writes in flight and RocksDB.
//!
//! A hit costs a hash lookup where RocksDB's own block cache costs a search through index, filter
//! and block. Coherence: the fold refreshes or removes what it wrote after RocksDB has it and
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

/// What an entry takes beside the bytes of key and row: two reference-counted headers, the
/// cache's own bookkeeping and the allocator's rounding.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// A row beyond this size is left to the block cache: it would push out thousands of others.
const ROW_BYTES_MAX: usize = 64 << 10;

#[derive(Clone)]
struct Weight;

impl Weighter<Arc<[u8]>, Arc<[u8]>> for Weight {
    fn weight(&self, key: &Arc<[u8]>, row: &Arc<[u8]>) -> u64 {
        key.len() as u64 + row.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// The cache; bounded in bytes.
pub(crate) struct HotCache {
    rows: Cache<Arc<[u8]>, Arc<[u8]>, Weight>,
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
        load: impl FnOnce() -> Result<Option<Arc<[u8]>>, E>,
    ) -> Result<Option<Arc<[u8]>>, E> {
        if let Some(row) = self.rows.get(key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(row));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let key: Arc<[u8]> = Arc::from(key);
        match self.rows.get_value_or_guard(&key, None) {
            GuardResult::Value(row) => Ok(Some(row)),
            GuardResult::Guard(guard) => {
                let row = load()?;
                if let Some(row) = &row
                    && row.len() <= ROW_BYTES_MAX
                {
                    // An error says that the fold changed the key meanwhile: its row is newer.
                    let _ = guard.insert(row.clone());
                }
                Ok(row)
            }
            GuardResult::Timeout => load(),
        }
    }

    /// The fold wrote `row`: whoever reads it next finds it here.
    pub(crate) fn refresh(&self, key: &Arc<[u8]>, row: &Arc<[u8]>) {
        if row.len() <= ROW_BYTES_MAX {
            self.rows.insert(key.clone(), row.clone());
        } else {
            self.rows.remove(&**key);
        }
    }

    /// The fold deleted the row.
    pub(crate) fn remove(&self, key: &Arc<[u8]>) {
        self.rows.remove(&**key);
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
