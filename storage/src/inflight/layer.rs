//! A layer: what a stretch of the log wrote, by key, in memory, before it is folded into RocksDB.
//!
//! The newest layer is written by the shard's writer; the layers below are sealed and never
//! change. A layer is folded as a whole, so a key that many records wrote costs RocksDB one write.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry as TableEntry};
use larder_types::Unit;
use parking_lot::{Mutex, RwLock};

use super::{
    fields::{FieldChange, Fields, FieldsAt},
    versions::Versions,
};
use crate::{Applied, state::ReplicasRecord};

/// Bytes of a row; `None` stands for a deletion.
pub(crate) type RowBytes = Option<Arc<[u8]>>;
/// Units of one block. A block is what one lock guards, and what a scan gathers and sorts at once.
pub(crate) const UNITS_PER_BLOCK: u16 = 64;
/// Blocks of a layer.
pub(crate) const BLOCKS: u16 = larder_types::UNITS / UNITS_PER_BLOCK;
const BLOCKS_PER_WORD: usize = u64::BITS as usize;
const _: () = assert!((BLOCKS as usize).is_multiple_of(BLOCKS_PER_WORD), "each block has a bit");

static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// A key with what every lookup of it needs, computed once.
#[derive(Clone, Copy)]
pub(crate) struct KeyRef<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) unit: Unit,
    hash: u64,
}

impl<'a> KeyRef<'a> {
    pub(crate) fn new(key: &'a [u8]) -> Self {
        Self { key, unit: Unit::of_key(key), hash: HASHER.hash_one(key) }
    }

    const fn block(&self) -> usize {
        (self.unit.as_u16() / UNITS_PER_BLOCK) as usize
    }
}

/// How much of a layer a reader may see.
#[derive(Clone, Copy)]
pub(crate) enum Sight<'a> {
    /// Everything: the writer's sight.
    Newest,
    /// Up to the watermark as it is when the first layer is looked at.
    Visible(&'a AtomicU64),
    /// Up to this record.
    Upto(u64),
}

impl Sight<'_> {
    /// The record up to which this sight reaches. Must be called under the lock of the block
    /// that is read, else a version could be dropped between the two.
    fn resolve(self) -> u64 {
        match self {
            Self::Newest => u64::MAX,
            Self::Visible(watermark) => watermark.load(Ordering::Acquire),
            Self::Upto(seq) => seq,
        }
    }
}

pub(crate) struct Entry {
    key: Arc<[u8]>,
    unit: u16,
    /// Of the key, so that growth need not look at the keys.
    hash: u64,
    row: Versions<RowBytes>,
    fields: Option<Box<Fields>>,
}

impl Entry {
    /// Whether it is that key's. Most that are not have another hash: their keys, which stand elsewhere in
    /// memory, are not looked at.
    fn has(&self, key: KeyRef<'_>) -> bool {
        self.hash == key.hash && *self.key == *key.key
    }
}

/// One layer of the table of writes in flight.
pub(crate) struct Layer {
    blocks: Vec<RwLock<HashTable<Entry>>>,
    /// The record that cleared the shard and began this layer: nothing below is seen beyond it.
    cleared: Option<u64>,
    /// A bit for each block that something was put into.
    written: [AtomicU64; BLOCKS as usize / BLOCKS_PER_WORD],
    /// Bytes of the records in this layer, as they are in the log.
    log_bytes: AtomicU64,
    records: AtomicU64,
    changes: AtomicU64,
    /// Records of the replica set, oldest first.
    replicas: Mutex<Vec<ReplicasRecord>>,
    sealed: OnceLock<Applied>,
}

/// What a layer knows of a key's row.
pub(crate) enum Found {
    /// Nothing: ask the layer below.
    Nothing,
    /// The row, or its deletion.
    Row(RowBytes),
}

impl Layer {
    pub(crate) fn new(cleared: Option<u64>) -> Self {
        Self {
            blocks: (0..BLOCKS).map(|_| RwLock::new(HashTable::new())).collect(),
            cleared,
            written: Default::default(),
            log_bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            replicas: Mutex::new(Vec::new()),
            sealed: OnceLock::new(),
        }
    }

    /// Whether the record that began this layer by clearing the shard is not beyond `seq`.
    pub(crate) fn cleared_by(&self, seq: u64) -> bool {
        self.cleared.is_some_and(|cleared| cleared <= seq)
    }

    /// Deletes every key as record `seq`, which is the newest and not visible yet, where no layer is
    /// needed for it. False, and nothing is done, where one must begin: so one record begins one at
    /// most, and none where the record before has left nothing.
    #[must_use]
    pub(crate) fn clear(&self, seq: u64) -> bool {
        let Some(cleared) = self.cleared else { return false };
        if cleared != seq {
            return self.written.iter().all(|word| word.load(Ordering::Relaxed) == 0);
        }
        // All that is here was put by this same record, and is in nobody's sight.
        for (word, blocks) in self.written.iter().zip(self.blocks.chunks(BLOCKS_PER_WORD)) {
            let mut written = word.swap(0, Ordering::Relaxed);
            while written != 0 {
                *blocks[written.trailing_zeros() as usize].write() = HashTable::new();
                written &= written - 1;
            }
        }
        true
    }

    /// Takes over what a layer below, which nobody will see any more, stands for beside its rows. The
    /// oldest is to be taken over first.
    pub(crate) fn take_over(&self, hidden: &Self) {
        self.log_bytes.fetch_add(hidden.log_bytes(), Ordering::Relaxed);
        self.records.fetch_add(hidden.records(), Ordering::Relaxed);
        self.changes.fetch_add(hidden.changes(), Ordering::Relaxed);
        self.replicas.lock().append(&mut hidden.replicas.lock());
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// What its records cost to replay, and at most so many rows and fields in memory: for each
    /// record the rows and fields that it puts or deletes, or one where it does neither.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Counts a record and the rows and fields that it puts or deletes.
    pub(crate) fn count_record(&self, log_bytes: u64, changes: u64) {
        self.log_bytes.fetch_add(log_bytes, Ordering::Relaxed);
        self.records.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(changes.max(1), Ordering::Relaxed);
    }

    /// Keeps a record of the replica set, for the fold.
    pub(crate) fn add_replicas(&self, record: ReplicasRecord) {
        self.replicas.lock().push(record);
    }

    /// The records of the replica set in this layer, oldest first.
    pub(crate) fn replicas(&self) -> Vec<ReplicasRecord> {
        self.replicas.lock().clone()
    }

    /// Says that no record after `last` writes to this layer.
    pub(crate) fn seal(&self, last: Applied) {
        self.sealed.set(last).expect("a layer is sealed once");
    }

    pub(crate) fn sealed(&self) -> Option<&Applied> {
        self.sealed.get()
    }

    pub(crate) fn put_row(&self, key: KeyRef<'_>, seq: u64, floor: u64, row: RowBytes) {
        let number = key.block();
        let (word, bit) =
            (&self.written[number / BLOCKS_PER_WORD], 1 << (number % BLOCKS_PER_WORD));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        let mut block = self.blocks[number].write();
        match block.entry(key.hash, |entry| entry.has(key), |entry| entry.hash) {
            TableEntry::Occupied(mut entry) => entry.get_mut().row.push(seq, floor, row),
            TableEntry::Vacant(vacant) => {
                vacant.insert(Entry {
                    key: Arc::from(key.key),
                    unit: key.unit.as_u16(),
                    hash: key.hash,
                    row: Versions::new(seq, row),
                    fields: None,
                });
            }
        }
    }

    /// Records a field's change. False, and nothing is done, where the key has no row in this layer:
    /// a record puts the row of a hash before its fields.
    #[must_use]
    pub(crate) fn put_field(
        &self,
        key: KeyRef<'_>,
        seq: u64,
        floor: u64,
        field: &[u8],
        change: FieldChange,
    ) -> bool {
        let mut block = self.blocks[key.block()].write();
        let Some(entry) = block.find_mut(key.hash, |entry| entry.has(key)) else {
            return false;
        };
        entry.fields.get_or_insert_default().put(field, seq, floor, change);
        true
    }

    /// The record up to which `sight` reaches here. A sealed layer ends at its last record: what a
    /// later one wrote to it was cleared by that same record, which shows only from the layer above.
    fn resolve(&self, sight: Sight<'_>) -> u64 {
        let seq = sight.resolve();
        self.sealed.get().map_or(seq, |last| seq.min(last.position.seq.as_u64()))
    }

    pub(crate) fn row(&self, key: KeyRef<'_>, sight: Sight<'_>) -> (Found, u64) {
        self.look(key, sight, |_, _| ())
    }

    /// Looks the key's row up and, while the block is still locked, lets `also` look at the
    /// fields. Answers the record up to which was looked as well, for the layers below.
    pub(crate) fn look(
        &self,
        key: KeyRef<'_>,
        sight: Sight<'_>,
        also: impl FnOnce(FieldsAt<'_>, &Found),
    ) -> (Found, u64) {
        let block = self.blocks[key.block()].read();
        let seq = self.resolve(sight);
        let entry = block.find(key.hash, |entry| entry.has(key));
        let found = match entry.and_then(|entry| entry.row.at(seq)) {
            Some(row) => Found::Row(row.clone()),
            None => Found::Nothing,
        };
        also(FieldsAt::new(entry.and_then(|entry| entry.fields.as_deref()), seq), &found);
        (found, seq)
    }

    /// Visits every row of a block as of `sight`, deletions included, in no order. Answers the
    /// record up to which was looked as well.
    pub(crate) fn rows_of_block(
        &self,
        block: u16,
        sight: Sight<'_>,
        mut visit: impl FnMut(u16, &Arc<[u8]>, &RowBytes),
    ) -> u64 {
        let block = self.blocks[usize::from(block)].read();
        let seq = self.resolve(sight);
        for entry in block.iter() {
            if let Some(row) = entry.row.at(seq) {
                visit(entry.unit, &entry.key, row);
            }
        }
        seq
    }

    /// Visits what a fold up to record `seq` must write, block by block: in each block every row
    /// in (unit, key) order, with its changed fields in field order.
    pub(crate) fn visit_sorted(&self, seq: u64, mut visit: impl FnMut(&[FoldRow<'_>])) {
        for block in &self.blocks {
            let block = block.read();
            let mut rows: Vec<FoldRow<'_>> = block
                .iter()
                .filter_map(|entry| {
                    let row = entry.row.at(seq)?;
                    let fields = FieldsAt::new(entry.fields.as_deref(), seq);
                    Some(FoldRow { unit: entry.unit, key: &entry.key, row, fields })
                })
                .collect();
            rows.sort_unstable_by(|a, b| (a.unit, a.key).cmp(&(b.unit, b.key)));
            visit(&rows);
        }
    }
}

/// A row to fold.
pub(crate) struct FoldRow<'a> {
    pub(crate) unit: u16,
    pub(crate) key: &'a Arc<[u8]>,
    pub(crate) row: &'a RowBytes,
    pub(crate) fields: FieldsAt<'a>,
}
