//! One fold: everything a run of log records does to the state, applied at once or not at all.

use std::fmt;

use larder_types::SequenceNumber;
use rocksdb::WriteBatch;

use crate::{
    keys,
    row::Generation,
    state::{
        applied::{self, Applied},
        replicas::{self, ReplicasRecord},
    },
};

/// What a fold writes. Rows and elements should be added in the order of their keys in the
/// database, which the memtable takes at half the cost of random order.
///
/// A hash's elements and its key row belong in the same batch: the compaction filter takes an
/// element without a key row for garbage.
#[derive(Default)]
pub struct FoldBatch {
    batch: WriteBatch,
    key: Vec<u8>,
}

impl FoldBatch {
    /// A batch that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch that does nothing yet, with room for this many bytes of keys and rows.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { batch: WriteBatch::with_capacity_bytes(bytes), key: Vec::new() }
    }

    /// Writes the row of `key`.
    pub fn put_row(&mut self, key: &[u8], row: &[u8]) {
        keys::key_row_key(key, &mut self.key);
        self.batch.put(&self.key, row);
    }

    /// Deletes the row of `key`, and so, in effect, all elements under it.
    pub fn delete_row(&mut self, key: &[u8]) {
        keys::key_row_key(key, &mut self.key);
        self.batch.delete(&self.key);
    }

    /// Writes the row of one element.
    pub fn put_element(&mut self, key: &[u8], generation: Generation, field: &[u8], row: &[u8]) {
        keys::element_key(key, generation, field, &mut self.key);
        self.batch.put(&self.key, row);
    }

    /// Deletes one element.
    pub fn delete_element(&mut self, key: &[u8], generation: Generation, field: &[u8]) {
        keys::element_key(key, generation, field, &mut self.key);
        self.batch.delete(&self.key);
    }

    /// Deletes everything in every unit, at a cost that does not depend on how much there is.
    ///
    /// # Panics
    /// When something was added before: what one batch clears is what was there before it.
    pub fn clear(&mut self) {
        assert!(self.is_empty(), "a batch is cleared before anything is added to it");
        let (from, to) = keys::all_units_range();
        self.batch.delete_range(from, to);
    }

    /// Deletes every element of one generation of `key`, at a cost that does not depend on how many
    /// there are.
    pub fn delete_elements(&mut self, key: &[u8], generation: Generation) {
        keys::element_prefix(key, generation, &mut self.key);
        let mut end = self.key.clone();
        keys::after_prefix(&mut end);
        self.batch.delete_range(&self.key, &end);
    }

    /// Keeps a record of the replica set.
    pub fn put_replicas(&mut self, record: &ReplicasRecord) {
        keys::own_key(&replicas::name(record.position.seq), &mut self.key);
        self.batch.put(&self.key, replicas::encode(record));
    }

    /// Forgets the record of the replica set with this number.
    pub fn delete_replicas(&mut self, seq: SequenceNumber) {
        keys::own_key(&replicas::name(seq), &mut self.key);
        self.batch.delete(&self.key);
    }

    /// Whether the batch does nothing.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// How many rows and elements are written and deleted.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// The batch, with the position written in it.
    pub(super) fn seal(mut self, applied: Applied) -> WriteBatch {
        keys::own_key(applied::NAME, &mut self.key);
        self.batch.put(&self.key, applied.encode());
        self.batch
    }
}

impl fmt::Debug for FoldBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FoldBatch({} operations)", self.len())
    }
}
