//! A cache of hot rows between the table of writes in flight and RocksDB: of keys, and of the elements of
//! hashes.
//!
//! A hit costs a hash lookup where RocksDB's own block cache costs a search through index, filter
//! and block. That a row is absent is kept as well: RocksDB would look into the filter of each table
//! that could have it. What is written of keys is taken in; elements are once they are read, for many are
//! written that nobody reads soon. Coherence: the fold refreshes or removes what it wrote after RocksDB has it and
//! before it takes the layer off the stack, so a reader that no longer sees the layer sees the
//! refreshed entry; and a reader that fills the cache does it through a guard which the fold's
//! change of the same row voids. Elements of a generation that has ended stay until they leave as the
//! coldest: nobody asks for them, for it never comes back.

use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use quick_cache::{
    Equivalent, Weighter,
    sync::{Cache, GuardResult},
};
use smallvec::SmallVec;

use crate::{inflight::RowBytes, row::Generation};

/// What an entry takes beside the bytes of key and row: room for a short key, the row's header, the
/// cache's own bookkeeping and the allocator's rounding.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// A row beyond this size is left to the block cache: it would push out thousands of others.
const ROW_BYTES_MAX: usize = 64 << 10;

/// Which row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowId<'a> {
    key: &'a [u8],
    /// Of an element: generation and name.
    element: Option<([u8; Generation::ENCODED_BYTES], &'a [u8])>,
}

impl<'a> RowId<'a> {
    /// The row of a key.
    pub(crate) const fn of_key(key: &'a [u8]) -> Self {
        Self { key, element: None }
    }

    /// An element of one generation of a key.
    pub(crate) fn of_element(key: &'a [u8], generation: Generation, name: &'a [u8]) -> Self {
        Self { key, element: Some((generation.encode(), name)) }
    }

    fn to_owned(self) -> OwnedRowId {
        let mut bytes = SmallVec::from_slice(self.key);
        if let Some((generation, name)) = &self.element {
            bytes.extend_from_slice(generation);
            bytes.extend_from_slice(name);
        }
        OwnedRowId { bytes, key_bytes: self.key.len() }
    }
}

impl Hash for RowId<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.key);
        if let Some((generation, name)) = &self.element {
            state.write(generation);
            state.write(name);
        }
    }
}

impl Equivalent<OwnedRowId> for RowId<'_> {
    fn equivalent(&self, owned: &OwnedRowId) -> bool {
        *self == owned.as_id()
    }
}

/// The same with bytes of its own. A short key stands in its entry, where a lookup compares it without
/// going elsewhere in memory.
#[derive(Clone, PartialEq, Eq)]
struct OwnedRowId {
    /// The key; of an element, generation and name behind it.
    bytes: SmallVec<[u8; 24]>,
    key_bytes: usize,
}

impl OwnedRowId {
    fn as_id(&self) -> RowId<'_> {
        let (key, element) = self.bytes.split_at(self.key_bytes);
        let element = element.split_first_chunk().map(|(generation, name)| (*generation, name));
        RowId { key, element }
    }
}

impl Hash for OwnedRowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_id().hash(state);
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<OwnedRowId, RowBytes> for Weight {
    fn weight(&self, id: &OwnedRowId, row: &RowBytes) -> u64 {
        weight(id, row.as_deref())
    }
}

fn weight(id: &OwnedRowId, row: Option<&[u8]>) -> u64 {
    id.bytes.len() as u64 + row.map_or(0, <[u8]>::len) as u64 + ENTRY_OVERHEAD_BYTES
}

/// The cache; bounded in bytes.
pub(crate) struct HotCache {
    /// `None` where RocksDB is known to have no row.
    rows: Cache<OwnedRowId, RowBytes, Weight>,
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

    /// The row that `id` names, from the cache or from `load`, which is asked once even if many want the
    /// same row at once.
    pub(crate) fn read<E>(
        &self,
        id: RowId<'_>,
        load: impl FnOnce() -> Result<RowBytes, E>,
    ) -> Result<RowBytes, E> {
        if let Some(row) = self.get(id) {
            return Ok(row);
        }
        let id = id.to_owned();
        match self.rows.get_value_or_guard(&id, None) {
            GuardResult::Value(row) => Ok(row),
            GuardResult::Guard(guard) => {
                let row = load()?;
                if self.keeps(&id, row.as_deref()) {
                    // An error says that the fold changed the row meanwhile: there is a newer one.
                    let _ = guard.insert(row.clone());
                }
                Ok(row)
            }
            GuardResult::Timeout => load(),
        }
    }

    /// What is kept of the row. Takes nothing in.
    pub(crate) fn get(&self, id: RowId<'_>) -> Option<RowBytes> {
        let row = self.rows.get(&id);
        let count = if row.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        row
    }

    fn keeps(&self, id: &OwnedRowId, row: Option<&[u8]>) -> bool {
        row.is_none_or(|row| row.len() <= ROW_BYTES_MAX) && weight(id, row) <= self.weight_max
    }

    /// The fold wrote `row`, or deleted it: whoever reads it next finds it here, or asks RocksDB.
    pub(crate) fn refresh(&self, id: RowId<'_>, row: &RowBytes) {
        if row.is_some() {
            let id = id.to_owned();
            if self.keeps(&id, row.as_deref()) {
                return self.rows.insert(id, row.clone());
            }
        }
        self.rows.remove(&id);
    }

    /// The same of what is not to be taken in where nobody has read it.
    pub(crate) fn renew(&self, id: RowId<'_>, row: &RowBytes) {
        if self.rows.contains_key(&id) {
            self.refresh(id, row);
        } else {
            // Voids the guard of a reader that has found what was there before.
            self.rows.remove(&id);
        }
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
    use std::sync::Arc;

    use larder_types::{Epoch, Position, SequenceNumber};

    use super::*;

    const KEY: &[u8] = b"key";
    const MIB: u64 = 1 << 20;

    fn row(bytes: usize) -> Arc<[u8]> {
        Arc::from(vec![7; bytes])
    }

    fn generation(seq: u64) -> Generation {
        let position = Position {
            epoch: Epoch { term: 1, run: 1, id: 1 },
            seq: SequenceNumber::new(seq).unwrap(),
        };
        Generation { position, ordinal: 0 }
    }

    /// A key's row, and an element of it.
    fn ids() -> [RowId<'static>; 2] {
        [RowId::of_key(KEY), RowId::of_element(KEY, generation(1), b"name")]
    }

    /// What a reader is answered, and whether RocksDB was asked, where that has `stored`.
    fn read(cache: &HotCache, id: RowId<'_>, stored: &RowBytes) -> (RowBytes, bool) {
        let mut asked = false;
        let load = || {
            asked = true;
            Ok::<_, ()>(stored.clone())
        };
        (cache.read(id, load).unwrap(), asked)
    }

    #[test]
    fn rocksdb_is_asked_once_for_a_row_and_once_whether_there_is_one() {
        for (id, stored) in ids().into_iter().flat_map(|id| [(id, Some(row(10))), (id, None)]) {
            let cache = HotCache::new(MIB);
            assert_eq!(read(&cache, id, &stored), (stored.clone(), true));
            assert_eq!(read(&cache, id, &stored), (stored.clone(), false));
        }
    }

    #[test]
    fn what_the_fold_wrote_or_deleted_takes_the_place_of_what_was_known() {
        for id in ids() {
            let cache = HotCache::new(MIB);
            read(&cache, id, &None);
            cache.refresh(id, &Some(row(10)));
            assert_eq!(read(&cache, id, &None), (Some(row(10)), false));
            cache.refresh(id, &None);
            assert_eq!(read(&cache, id, &None), (None, true));
            cache.refresh(id, &Some(row(10)));
            cache.clear();
            assert_eq!(read(&cache, id, &None), (None, true));
        }
    }

    #[test]
    fn what_nobody_has_read_is_not_taken_in_by_a_renewal_and_what_is_kept_is_renewed() {
        for id in ids() {
            let cache = HotCache::new(MIB);
            cache.renew(id, &Some(row(10)));
            assert_eq!(cache.get(id), None);
            assert_eq!(read(&cache, id, &Some(row(10))), (Some(row(10)), true));
            cache.renew(id, &Some(row(20)));
            assert_eq!(cache.get(id), Some(Some(row(20))));
            cache.renew(id, &None);
            assert_eq!(cache.get(id), None);
        }
    }

    #[test]
    fn a_row_is_found_by_its_own_name_alone() {
        let [this, that] = [generation(1), generation(2)];
        // The last is a key that looks like the bytes of an element.
        let lookalike = [KEY, &this.encode(), b"name"].concat();
        let ids = [
            RowId::of_key(KEY),
            RowId::of_element(KEY, this, b"name"),
            RowId::of_element(KEY, this, b"nam"),
            RowId::of_element(KEY, this, b""),
            RowId::of_element(KEY, that, b"name"),
            RowId::of_element(b"ke", this, b"name"),
            RowId::of_key(&lookalike),
        ];
        let cache = HotCache::new(MIB);
        for (bytes, id) in ids.iter().enumerate() {
            assert_eq!(read(&cache, *id, &Some(row(bytes))), (Some(row(bytes)), true));
        }
        for (bytes, id) in ids.iter().enumerate() {
            assert_eq!(read(&cache, *id, &None), (Some(row(bytes)), false));
        }
    }

    /// The reader asks RocksDB, the fold changes the row, and only then the reader fills the cache.
    #[test]
    fn a_reader_never_fills_in_what_it_found_before_the_fold_changed_it() {
        let changes: [fn(&HotCache, RowId<'_>); 7] = [
            |cache, id| cache.renew(id, &Some(row(10))),
            |cache, id| cache.renew(id, &None),
            |cache, id| cache.refresh(id, &Some(row(10))),
            |cache, id| cache.refresh(id, &Some(row(40 << 10))),
            |cache, id| cache.refresh(id, &Some(row(ROW_BYTES_MAX + 1))),
            |cache, id| cache.refresh(id, &None),
            |cache, _| cache.clear(),
        ];
        for id in ids() {
            for bytes_max in [0, 64 << 10, MIB, 64 * MIB] {
                for (which, change) in changes.iter().enumerate() {
                    for stored in [Some(row(5)), None] {
                        let cache = HotCache::new(bytes_max);
                        let load = || {
                            change(&cache, id);
                            Ok::<_, ()>(stored.clone())
                        };
                        cache.read(id, load).unwrap();
                        let now = Some(row(1));
                        let (found, asked) = read(&cache, id, &now);
                        let news = asked || found.as_ref().is_some_and(|found| found.len() >= 10);
                        assert!(news, "change {which} in a cache of {bytes_max} bytes: {found:?}");
                    }
                }
            }
        }
    }
}
