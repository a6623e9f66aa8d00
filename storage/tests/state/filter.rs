//! What compactions give back, and what they must not.

use std::time::{Duration, Instant};

use larder_storage::{
    row,
    state::{Database, FoldBatch},
};
use larder_types::HybridTime;

use crate::support::*;

fn put_string(batch: &mut FoldBatch, key: &str, expiry: Option<u64>) {
    batch.put_row(key.as_bytes(), &row::string_row(HybridTime::ZERO, expiry, b"v"));
}

/// The keys that have a row at all, whether or not it is expired.
fn stored_keys(database: &Database) -> Vec<String> {
    let mut keys: Vec<_> =
        rows(database).into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
    keys.sort();
    keys
}

#[test]
fn a_compaction_drops_what_the_table_of_rules_says_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let (old, new) = (generation(1), generation(2));
    let mut batch = FoldBatch::new();
    put_string(&mut batch, "lasting", None);
    put_string(&mut batch, "expires at the clock", Some(1_000));
    put_string(&mut batch, "expires after the clock", Some(1_001));
    put_hash(&mut batch, "live hash", new, None, 3);
    put_hash(&mut batch, "hash expiring later", new, Some(1_001), 3);
    put_hash(&mut batch, "expired hash", new, Some(1_000), 3);
    put_hash(&mut batch, "deleted hash", old, None, 3);
    put_hash(&mut batch, "hash made anew", old, None, 3);
    put_hash(&mut batch, "hash made a string", old, None, 3);
    database.fold(batch, applied_at(1, 900)).unwrap();
    database.flush().unwrap();
    let mut batch = FoldBatch::new();
    batch.delete_row(b"deleted hash");
    put_hash(&mut batch, "hash made anew", new, None, 2);
    put_string(&mut batch, "hash made a string", None);
    database.fold(batch, applied_at(2, 1_000)).unwrap();
    database.compact().unwrap();

    assert_eq!(
        stored_keys(&database),
        [
            "expires after the clock",
            "hash expiring later",
            "hash made a string",
            "hash made anew",
            "lasting",
            "live hash"
        ]
    );
    let count = |key, generation| fields(&database, key, generation).len();
    let counts = [
        ("live hash", new, 3),
        ("hash expiring later", new, 3),
        ("expired hash", new, 0),
        ("deleted hash", old, 0),
        ("hash made anew", old, 0),
        ("hash made anew", new, 2),
        ("hash made a string", old, 0),
    ];
    for (key, generation, expected) in counts {
        assert_eq!(count(key, generation), expected, "{key} {generation}");
    }
    let report = database.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.dropped_elements, 0);
    assert_eq!(report.applied, Some(applied_at(2, 1_000)), "the position is never dropped");
    assert!(database.stats().dropped_by_filter >= 14);
}

#[test]
fn the_clock_is_the_persisted_hybrid_time_and_never_the_wall() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::new();
    put_string(&mut batch, "expired in 1970", Some(1_000));
    database.fold(batch, applied_at(1, 999)).unwrap();
    assert_eq!(database.stats().filter_clock_ms, 0, "nothing is persisted");
    database.compact().unwrap();
    assert_eq!(stored_keys(&database), ["expired in 1970"]);
    assert_eq!(database.stats().filter_clock_ms, 999);
    database.fold(FoldBatch::new(), applied_at(2, 1_000)).unwrap();
    assert_eq!(database.stats().filter_clock_ms, 999, "folded, and not yet persisted");
    database.compact().unwrap();
    assert!(stored_keys(&database).is_empty());
    drop(database);
    let database = open(directory.path());
    assert_eq!(database.stats().filter_clock_ms, 1_000, "known again from opening on");
}

#[test]
fn an_older_version_that_expired_leaves_the_newer_one_alone() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::new();
    put_string(&mut batch, "prolonged", Some(500));
    put_string(&mut batch, "shortened", None);
    database.fold(batch, applied_at(1, 100)).unwrap();
    database.compact().unwrap();
    let mut batch = FoldBatch::new();
    put_string(&mut batch, "prolonged", Some(5_000));
    put_string(&mut batch, "shortened", Some(500));
    database.fold(batch, applied_at(2, 200)).unwrap();
    database.flush().unwrap();
    database.fold(FoldBatch::new(), applied_at(3, 1_000)).unwrap();
    database.compact().unwrap();
    assert_eq!(stored_keys(&database), ["prolonged"]);
}

#[test]
fn a_hash_of_a_million_fields_is_dropped_at_once_and_given_back_by_compaction() {
    const FIELDS: u64 = 1_000_000;
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::with_capacity(128 << 20);
    put_hash(&mut batch, "big", generation(1), None, FIELDS);
    put_hash(&mut batch, "small", generation(1), None, 3);
    database.fold(batch, applied(1)).unwrap();
    database.flush().unwrap();
    let before = database.stats().table_bytes;

    let mut batch = FoldBatch::new();
    batch.delete_row(b"big");
    let start = Instant::now();
    database.fold(batch, applied(2)).unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_millis(100), "dropping it took {took:?}");

    let start = Instant::now();
    database.compact().unwrap();
    let after = database.stats();
    println!(
        "dropped in {took:?}; compaction of {before} bytes took {:?} and left {}",
        start.elapsed(),
        after.table_bytes
    );
    assert!(after.table_bytes < before / 100);
    assert_eq!(after.dropped_by_filter, FIELDS);
    let report = database.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.fields, report.dropped_elements), (3, 0));
}
