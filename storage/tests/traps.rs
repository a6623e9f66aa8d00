//! The traps of keeping a log of one's own under RocksDB without its WAL, each sprung on purpose.
//! `docs/traps.md` says which trap each test guards against.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use larder_storage::{
    Applied, Directory, Durability, Folder, LogError, Store, StoreError, StoreOptions, Syncer,
    Writer, open,
    row::{RowRef, RowValue, string_row},
    state::{Database, DatabaseOptions, FoldBatch},
    store::Refusal,
};
use larder_types::{Epoch, HybridTime, Position, SequenceNumber};

const DEADLINE: Duration = Duration::from_secs(60);
const WALL_MS: u64 = 1_700_000_000_000;

/// A store in a directory of its own. Dropped without a fold it has crashed: nothing that was only
/// in memory is left.
struct Node {
    writer: Writer,
    syncer: Syncer,
    folder: Option<Folder>,
    folding: Option<JoinHandle<Result<(), String>>>,
    store: Store,
    replayed: u64,
    _directory: Directory,
}

fn database_options() -> DatabaseOptions {
    DatabaseOptions::new(8 << 20, 8 << 20)
}

fn small() -> StoreOptions {
    StoreOptions {
        segment_bytes: 16 << 10,
        reserve_bytes: 0,
        layer_bytes: 8 << 10,
        unapplied_bytes_max: 32 << 10,
        ..StoreOptions::new(database_options())
    }
}

impl Node {
    fn open(root: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let directory = Directory::open(root)?;
        let opened = open(&directory, options, WALL_MS, 7)?;
        Ok(Self {
            writer: opened.writer,
            syncer: opened.syncer,
            folder: Some(opened.folder),
            folding: None,
            store: opened.store,
            replayed: opened.replayed,
            _directory: directory,
        })
    }

    fn commit(&mut self) {
        let batch = self.writer.take_batch().unwrap();
        self.syncer.commit(batch).unwrap();
    }

    fn put(&mut self, key: &str, value: &str) {
        self.writer.wait_for_room();
        let mut txn = self.writer.transaction(WALL_MS);
        txn.put_string(key.as_bytes(), value.as_bytes(), None).unwrap();
        txn.commit().unwrap();
        self.commit();
    }

    fn clear(&mut self) {
        let mut txn = self.writer.transaction(WALL_MS);
        txn.clear().unwrap();
        txn.commit().unwrap();
        self.commit();
    }

    /// Adds one to a number kept as text: a command that must not be replayed as such.
    fn increment(&mut self, key: &str) {
        let number = self.text(key).map_or(0, |text| text.parse::<u64>().unwrap());
        self.put(key, &(number + 1).to_string());
    }

    fn text(&self, key: &str) -> Option<String> {
        let row = self.store.view(WALL_MS).row(key.as_bytes()).unwrap()?;
        match row.as_ref().value() {
            RowValue::String(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            RowValue::Hash { .. } => None,
        }
    }

    /// Folds what is sealed and durable, flushes, and ends the fold.
    fn fold_once(&mut self) -> Result<(), String> {
        self.store.stop_folding();
        self.folder.take().unwrap().run().map_err(|error| error.to_string())
    }

    fn fold_in_background(&mut self) {
        let folder = self.folder.take().unwrap();
        self.folding = Some(thread::spawn(move || folder.run().map_err(|error| error.to_string())));
    }

    /// Folds everything and ends in order.
    fn close(mut self) {
        self.writer.seal();
        self.store.stop_folding();
        self.folding.take().unwrap().join().unwrap().unwrap();
        self.syncer.close().unwrap();
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        thread::yield_now();
    }
}

fn position(seq: u64) -> Applied {
    let epoch = Epoch { term: 1, run: 1, id: 1 };
    let seq = SequenceNumber::new(seq).unwrap();
    Applied { position: Position { epoch, seq }, hybrid: HybridTime::new(seq.as_u64(), 0) }
}

/// Folds one record that writes its number under two keys far apart.
fn fold_pair(database: &Database, seq: u64) {
    let mut batch = FoldBatch::new();
    for key in [b"one".as_slice(), b"other"] {
        let text = seq.to_string();
        batch.put_row(key, &string_row(HybridTime::new(seq, 0), None, text.as_bytes()));
    }
    database.fold(batch, position(seq)).unwrap();
}

fn pair(database: &Database) -> (u64, u64) {
    let number = |key: &[u8]| {
        let row = database.row(key).unwrap().unwrap();
        match RowRef::parse(&row).unwrap().value() {
            RowValue::String(text) => std::str::from_utf8(text).unwrap().parse::<u64>().unwrap(),
            RowValue::Hash { .. } => panic!("a string was written"),
        }
    };
    (number(b"one"), number(b"other"))
}

#[test]
fn data_and_position_that_survive_a_crash_are_of_one_record() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    for round in 0..10_u64 {
        let database = Database::open(&path, &database_options()).unwrap();
        let (first, flushed) = (round * 100 + 1, round * 100 + 40);
        for seq in first..first + 80 {
            fold_pair(&database, seq);
            if seq == flushed {
                database.flush().unwrap();
            }
        }
        drop(database);
        let database = Database::open(&path, &database_options()).unwrap();
        assert_eq!(database.applied().unwrap(), Some(position(flushed)), "nothing else persisted");
        assert_eq!(pair(&database), (flushed, flushed));
    }
}

/// Bytes of RocksDB's own write-ahead logs.
fn logged_bytes(state: &Path) -> u64 {
    let files = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    logs.map(|log| fs::metadata(log).unwrap().len()).sum()
}

#[test]
fn rocksdb_has_one_column_family_and_writes_no_log_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("state");
    let mut node = Node::open(root.path(), small()).unwrap();
    node.fold_in_background();
    for number in 0..1_000 {
        node.put(&format!("key:{number}"), &"value".repeat(20));
    }
    assert!(node.store.watermarks().applied > 0, "some of it was folded");
    assert_eq!(logged_bytes(&state), 0);
    node.close();
    assert_eq!(logged_bytes(&state), 0);
    let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &state).unwrap();
    assert_eq!(families, ["default"]);
    fs::write(state.join("999999.log"), "written by something else").unwrap();
    let refused = Node::open(root.path(), small()).err().unwrap();
    assert!(refused.to_string().contains("999999.log"), "{refused}");
}

#[test]
fn the_database_keeps_order_and_never_retries_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    drop(Database::open(&path, &database_options()).unwrap());
    let options = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let is_options =
        |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with("OPTIONS-");
    let text = fs::read_to_string(options.into_iter().find(is_options).unwrap()).unwrap();
    for wanted in [
        "unordered_write=false",
        "two_write_queues=false",
        "enable_pipelined_write=false",
        "max_bgerror_resume_count=0",
        "avoid_flush_during_shutdown=true",
    ] {
        assert!(text.lines().any(|line| line.trim() == wanted), "{wanted} is not in force");
    }
}

#[test]
fn replaying_twice_what_was_never_folded_counts_every_record_once() {
    let root = tempfile::tempdir().unwrap();
    for crash in 0..4_u64 {
        let mut node = Node::open(root.path(), small()).unwrap();
        assert_eq!(node.replayed, crash * 26, "25 writes and an epoch a run");
        assert_eq!(node.text("count").map_or(0, |text| text.parse().unwrap()), crash * 25);
        (0..25).for_each(|_| node.increment("count"));
    }
    let mut node = Node::open(root.path(), small()).unwrap();
    node.writer.seal();
    node.fold_once().unwrap();
    drop(node);
    let node = Node::open(root.path(), small()).unwrap();
    assert_eq!(node.replayed, 0, "everything was folded");
    assert_eq!(node.text("count").unwrap(), "100");
}

#[test]
fn deleting_every_key_is_a_record_and_survives_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), small()).unwrap();
    node.put("old", "folded");
    node.writer.seal();
    node.fold_once().unwrap();
    drop(node);
    let mut node = Node::open(root.path(), small()).unwrap();
    node.put("newer", "in flight");
    node.clear();
    node.put("newest", "after");
    drop(node);
    for folded in [false, true] {
        let mut node = Node::open(root.path(), small()).unwrap();
        let found = ["old", "newer", "newest"].map(|key| node.text(key));
        assert_eq!(found, [None, None, Some("after".to_owned())], "folded: {folded}");
        node.writer.seal();
        node.fold_once().unwrap();
    }
}

#[test]
fn the_log_is_kept_from_the_persisted_position_on_and_stays_bounded() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), small()).unwrap();
    node.fold_in_background();
    let mut most = 0;
    for number in 0..3_000 {
        node.put(&format!("key:{}", number % 100), &"value".repeat(20));
        let marks = node.store.watermarks();
        assert!(marks.trimmed <= marks.persisted, "{marks:?}");
        assert!(marks.persisted <= marks.applied && marks.applied <= marks.durable, "{marks:?}");
        most = most.max(node.store.log().bytes());
    }
    assert!(node.store.watermarks().trimmed > 0, "something was trimmed");
    let (unapplied, layers, segments) = (32 << 10, 2 * (8 << 10), 2 * (16 << 10));
    let bound = unapplied + layers + segments;
    assert!(most <= 2 * bound, "the log grew to {most} bytes");
    node.close();
}

#[test]
fn a_log_that_lost_what_the_state_needs_next_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { segment_bytes: 2 << 10, ..small() };
    let mut node = Node::open(root.path(), options.clone()).unwrap();
    node.put("first", "folded");
    node.writer.seal();
    node.fold_once().unwrap();
    drop(node);
    let mut node = Node::open(root.path(), options.clone()).unwrap();
    for number in 0..20 {
        node.put(&format!("key:{number}"), &"value".repeat(200));
    }
    assert!(node.store.log().segments().len() > 2);
    drop(node);
    let mut segments: Vec<_> =
        fs::read_dir(root.path().join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    fs::remove_file(&segments[0]).unwrap();
    let refused = Node::open(root.path(), options).err().unwrap();
    assert!(matches!(refused, StoreError::Log(LogError::Gap { .. })), "{refused}");
    assert_eq!(fs::read_dir(root.path().join("log")).unwrap().count(), segments.len() - 1);
}

#[test]
fn what_is_acknowledged_and_not_synced_is_not_folded() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { durability: Durability::Interval(3_600_000), ..small() };
    let mut node = Node::open(root.path(), options).unwrap();
    node.put("key", "visible");
    assert_eq!(node.text("key").unwrap(), "visible");
    node.writer.seal();
    node.fold_once().unwrap();
    let marks = node.store.watermarks();
    assert_eq!((marks.applied, marks.durable, marks.visible), (0, 1, 2), "the epoch is durable");
    assert_eq!(node.store.applied().unwrap(), None);
}

#[test]
fn a_failed_flush_closes_the_shard_and_opening_it_again_replays() {
    let root = tempfile::tempdir().unwrap();
    let (state, away) = (root.path().join("state"), root.path().join("away"));
    let mut node = Node::open(root.path(), small()).unwrap();
    for number in 0..20 {
        node.put(&format!("key:{number}"), "acknowledged");
    }
    node.writer.seal();
    node.fold_in_background();
    wait_for("the fold", || node.store.watermarks().applied > 1);
    // RocksDB can make no file any more; those that it has open stay usable.
    fs::rename(&state, &away).unwrap();
    node.store.request_flush();
    wait_for("the failure", || node.store.failure().is_some());
    let refused = node.writer.admit().unwrap_err();
    assert!(matches!(refused, Refusal::FoldFailed(_)), "{refused}");
    assert!(node.folding.take().unwrap().join().unwrap().is_err());
    drop(node);
    fs::rename(&away, &state).unwrap();
    let node = Node::open(root.path(), small()).unwrap();
    assert_eq!(node.store.watermarks().persisted, 0);
    for number in 0..20 {
        assert_eq!(node.text(&format!("key:{number}")).unwrap(), "acknowledged");
    }
    assert!(node.writer.admit().is_ok());
}
