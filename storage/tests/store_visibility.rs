//! Readers beside the writer, the sync thread and the fold: what they see is visible, whole, and
//! never goes back, through rotations, folds and FLUSHDB.
//!
//! Every record writes its own sequence number into all that it writes, and into a counter that
//! every record writes. So what a reader sees says which records it must have seen.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use larder_storage::{
    Batch, Durability, ScanPosition, Store, StoreOptions, Syncer, Txn, Visibility, Writer,
    row::RowValue,
};
use larder_types::SequenceNumber;
use rand::{Rng, SeedableRng, rngs::StdRng};
use store_support::{DEADLINE, Node, WALL_MS, seed, tiny, wait_for};

const BUDGET: Duration = Duration::from_secs(7);
/// What must have been written and folded; a slow machine has [`DEADLINE`] for it.
const RECORDS_MIN: u64 = 1_000;
const FOLDED_MIN: u64 = 800;
/// A reader that has learned nothing new in so many reads rests until more is written: readers that
/// never rest take the processors from those that write.
const READS_WITHOUT_NEWS: u32 = 200;
const HASHES: usize = 8;
const FILLERS: usize = 20;
const COUNTER: &[u8] = b"counter";
const READERS: u64 = 3;

/// For each hash, and last for the counter, the last record that was acknowledged.
type Acknowledged = [AtomicU64; HASHES + 1];

fn hash_key(index: usize) -> Vec<u8> {
    format!("hash:{index}").into_bytes()
}

fn filler(index: usize) -> String {
    format!("filler:{index:02}")
}

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

/// Writes a hash anew: its number, when it was born, one of two fields, and fillers.
fn create(txn: &mut Txn<'_>, index: usize, seq: u64) {
    let seq = seq.to_string();
    let names: Vec<String> = ["a", "b", "born", "x"]
        .into_iter()
        .map(String::from)
        .chain((0..FILLERS).map(filler))
        .collect();
    let pairs: Vec<(&[u8], &[u8])> =
        names.iter().map(|name| (name.as_bytes(), seq.as_bytes())).collect();
    txn.delete(&hash_key(index)).unwrap();
    assert_eq!(txn.hash_put(&hash_key(index), &pairs).unwrap(), pairs.len() as u64);
}

/// Changes the hash's number, and which of the fields x and y it has.
fn change(txn: &mut Txn<'_>, index: usize, seq: u64) {
    let (key, seq) = (hash_key(index), seq.to_string());
    let seq = seq.as_bytes();
    txn.hash_put(&key, &[(b"a", seq), (b"b", seq)]).unwrap();
    let has_x = txn.view().row_and_fields(&key, &[b"x"]).unwrap().unwrap().1[0].is_some();
    let (old, new): (&[u8], &[u8]) = if has_x { (b"x", b"y") } else { (b"y", b"x") };
    assert_eq!(txn.hash_delete(&key, &[old]).unwrap(), 1);
    txn.hash_put(&key, &[(new, seq)]).unwrap();
}

/// One record; answers which hashes it wrote.
fn write(random: &mut StdRng, writer: &mut Writer) -> (u64, Vec<usize>) {
    let seq = writer.last().seq.next().as_u64();
    let mut txn = writer.transaction(WALL_MS);
    let index = random.random_range(0..HASHES);
    let mut written = vec![index];
    match random.random_range(0..20) {
        0 => {
            // What is written before a clear in the same record must never show.
            txn.put_string(b"ghost", b"", None).unwrap();
            txn.delete(COUNTER).unwrap();
            txn.clear().unwrap();
            if random.random() {
                txn.put_string(b"ghost", b"", None).unwrap();
                txn.clear().unwrap();
            }
            written = (0..HASHES).collect();
            (0..HASHES).for_each(|index| create(&mut txn, index, seq));
        }
        1..6 => create(&mut txn, index, seq),
        _ => change(&mut txn, index, seq),
    }
    txn.put_string(COUNTER, seq.to_string().as_bytes(), None).unwrap();
    assert_eq!(txn.commit().unwrap().seq.as_u64(), seq);
    (seq, written)
}

struct Committed {
    batch: Batch,
    /// The last record that wrote each of these, the counter's under the last index.
    wrote: BTreeMap<usize, u64>,
}

/// Makes batches durable. Where visibility waits for commits they come a batch late, as they do
/// from other nodes, unless no batch follows.
fn sync(
    mut syncer: Syncer,
    store: &Store,
    visibility: Visibility,
    batches: &mpsc::Receiver<Committed>,
    acknowledged: &Acknowledged,
) {
    let mut held: Option<(SequenceNumber, BTreeMap<usize, u64>)> = None;
    let release = |held: &mut Option<(SequenceNumber, BTreeMap<usize, u64>)>| {
        let Some((last, wrote)) = held.take() else { return };
        store.commit(last);
        for (index, seq) in wrote {
            acknowledged[index].store(seq, Ordering::Release);
        }
    };
    loop {
        let next = batches.try_recv().or_else(|_| {
            release(&mut held);
            batches.recv()
        });
        let Ok(Committed { batch, wrote }) = next else { break };
        let last = batch.last();
        syncer.commit(batch).unwrap();
        release(&mut held);
        held = Some((last, wrote));
        if visibility == Visibility::Durable {
            release(&mut held);
        }
        syncer.sync_rest().unwrap();
    }
    release(&mut held);
    syncer.close().unwrap();
}

/// Reads at random, and checks each answer by itself and against those before it.
struct Reader {
    random: StdRng,
    store: Store,
    acknowledged: Arc<Acknowledged>,
    seen: [u64; HASHES + 1],
    reads: u64,
    /// Answers that were newer than the last one of the same key.
    news: u64,
}

impl Reader {
    fn read(&mut self) {
        let index = self.random.random_range(0..HASHES);
        match self.random.random_range(0..20) {
            0 => self.scan(),
            1..6 => self.counter(),
            6..12 => self.all_fields(index),
            _ => self.some_fields(index),
        }
        self.reads += 1;
    }

    fn read_until(&mut self, stop: &AtomicBool) {
        let (mut news, mut without) = (0, 0);
        while !stop.load(Ordering::Acquire) {
            self.read();
            without = if self.news > news { 0 } else { without + 1 };
            news = self.news;
            if without == READS_WITHOUT_NEWS {
                without = 0;
                thread::park();
            }
        }
    }

    /// What is known to be visible before a question.
    fn floor(&self, index: usize) -> u64 {
        self.acknowledged[index].load(Ordering::Acquire).max(self.seen[index])
    }

    /// Checks the number read under `index` against what was known before, and against what is
    /// visible by now.
    fn note(&mut self, index: usize, floor: u64, found: u64) {
        let visible = self.store.watermarks().visible;
        assert!(found >= floor, "record {found} of {index} after record {floor} was seen");
        assert!(found <= visible, "record {found} of {index}, but only {visible} is visible");
        self.news += u64::from(found > self.seen[index]);
        self.seen[index] = found;
        // Every record writes the counter.
        self.seen[HASHES] = self.seen[HASHES].max(found);
    }

    fn counter(&mut self) {
        let floor = self.floor(HASHES);
        let row = self.store.view(WALL_MS).row(COUNTER).unwrap().expect("there always is one");
        let RowValue::String(text) = row.as_ref().value() else { panic!("not a string") };
        self.note(HASHES, floor, number(text));
    }

    fn some_fields(&mut self, index: usize) {
        let floor = self.floor(index);
        // What one record changes is asked for first and last, so that much lies between.
        let fillers: Vec<String> = (0..FILLERS).map(filler).collect();
        let mut names: Vec<&[u8]> = vec![b"a", b"x", b"born"];
        names.extend(fillers.iter().map(|name| name.as_bytes()));
        names.extend([b"y".as_slice(), b"b"]);
        let view = self.store.view(WALL_MS);
        let (row, fields) = view.row_and_fields(&hash_key(index), &names).unwrap().expect("a row");
        let field = |at: usize| fields[at].as_deref().map(number);
        assert_eq!(count(row.as_ref().value()), FILLERS as u64 + 4);
        let found = field(0).expect("a row is never without its fields");
        assert_eq!(field(names.len() - 1), Some(found), "two fields of one record");
        let born = field(2).expect("a row is never without its fields");
        assert!(born <= found);
        let others = (3..names.len() - 2).all(|at| field(at) == Some(born));
        assert!(others, "fields of the record that made the hash");
        assert_ne!(field(1).is_some(), field(names.len() - 2).is_some(), "either x or y");
        assert_eq!(fields[0].as_ref().unwrap().version(), row.as_ref().version());
        self.note(index, floor, found);
    }

    fn all_fields(&mut self, index: usize) {
        let floor = self.floor(index);
        let view = self.store.view(WALL_MS);
        let (row, fields) = view.row_and_all_fields(&hash_key(index)).unwrap().expect("a row");
        let fields: BTreeMap<&[u8], u64> =
            fields.iter().map(|(name, value)| (&**name, number(value))).collect();
        assert_eq!(count(row.as_ref().value()), fields.len() as u64, "{fields:?}");
        assert_eq!(fields.len(), FILLERS + 4, "{fields:?}");
        let found = fields[b"a".as_slice()];
        assert_eq!(fields[b"b".as_slice()], found, "two fields of one record");
        let born = fields[b"born".as_slice()];
        assert!((0..FILLERS).all(|at| fields[filler(at).as_bytes()] == born), "{fields:?}");
        assert_ne!(fields.contains_key(b"x".as_slice()), fields.contains_key(b"y".as_slice()));
        self.note(index, floor, found);
    }

    /// Every key is always there, and nothing else ever is.
    fn scan(&mut self) {
        let mut found = Vec::new();
        let visit = &mut |key: &[u8], _: larder_storage::row::RowRef<'_>| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        };
        self.store.view(WALL_MS).scan(ScanPosition::default(), visit).unwrap();
        found.sort();
        let mut expected: Vec<_> = (0..HASHES).map(hash_key).collect();
        expected.push(COUNTER.to_vec());
        expected.sort();
        assert_eq!(found, expected, "a scan");
    }
}

fn wake<T>(threads: &[thread::JoinHandle<T>]) {
    threads.iter().for_each(|thread| thread.thread().unpark());
}

fn count(value: RowValue<'_>) -> u64 {
    match value {
        RowValue::Hash { fields, .. } => fields,
        RowValue::String(_) => panic!("not a hash"),
    }
}

fn read_beside_writes(durability: Durability, visibility: Visibility) {
    let seed = seed();
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { durability, visibility, ..tiny() };
    let node = Node::open(root.path(), options).unwrap();
    let Node { mut writer, syncer, folder, store, directory: _directory, .. } = node;
    let acknowledged: Arc<Acknowledged> = Arc::default();
    let (hand_over, batches) = mpsc::sync_channel(2);
    let syncing = thread::spawn({
        let (acknowledged, store) = (acknowledged.clone(), store.clone());
        move || sync(syncer, &store, visibility, &batches, &acknowledged)
    });
    let folding = thread::spawn(move || folder.run());

    let mut txn = writer.transaction(WALL_MS);
    (0..HASHES).for_each(|index| create(&mut txn, index, 2));
    txn.put_string(COUNTER, b"2", None).unwrap();
    txn.commit().unwrap();
    let wrote = (0..=HASHES).map(|index| (index, 2)).collect();
    hand_over.send(Committed { batch: writer.take_batch().unwrap(), wrote }).unwrap();
    wait_for("the first record", || acknowledged[HASHES].load(Ordering::Acquire) == 2);

    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (store, acknowledged, stop) = (store.clone(), acknowledged.clone(), stop.clone());
            let random = StdRng::seed_from_u64(seed ^ (reader + 1));
            let seen = [0; HASHES + 1];
            let mut reader = Reader { random, store, acknowledged, seen, reads: 0, news: 0 };
            thread::spawn(move || {
                reader.read_until(&stop);
                (reader.reads, reader.news)
            })
        })
        .collect();

    let mut random = StdRng::seed_from_u64(seed);
    let (began, mut last) = (Instant::now(), 0);
    let enough = |last| last >= RECORDS_MIN && store.watermarks().applied >= FOLDED_MIN;
    let over = |last| began.elapsed() >= if enough(last) { BUDGET } else { DEADLINE };
    while !over(last) && !readers.iter().any(thread::JoinHandle::is_finished) {
        writer.wait_for_room();
        let mut wrote = BTreeMap::new();
        for _ in 0..random.random_range(1..6) {
            let (seq, written) = write(&mut random, &mut writer);
            wrote.extend(written.into_iter().chain([HASHES]).map(|index| (index, seq)));
            last = seq;
        }
        let batch = writer.take_batch().unwrap();
        hand_over.send(Committed { batch, wrote }).unwrap();
        wake(&readers);
    }
    drop(hand_over);
    syncing.join().unwrap();
    stop.store(true, Ordering::Release);
    wake(&readers);
    let ends: Vec<_> = readers.into_iter().map(thread::JoinHandle::join).collect();
    let marks = store.watermarks();
    store.stop_folding();
    folding.join().unwrap().unwrap();
    // A reader that failed is told of after the fold has ended, for a process that ends while
    // RocksDB works may hang.
    let figures: Vec<(u64, u64)> = ends.into_iter().map(Result::unwrap).collect();
    println!(
        "{durability:?}, {visibility:?}: {last} records; reads, and of these with news: {figures:?}; {marks:?}"
    );
    assert!(last >= RECORDS_MIN && marks.applied >= FOLDED_MIN, "too little happened");
    assert!(figures.iter().all(|(reads, news)| *reads > 5_000 && *news > 100), "too few reads");
}

#[test]
fn readers_see_whole_visible_records_only_and_never_go_back() {
    read_beside_writes(Durability::Fsync, Visibility::Durable);
}

#[test]
fn the_same_where_records_are_visible_only_once_they_are_committed() {
    read_beside_writes(Durability::Fsync, Visibility::Committed);
}

#[test]
fn the_same_where_writes_are_visible_before_they_are_durable() {
    read_beside_writes(Durability::Interval(3_600_000), Visibility::Durable);
}

#[test]
fn what_is_not_committed_is_seen_by_the_writer_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    node.put("key", "old");
    node.append("key", "new");
    node.writer.seal();
    assert!(node.folder.fold_one().unwrap().is_break(), "what is not durable is not folded");
    let newest = node.writer.view(WALL_MS).row(b"key").unwrap().unwrap();
    assert_eq!(newest.as_ref().value(), RowValue::String(b"new"));
    drop(newest);
    assert_eq!(node.text("key").as_deref(), Some("old"));
    node.commit();
    assert_eq!(node.text("key").as_deref(), Some("new"));
}
