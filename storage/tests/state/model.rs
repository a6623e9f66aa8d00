//! Random folds, flushes, crashes, compactions, and checkpoints that are gone on with, against an
//! ordered map.
//!
//! `LARDER_FUZZ_SECONDS` bounds the time (default 5); `LARDER_FUZZ_SEED` repeats a run.

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use larder_storage::{
    row::{self, Generation, RowRef, RowValue},
    state::{Applied, Database, DatabaseOptions, FoldBatch},
};
use larder_types::HybridTime;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use crate::support::*;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    String(Vec<u8>),
    Hash(Generation, BTreeMap<Vec<u8>, Vec<u8>>),
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    expiry: Option<u64>,
    value: Value,
}

type Model = BTreeMap<Vec<u8>, Entry>;

/// Each of these must happen so often a run.
const EACH_MIN: u64 = 10;
/// A run goes on so many times longer than it should until they have.
const PATIENCE: u32 = 12;

/// What happened.
#[derive(Debug, Default)]
struct Counts {
    folds: u64,
    clears: u64,
    flushes: u64,
    crashes: u64,
    checkpoints: u64,
    compactions: u64,
    dropped_by_filter: u64,
}

impl Counts {
    fn suffice(&self) -> bool {
        let Self { folds, clears, flushes, crashes, checkpoints, compactions, .. } = self;
        let each = [folds, clears, flushes, crashes, checkpoints, compactions];
        each.into_iter().all(|count| *count >= EACH_MIN) && self.dropped_by_filter > 0
    }
}

/// The history of one database, and the model's state after each record of it.
struct Run {
    random: SmallRng,
    options: DatabaseOptions,
    /// Where the database is.
    directory: TempDir,
    model: Model,
    last: Applied,
    /// States by sequence number, from the persisted one on.
    history: BTreeMap<u64, (Applied, Model)>,
    counts: Counts,
}

impl Run {
    fn record(&mut self, batch: &mut FoldBatch) {
        let seq = self.last.position.seq.as_u64() + 1;
        let now = self.last.hybrid.millis() + self.random.random_range(0..3);
        self.last = applied_at(seq, now);
        let key = format!("k{}", self.random.random_range(0..24)).into_bytes();
        if self.model.get(&key).is_some_and(|entry| entry.expiry.is_some_and(|at| at <= now)) {
            self.model.remove(&key);
        }
        match self.random.random_range(0..100) {
            0..30 => self.set(batch, key, now),
            30..70 => self.set_fields(batch, key),
            70..80 => self.delete_field(batch, key),
            80..90 => {
                batch.delete_row(&key);
                self.model.remove(&key);
            }
            _ => self.expire(batch, key, now),
        }
        self.history.insert(seq, (self.last, self.model.clone()));
    }

    fn expiry(&mut self, now: u64) -> Option<u64> {
        self.random.random_bool(0.4).then(|| now + self.random.random_range(1..60))
    }

    fn put_row(&mut self, batch: &mut FoldBatch, key: &[u8]) {
        let Entry { expiry, value } = &self.model[key];
        let row = match value {
            Value::String(value) => row::string_row(HybridTime::ZERO, *expiry, value),
            Value::Hash(generation, fields) => {
                row::hash_row(HybridTime::ZERO, *expiry, *generation, fields.len() as u64)
            }
        };
        batch.put_row(key, &row);
    }

    fn set(&mut self, batch: &mut FoldBatch, key: Vec<u8>, now: u64) {
        let value = vec![self.random.random(); self.random.random_range(0..300)];
        let entry = Entry { expiry: self.expiry(now), value: Value::String(value) };
        self.model.insert(key.clone(), entry);
        self.put_row(batch, &key);
    }

    fn set_fields(&mut self, batch: &mut FoldBatch, key: Vec<u8>) {
        let new = Value::Hash(generation(self.last.position.seq.as_u64()), BTreeMap::new());
        let entry =
            self.model.entry(key.clone()).or_insert(Entry { expiry: None, value: new.clone() });
        if matches!(entry.value, Value::String(_)) {
            *entry = Entry { expiry: None, value: new };
        }
        let Value::Hash(generation, fields) = &mut entry.value else { unreachable!() };
        for _ in 0..self.random.random_range(1..8) {
            let field = format!("f{}", self.random.random_range(0..30)).into_bytes();
            let value = vec![self.random.random(); self.random.random_range(0..100)];
            batch.put_element(&key, *generation, &field, &row::field_row(HybridTime::ZERO, &value));
            fields.insert(field, value);
        }
        self.put_row(batch, &key);
    }

    fn delete_field(&mut self, batch: &mut FoldBatch, key: Vec<u8>) {
        let Some(Entry { value: Value::Hash(generation, fields), .. }) = self.model.get_mut(&key)
        else {
            return;
        };
        if fields.len() < 2 {
            return;
        }
        let at = self.random.random_range(0..fields.len());
        let field = fields.keys().nth(at).unwrap().clone();
        fields.remove(&field);
        batch.delete_element(&key, *generation, &field);
        self.put_row(batch, &key);
    }

    fn expire(&mut self, batch: &mut FoldBatch, key: Vec<u8>, now: u64) {
        let expiry = self.expiry(now);
        if let Some(entry) = self.model.get_mut(&key) {
            entry.expiry = expiry;
            self.put_row(batch, &key);
        }
    }

    fn fold(&mut self, database: &Database) {
        let mut batch = FoldBatch::new();
        if self.random.random_ratio(1, 300) {
            batch.clear();
            self.model.clear();
            self.counts.clears += 1;
        }
        for _ in 0..self.random.random_range(1..10) {
            self.record(&mut batch);
        }
        database.fold(batch, self.last).unwrap();
        self.counts.folds += 1;
    }

    fn open(&self) -> Database {
        Database::open(&self.directory.path().join("state"), &self.options).unwrap()
    }

    fn close(&mut self, database: Database) {
        self.counts.dropped_by_filter += database.stats().dropped_by_filter;
    }

    /// After a crash the state must be one that was, and no older than what was persisted.
    fn crash(&mut self, database: Database) -> Database {
        let persisted = database.persisted().unwrap();
        self.close(database);
        let database = self.open();
        let applied = database.applied().unwrap();
        let seq = |at: Option<Applied>| at.map_or(0, |at| at.position.seq.as_u64());
        assert!(seq(applied) >= seq(persisted));
        let at = self.history.get(&seq(applied)).expect("the state is one of a record's end");
        (self.last, self.model) = at.clone();
        self.history.split_off(&(seq(applied) + 1));
        self.counts.crashes += 1;
        self.compare(&database);
        database
    }

    /// The history goes on with the checkpoint, which is of the last record.
    fn checkpoint(&mut self, database: Database) -> Database {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(database.checkpoint(&directory.path().join("state")).unwrap(), self.last);
        self.close(database);
        self.directory = directory;
        let database = self.open();
        assert_eq!(database.persisted().unwrap(), Some(self.last));
        self.compare(&database);
        self.counts.checkpoints += 1;
        database
    }

    /// What is alive by the last record's time must be equal; what is not may be there or not.
    fn compare(&mut self, database: &Database) {
        let now = self.last.hybrid.millis();
        let mut stored = Model::new();
        for (key, row) in rows(database) {
            let row = RowRef::parse(&row).unwrap();
            if row.is_expired(now) {
                continue;
            }
            let value = match row.value() {
                RowValue::String(value) => Value::String(value.to_vec()),
                RowValue::Hash { generation, fields } => {
                    let elements = database.elements(&key, generation).map(Result::unwrap);
                    let found: BTreeMap<_, _> = elements
                        .map(|(field, row)| {
                            let row = row::FieldRef::parse(&row).unwrap();
                            (field.to_vec(), row.value().to_vec())
                        })
                        .collect();
                    assert_eq!(found.len() as u64, fields);
                    Value::Hash(generation, found)
                }
            };
            stored.insert(key, Entry { expiry: row.expiry(), value });
        }
        let mut expected = self.model.clone();
        expected.retain(|_, entry| entry.expiry.is_none_or(|at| at > now));
        assert_eq!(stored, expected);
        assert_eq!(database.applied().unwrap().unwrap_or(self.last), self.last);
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

#[test]
fn any_history_with_crashes_and_compactions_equals_the_model() {
    let seed = number("LARDER_FUZZ_SEED").unwrap_or_else(|| SmallRng::from_os_rng().random());
    let budget = Duration::from_secs(number("LARDER_FUZZ_SECONDS").unwrap_or(5));
    println!("LARDER_FUZZ_SEED={seed}");
    let options = options().with_write_buffer_bytes(SMALL_BUFFER_BYTES);
    let first = applied(1);
    let mut run = Run {
        random: SmallRng::seed_from_u64(seed),
        options,
        directory: tempfile::tempdir().unwrap(),
        model: Model::new(),
        last: first,
        history: BTreeMap::from([(1, (first, Model::new()))]),
        counts: Counts::default(),
    };
    let mut database = run.open();
    database.fold(FoldBatch::new(), first).unwrap();
    database.flush().unwrap();
    let start = Instant::now();
    while start.elapsed() < budget || (!run.counts.suffice() && start.elapsed() < budget * PATIENCE)
    {
        run.fold(&database);
        match run.random.random_range(0..200) {
            0..8 => {
                database.flush().unwrap();
                run.counts.flushes += 1;
            }
            8..12 => database = run.crash(database),
            12..14 => database = run.checkpoint(database),
            14..16 => {
                database.compact().unwrap();
                run.counts.compactions += 1;
            }
            16..30 => run.compare(&database),
            _ => {}
        }
        let persisted = database.persisted().unwrap().unwrap();
        run.history = run.history.split_off(&persisted.position.seq.as_u64());
        assert_eq!(database.background_errors(), 0);
    }
    run.compare(&database);
    run.close(database);
    println!("{} records, {:?}", run.last.position.seq, run.counts);
    assert!(run.counts.suffice(), "too few of something: each at least {EACH_MIN} times");
}
