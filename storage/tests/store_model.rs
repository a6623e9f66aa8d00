//! A store against an ordered map: random transactions, folds, flushes, compactions, restarts,
//! crashes and checkpoints that the history goes on with; contents are compared by every way of reading them, versions included.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use larder_storage::{
    Directory, Durability, OpenAs, ScanPosition, StoreOptions, Txn, TxnError, View, row::RowValue,
    snapshot::Incoming,
};
use larder_types::{
    HybridTime, Unit,
    limits::{FIELD_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use store_support::{DEADLINE, Node, WALL_MS, seed, tiny};

const BUDGET: Duration = Duration::from_secs(15);
const STEPS_OF_A_HISTORY: usize = 600;
/// Each of these happens so often a run, at least; a slow machine has [`DEADLINE`] for it.
const EXPECTED: [&str; 7] =
    ["checkpoint", "crash", "restart", "fold", "flush", "compaction", "transaction"];
const EACH_MIN: u64 = 10;
const KEYS: u32 = 40;
const FIELDS: u32 = 24;

type Bytes = Vec<u8>;
type Fields = BTreeMap<Bytes, (HybridTime, Bytes)>;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    String(Bytes),
    Hash(Fields),
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    version: HybridTime,
    expiry: Option<u64>,
    value: Value,
}

/// By unit and key, as a scan goes.
type Map = BTreeMap<(u16, Bytes), Entry>;

fn place(key: &[u8]) -> (u16, Bytes) {
    (Unit::of_key(key).as_u16(), key.to_vec())
}

fn live(entry: &Entry, now_ms: u64) -> bool {
    entry.expiry.is_none_or(|expiry| expiry > now_ms)
}

/// What a store must say, as a map.
#[derive(Clone, Default)]
struct Model {
    map: Map,
}

impl Model {
    fn entry(&mut self, key: &[u8], now_ms: u64) -> Option<&mut Entry> {
        self.map.get_mut(&place(key)).filter(|entry| live(entry, now_ms))
    }

    fn put_string(&mut self, key: &[u8], version: HybridTime, expiry: Option<u64>, value: &[u8]) {
        let value = Value::String(value.to_vec());
        self.map.insert(place(key), Entry { version, expiry, value });
    }

    fn delete(&mut self, key: &[u8], now_ms: u64) -> bool {
        let was_there = self.entry(key, now_ms).is_some();
        if was_there {
            self.map.remove(&place(key));
        }
        was_there
    }

    /// Its fields, if the key may hold a hash.
    fn hash(&mut self, key: &[u8], now_ms: u64) -> Option<&mut Entry> {
        if self.entry(key, now_ms).is_none() {
            let value = Value::Hash(Fields::new());
            let entry = Entry { version: HybridTime::ZERO, expiry: None, value };
            self.map.insert(place(key), entry);
        }
        self.map.get_mut(&place(key)).filter(|entry| matches!(entry.value, Value::Hash(_)))
    }
}

/// A store, what it must say when everything is seen, and when only what is committed is.
struct History {
    random: StdRng,
    root: tempfile::TempDir,
    options: StoreOptions,
    node: Option<Node>,
    newest: Model,
    committed: Model,
    wall_ms: u64,
    /// The greatest time a transaction went by.
    now_ms: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let durability = match random.random_range(0..3) {
            0 => Durability::Interval(3_600_000),
            _ => Durability::Fsync,
        };
        let options = StoreOptions { durability, ..tiny() };
        let root = tempfile::tempdir().unwrap();
        let node = Some(Node::open(root.path(), options.clone()).unwrap());
        let (newest, committed) = (Model::default(), Model::default());
        let (wall_ms, now_ms, counts) = (WALL_MS, WALL_MS, BTreeMap::new());
        Self { random, root, options, node, newest, committed, wall_ms, now_ms, counts }
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().unwrap()
    }

    fn step(&mut self) -> Result<(), String> {
        let what = match self.random.random_range(0..100) {
            0..45 => self.transaction(),
            45..70 => self.commit(),
            70..82 => {
                let _ = self.node().folder.fold_one().unwrap();
                "fold"
            }
            82..86 => {
                self.node().writer.seal();
                "seal"
            }
            86..89 => {
                self.node().folder.flush().unwrap();
                "flush"
            }
            89..90 => {
                self.node().store.database().unwrap().compact().unwrap();
                "compaction"
            }
            90..92 => {
                let syncer = &mut self.node().syncer;
                syncer.sync_rest().unwrap();
                syncer.idle().unwrap();
                "idle"
            }
            92..94 => self.restart(),
            94..96 => self.crash(),
            96..97 => self.checkpoint(),
            _ => {
                self.compare()?;
                "comparison"
            }
        };
        *self.counts.entry(what).or_default() += 1;
        Ok(())
    }

    fn commit(&mut self) -> &'static str {
        self.node().commit();
        self.committed = self.newest.clone();
        "commit"
    }

    fn restart(&mut self) -> &'static str {
        self.commit();
        self.node.take().unwrap().close();
        self.open();
        // The record that began the epoch is not folded by itself.
        assert!(self.node().replayed <= 1, "a store that ended in order has nothing to replay");
        "restart"
    }

    /// What was appended and not committed is gone.
    fn crash(&mut self) -> &'static str {
        drop(self.node.take());
        self.newest = self.committed.clone();
        self.open();
        "crash"
    }

    /// A checkpoint is put into another directory and caught up from the log, and the history goes on
    /// there.
    fn checkpoint(&mut self) -> &'static str {
        self.commit();
        let (id, fold_all) = (self.random.random(), self.random.random());
        let mut node = self.node.take().unwrap();
        node.syncer.sync_rest().unwrap();
        if fold_all || node.store.watermarks().applied == 0 {
            node.writer.seal();
            node.fold();
        }
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let snapshot = node.store.snapshot(&node.directory, id).unwrap();
        let mut incoming = Incoming::begin(&directory, snapshot.manifest().clone()).unwrap();
        while let Some((file, offset)) = incoming.missing().unwrap() {
            let bytes = snapshot.read(file, offset, 1 << 20).unwrap();
            incoming.write(file, offset, &bytes).unwrap();
        }
        incoming.install(&directory, &self.options.database, "before").unwrap();
        drop((snapshot, directory));
        let log = Some(node.store.log().id());
        let role = OpenAs::Follower { log };
        let mut restored = Node::open_as(root.path(), self.options.clone(), role).unwrap();
        restored.follow(&node, 1 << 20);
        assert_eq!(restored.writer.tail(), node.writer.tail());
        restored.syncer.sync_rest().unwrap();
        drop((restored, node));
        self.root = root;
        self.open();
        "checkpoint"
    }

    fn open(&mut self) {
        self.node = Some(Node::open(self.root.path(), self.options.clone()).unwrap());
    }

    fn transaction(&mut self) -> &'static str {
        let Self { random, node, newest, wall_ms, now_ms, .. } = self;
        // The wall goes on by leaps, and back at times.
        *wall_ms = (*wall_ms + random.random_range(0..400)).saturating_sub(100);
        let mut txn = node.as_mut().unwrap().writer.transaction(*wall_ms);
        *now_ms = (*now_ms).max(txn.now_ms());
        for _ in 0..random.random_range(1..6) {
            effect(random, &mut txn, newest);
        }
        match txn.commit() {
            Some(_) => "transaction",
            None => "transaction without effect",
        }
    }

    fn compare(&mut self) -> Result<(), String> {
        let Self { random, node, newest, committed, now_ms, .. } = self;
        let node = node.as_ref().unwrap();
        compare(random, &node.writer.view(*now_ms), newest)
            .map_err(|why| format!("newest: {why}"))?;
        compare(random, &node.store.view(*now_ms), committed)
            .map_err(|why| format!("visible: {why}"))
    }
}

fn key(random: &mut StdRng) -> Bytes {
    format!("key:{}", random.random_range(0..KEYS)).into_bytes()
}

fn fields(random: &mut StdRng) -> Vec<Bytes> {
    let count = random.random_range(1..8);
    (0..count).map(|_| format!("f{:02}", random.random_range(0..FIELDS)).into_bytes()).collect()
}

fn value(random: &mut StdRng) -> Bytes {
    let bytes = if random.random_ratio(1, 20) { 2_000 } else { 30 };
    (0..random.random_range(0..bytes)).map(|_| random.random()).collect()
}

/// Does one random effect to both, or sees it refused, as it has to be.
fn effect(random: &mut StdRng, txn: &mut Txn<'_>, model: &mut Model) {
    let (key, stamp, now_ms) = (key(random), txn.stamp(), txn.now_ms());
    match random.random_range(0..100) {
        0..30 => {
            let value = value(random);
            let expiry = random.random_ratio(1, 3).then(|| now_ms + random.random_range(0..2_000));
            txn.put_string(&key, &value, expiry).unwrap();
            model.put_string(&key, stamp, expiry, &value);
        }
        30..60 => put_fields(random, txn, model, &key),
        60..72 => delete_fields(random, txn, model, &key),
        72..82 => {
            assert_eq!(txn.delete(&key).unwrap(), model.delete(&key, now_ms));
        }
        82..92 => {
            let expiry = random.random_ratio(2, 3).then(|| now_ms + random.random_range(0..2_000));
            let entry = model.entry(&key, now_ms);
            assert_eq!(txn.set_expiry(&key, expiry).unwrap(), entry.is_some());
            if let Some(entry) = entry {
                (entry.expiry, entry.version) = (expiry, stamp);
            }
        }
        92..94 => {
            txn.clear().unwrap();
            model.map.clear();
        }
        _ => refused(random, txn),
    }
}

fn put_fields(random: &mut StdRng, txn: &mut Txn<'_>, model: &mut Model, key: &[u8]) {
    let (stamp, now_ms) = (txn.stamp(), txn.now_ms());
    let pairs: Vec<(Bytes, Bytes)> =
        fields(random).into_iter().map(|field| (field, value(random))).collect();
    let borrowed: Vec<(&[u8], &[u8])> = pairs.iter().map(|(f, v)| (&**f, &**v)).collect();
    let outcome = txn.hash_put(key, &borrowed);
    let Some(entry) = model.hash(key, now_ms) else {
        assert!(matches!(outcome, Err(TxnError::WrongType)), "{outcome:?}");
        return;
    };
    let Value::Hash(fields) = &mut entry.value else { unreachable!("a hash was asked for") };
    let before = fields.len();
    fields.extend(pairs.into_iter().map(|(field, value)| (field, (stamp, value))));
    entry.version = stamp;
    assert_eq!(outcome.unwrap(), (fields.len() - before) as u64);
}

fn delete_fields(random: &mut StdRng, txn: &mut Txn<'_>, model: &mut Model, key: &[u8]) {
    let (stamp, now_ms) = (txn.stamp(), txn.now_ms());
    let names = fields(random);
    let borrowed: Vec<&[u8]> = names.iter().map(|name| &**name).collect();
    let outcome = txn.hash_delete(key, &borrowed);
    let Some(entry) = model.entry(key, now_ms) else {
        assert_eq!(outcome.unwrap(), 0);
        return;
    };
    let Value::Hash(fields) = &mut entry.value else {
        assert!(matches!(outcome, Err(TxnError::WrongType)), "{outcome:?}");
        return;
    };
    let before = fields.len();
    fields.retain(|field, _| !names.contains(field));
    let removed = before - fields.len();
    assert_eq!(outcome.unwrap(), removed as u64);
    if fields.is_empty() {
        model.map.remove(&place(key));
    } else if removed > 0 {
        entry.version = stamp;
    }
}

/// Effects beyond the limits, which leave nothing behind.
fn refused(random: &mut StdRng, txn: &mut Txn<'_>) {
    let long = vec![b'x'; KEY_BYTES_MAX.max(FIELD_BYTES_MAX) + 1];
    let outcome = match random.random_range(0..3) {
        0 => txn.put_string(&long, b"", None),
        1 => txn.hash_put(b"key:1", &[(b"new".as_slice(), b"".as_slice()), (&long, b"")]).map(drop),
        _ => txn.put_string(b"key:1", &vec![0; VALUE_BYTES_MAX + 1], None),
    };
    assert!(outcome.is_err());
}

/// Compares everything that `view` says with the model, in every way there is to ask.
fn compare(random: &mut StdRng, view: &View<'_>, model: &Model) -> Result<(), String> {
    let expected: Vec<(&Bytes, &Entry)> = model
        .map
        .iter()
        .filter(|(_, entry)| live(entry, view.now_ms()))
        .map(|((_, key), entry)| (key, entry))
        .collect();
    compare_scan(random, view, &expected)?;
    let counted = view.count_keys().map_err(|error| error.to_string())?;
    if counted != expected.len() as u64 {
        return Err(format!("{counted} keys where there are {}", expected.len()));
    }
    for number in 0..KEYS {
        let key = format!("key:{number}").into_bytes();
        let entry = expected.iter().find(|(name, _)| **name == key).map(|(_, entry)| *entry);
        let found = read(random, view, &key).map_err(|why| format!("key:{number}: {why}"))?;
        if found.as_ref() != entry {
            return Err(format!("key:{number} is {found:?}, must be {entry:?}"));
        }
    }
    Ok(())
}

/// Scans in pieces: keys, their order, versions and expiries.
fn compare_scan(
    random: &mut StdRng,
    view: &View<'_>,
    expected: &[(&Bytes, &Entry)],
) -> Result<(), String> {
    let mut found = Vec::new();
    let mut next = Some(ScanPosition::default());
    while let Some(from) = next {
        let mut left = random.random_range(1..50);
        let visited = view.scan(from, &mut |key, row| {
            found.push((key.to_vec(), row.version(), row.expiry()));
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        next = visited.map_err(|error| error.to_string())?;
    }
    let expected: Vec<_> =
        expected.iter().map(|(key, entry)| ((*key).clone(), entry.version, entry.expiry)).collect();
    if found == expected { Ok(()) } else { Err(format!("a scan: {found:?}, must be {expected:?}")) }
}

/// Reads one key by every call there is; they must agree.
fn read(random: &mut StdRng, view: &View<'_>, key: &[u8]) -> Result<Option<Entry>, String> {
    let fail = |error: larder_storage::StateError| error.to_string();
    let row = view.row(key).map_err(fail)?;
    let all = view.row_and_all_fields(key).map_err(fail)?;
    let Some(row) = row else {
        return if all.is_none() { Ok(None) } else { Err("fields without a row".into()) };
    };
    let (same, named) = all.ok_or("a row, but not with its fields")?;
    let (row, same) = (row.as_ref(), same.as_ref());
    if row != same {
        return Err(format!("{row:?} alone, {same:?} with its fields"));
    }
    let value = match row.value() {
        RowValue::String(bytes) => Value::String(bytes.to_vec()),
        RowValue::Hash { fields: count, .. } => {
            let fields: Fields = named
                .iter()
                .map(|(name, value)| (name.to_vec(), (value.version(), value.to_vec())))
                .collect();
            if count != fields.len() as u64 || named.len() != fields.len() {
                return Err(format!("{count} fields by the row, {} read", named.len()));
            }
            compare_parts(random, view, key, &fields)?;
            Value::Hash(fields)
        }
    };
    Ok(Some(Entry { version: row.version(), expiry: row.expiry(), value }))
}

/// Some fields by name, and some from the middle on.
fn compare_parts(
    random: &mut StdRng,
    view: &View<'_>,
    key: &[u8],
    all: &Fields,
) -> Result<(), String> {
    let names = fields(random);
    let borrowed: Vec<&[u8]> = names.iter().map(|name| &**name).collect();
    let (_, found) = view.row_and_fields(key, &borrowed).unwrap().ok_or("no row for fields")?;
    for (name, found) in names.iter().zip(found) {
        let found = found.map(|value| (value.version(), value.to_vec()));
        if found.as_ref() != all.get(name) {
            return Err(format!("field {name:?} alone is {found:?}"));
        }
    }
    let after = names.choose(random).map(|name| &**name);
    let limit = random.random_range(0..FIELDS as usize);
    let page = view.row_and_fields_after(key, after, limit, usize::MAX).unwrap();
    let page = page.ok_or("no row after")?;
    let found: Vec<_> = page
        .fields
        .iter()
        .map(|(name, value)| (name.to_vec(), (value.version(), value.to_vec())))
        .collect();
    let beyond = |name: &Bytes| after.is_none_or(|after| **name > *after);
    let expected = all.iter().filter(|(name, _)| beyond(name)).take(limit);
    let expected: Vec<_> = expected.map(|(name, value)| (name.clone(), value.clone())).collect();
    let left = all.keys().filter(|name| beyond(name)).count() - expected.len();
    if found == expected && (left == 0 || !page.complete) {
        Ok(())
    } else {
        Err(format!("{limit} fields after {after:?}: {found:?}, must be {expected:?}"))
    }
}

#[test]
fn a_store_says_what_an_ordered_map_says() {
    let seed = seed();
    let given = std::env::var_os("LARDER_SEED").is_some();
    let began = Instant::now();
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut histories = 0;
    let enough = |counts: &BTreeMap<&'static str, u64>| {
        EXPECTED.iter().all(|what| counts.get(what).is_some_and(|count| *count >= EACH_MIN))
    };
    let over = |counts: &_| began.elapsed() >= if enough(counts) { BUDGET } else { DEADLINE };
    while histories == 0 || !(given || over(&counts)) {
        let seed = seed.wrapping_add(histories);
        let mut history = History::new(seed);
        for step in 0..STEPS_OF_A_HISTORY {
            if let Err(why) = history
                .step()
                .and_then(|()| if step % 20 == 0 { history.compare() } else { Ok(()) })
            {
                panic!("LARDER_SEED={seed}, step {step}: {why}");
            }
        }
        for (what, count) in history.counts {
            *counts.entry(what).or_default() += count;
        }
        histories += 1;
    }
    println!("{histories} histories in {:?}: {counts:?}", began.elapsed());
    assert!(given || enough(&counts), "too few of something: each at least {EACH_MIN} times");
}

#[test]
fn a_model_that_differs_in_anything_is_noticed() {
    let mut history = History::new(7);
    let mut txn = history.node().writer.transaction(WALL_MS);
    let (stamp, hash) = (txn.stamp(), b"key:1".as_slice());
    txn.put_string(b"key:2", b"value", None).unwrap();
    txn.hash_put(hash, &[(b"f00".as_slice(), b"a".as_slice()), (b"f01", b"b")]).unwrap();
    txn.commit().unwrap();
    history.newest.put_string(b"key:2", stamp, None, b"value");
    let entry = history.newest.hash(hash, WALL_MS).unwrap();
    entry.version = stamp;
    let Value::Hash(fields) = &mut entry.value else { unreachable!("it was made as a hash") };
    fields.insert(b"f00".to_vec(), (stamp, b"a".to_vec()));
    fields.insert(b"f01".to_vec(), (stamp, b"b".to_vec()));
    history.commit();
    history.compare().unwrap();

    let alter: [fn(&mut Map); 6] = [
        |map| drop(map.remove(&place(b"key:2"))),
        |map| map.get_mut(&place(b"key:2")).unwrap().value = Value::String(b"valuE".to_vec()),
        |map| map.get_mut(&place(b"key:2")).unwrap().version = HybridTime::ZERO,
        |map| map.get_mut(&place(b"key:2")).unwrap().expiry = Some(u64::MAX),
        |map| {
            let entry = map.get(&place(b"key:2")).unwrap().clone();
            map.insert(place(b"key:3"), entry);
        },
        |map| {
            let Value::Hash(fields) = &mut map.get_mut(&place(b"key:1")).unwrap().value else {
                unreachable!("it was made as a hash")
            };
            fields.get_mut(b"f01".as_slice()).unwrap().1 = b"c".to_vec();
        },
    ];
    let right = history.committed.clone();
    for (index, alter) in alter.into_iter().enumerate() {
        alter(&mut history.committed.map);
        assert!(history.compare().is_err(), "alteration {index} was not noticed");
        history.committed = right.clone();
    }
    history.compare().unwrap();
}
