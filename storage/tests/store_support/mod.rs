//! What the tests of the store share: a store whose parts are driven by hand, on a real disk.

#![allow(dead_code, clippy::allow_attributes, reason = "each test uses some of it")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use larder_storage::{
    Directory, Durability, Folder, Recovered, Store, StoreError, StoreOptions, Syncer, Writer,
    open, row::RowValue, state::DatabaseOptions,
};
use rand::Rng;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

/// A store whose writer, syncer and folder are called by the test. Dropped without
/// [`Node::close`] it has crashed: what was only in memory is gone.
pub(crate) struct Node {
    pub(crate) writer: Writer,
    pub(crate) syncer: Syncer,
    pub(crate) folder: Folder,
    pub(crate) store: Store,
    pub(crate) replayed: u64,
    pub(crate) recovered: Recovered,
    pub(crate) directory: Directory,
}

/// Bounds so small that rotation, folds, flushes and trimming happen all the time.
pub(crate) fn tiny() -> StoreOptions {
    let database = DatabaseOptions::new(8 << 20, 8 << 20).with_write_buffer_bytes(64 << 10);
    StoreOptions {
        durability: Durability::Fsync,
        segment_bytes: 16 << 10,
        reserve_bytes: 0,
        hot_tail_bytes: 4 << 10,
        hot_cache_bytes: 64 << 10,
        layer_bytes: 4 << 10,
        layer_records: 200,
        unapplied_bytes_max: 32 << 10,
        unapplied_records_max: 2_000,
        ..StoreOptions::new(database)
    }
}

impl Node {
    pub(crate) fn open(root: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let directory = Directory::open(root)?;
        let opened = open(&directory, options, WALL_MS, rand::rng().random())?;
        Ok(Self {
            writer: opened.writer,
            syncer: opened.syncer,
            folder: opened.folder,
            store: opened.store,
            replayed: opened.replayed,
            recovered: opened.recovered,
            directory,
        })
    }

    /// Makes what was appended durable and visible.
    pub(crate) fn commit(&mut self) {
        if let Some(batch) = self.writer.take_batch() {
            self.syncer.commit(batch).unwrap();
        }
    }

    /// Appends a string without committing it.
    pub(crate) fn append(&mut self, key: &str, value: &str) {
        let mut txn = self.writer.transaction(WALL_MS);
        txn.put_string(key.as_bytes(), value.as_bytes(), None).unwrap();
        txn.commit().unwrap();
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.append(key, value);
        self.commit();
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let row = self.store.view(WALL_MS).row(key.as_bytes()).unwrap()?;
        match row.as_ref().value() {
            RowValue::String(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            RowValue::Hash { .. } => None,
        }
    }

    /// Folds every layer that is sealed and durable.
    pub(crate) fn fold(&mut self) {
        while self.folder.fold_one().unwrap().is_continue() {}
    }

    /// Ends in order: nothing is left to replay.
    pub(crate) fn close(mut self) {
        self.commit();
        self.writer.seal();
        self.syncer.idle().unwrap();
        self.fold();
        self.folder.flush().unwrap();
        self.syncer.close().unwrap();
    }
}

/// Waits until `holds`, in vain for at most [`DEADLINE`].
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

/// The seed given by `LARDER_SEED`, or a random one; printed, so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("LARDER_SEED").ok();
    let seed = given.map_or_else(|| rand::rng().random(), |text| text.parse().unwrap());
    println!("LARDER_SEED={seed}");
    seed
}
