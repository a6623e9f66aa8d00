//! What the tests of the store share: a store whose parts are driven by hand, on a real disk.

#![allow(dead_code, clippy::allow_attributes, reason = "each test uses some of it")]

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

use larder_storage::{
    Directory, Durability, Folder, OpenAs, Position, Recovered, ScanPosition, Store, StoreError,
    StoreOptions, Syncer, Writer, open_as,
    row::{RowRef, RowValue},
    state::DatabaseOptions,
};
use larder_types::{HybridTime, SequenceNumber};
use rand::{Rng, rngs::StdRng};

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

/// A row's version, expiry and value, and the fields' names, versions and values.
pub(crate) type Content = (HybridTime, Option<u64>, Vec<u8>, Vec<(Vec<u8>, HybridTime, Vec<u8>)>);

/// Writes a random record: strings, hashes and expiries among few keys, seldom a deletion of all.
pub(crate) fn write_randomly(random: &mut StdRng, node: &mut Node, clears: bool) {
    let mut txn = node.writer.transaction(WALL_MS);
    for _ in 0..random.random_range(1..4) {
        let key = format!("key:{}", random.random_range(0..30));
        let hash = format!("hash:{}", random.random_range(0..10));
        let field = format!("field:{}", random.random_range(0..12));
        let (key, hash, field) = (key.as_bytes(), hash.as_bytes(), field.as_bytes());
        let value = vec![random.random::<u8>(); random.random_range(0..80)];
        let expiry = (random.random_range(0..5) == 0).then_some(WALL_MS + 1_000_000);
        match random.random_range(0..40) {
            0 if clears => txn.clear().unwrap(),
            0..8 => txn.put_string(key, &value, expiry).unwrap(),
            8..12 => drop(txn.delete(key).unwrap()),
            12..14 => drop(txn.delete(hash).unwrap()),
            14..20 => drop(txn.hash_delete(hash, &[field]).unwrap()),
            20..22 => drop(txn.set_expiry(hash, expiry).unwrap()),
            _ => drop(txn.hash_put(hash, &[(field, &value), (b"always", b"here")]).unwrap()),
        }
    }
    txn.commit();
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
        layer_changes: 400,
        unapplied_bytes_max: 32 << 10,
        unapplied_changes_max: 4_000,
        ..StoreOptions::new(database)
    }
}

impl Node {
    pub(crate) fn open(root: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let role = OpenAs::Master { wall_ms: WALL_MS, epoch_id: rand::rng().random() };
        Self::open_as(root, options, role)
    }

    pub(crate) fn open_as(
        root: &Path,
        options: StoreOptions,
        role: OpenAs,
    ) -> Result<Self, StoreError> {
        let directory = Directory::open(root)?;
        let opened = open_as(&directory, options, role)?;
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

    /// The first record that this node's log lacks.
    pub(crate) fn next(&self) -> SequenceNumber {
        self.writer.tail().map_or(SequenceNumber::FIRST, |tail| tail.seq.next())
    }

    /// Accepts, in chunks of at most `bytes_max`, what `master` has durable beyond this log.
    pub(crate) fn follow(&mut self, master: &Self, bytes_max: usize) {
        let mut cursor = master.store.log().read(self.next()).unwrap();
        while let Some(frames) = cursor.next_frames(bytes_max).unwrap() {
            let last = self.writer.accept(&frames.bytes).unwrap();
            assert_eq!(last, Position { epoch: frames.last_epoch, seq: frames.last });
            self.commit();
        }
    }

    /// Every live key, with what is under it and the versions of it all.
    pub(crate) fn contents(&self) -> BTreeMap<Vec<u8>, Content> {
        let view = self.store.view(WALL_MS);
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], _: RowRef<'_>| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        view.scan(ScanPosition::default(), &mut visit).unwrap();
        let content = |key: Vec<u8>| {
            let (row, fields) = view.row_and_all_fields(&key).unwrap().unwrap();
            let fields =
                fields.iter().map(|(name, value)| (name.to_vec(), value.version(), value.to_vec()));
            let row = row.as_ref();
            let value = match row.value() {
                RowValue::String(value) => value.to_vec(),
                RowValue::Hash { generation, fields } => {
                    [&generation.encode()[..], &fields.to_le_bytes()].concat()
                }
            };
            let content = (row.version(), row.expiry(), value, fields.collect());
            (key, content)
        };
        keys.into_iter().map(content).collect()
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

    /// Crashes where a digest may be under way, which holds the database until it notices.
    pub(crate) fn crash(self) {
        self.store.close();
    }

    /// Ends in order: nothing is left to replay.
    pub(crate) fn close(mut self) {
        self.commit();
        self.writer.seal();
        self.syncer.sync_rest().unwrap();
        self.fold();
        self.folder.flush().unwrap();
        self.syncer.close().unwrap();
        self.store.close();
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

/// What `work` answers, and how long it kept its thread's processor busy: what else the machine does
/// is not counted.
pub(crate) fn busy<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let spent = || {
        let counts = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(counts.split(' ').next().unwrap().parse().unwrap())
    };
    let before = spent();
    let done = work();
    (done, spent() - before)
}

/// The seed given by `LARDER_SEED`, or a random one; printed, so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("LARDER_SEED").ok();
    let seed = given.map_or_else(|| rand::rng().random(), |text| text.parse().unwrap());
    println!("LARDER_SEED={seed}");
    seed
}

/// Copies a directory and all that is in it; what was there before is gone.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
