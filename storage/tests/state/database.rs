//! The state against crashes, checkpoints, failing disks and damage.

use std::{fs, path::Path};

use larder_storage::{
    row,
    state::{Database, FoldBatch, StateError},
};
use larder_types::{HybridTime, Unit};

use crate::support::*;

#[test]
fn the_persisted_position_lags_behind_the_applied_one_until_a_flush() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    assert_eq!(database.applied().unwrap(), None);
    assert_eq!(database.persisted().unwrap(), None);
    fold_string(&database, 1, "k", "one");
    assert_eq!(database.applied().unwrap(), Some(applied(1)));
    assert_eq!(database.persisted().unwrap(), None);
    assert_eq!(database.flush().unwrap(), Some(applied(1)));
    fold_string(&database, 2, "k", "two");
    assert_eq!(database.applied().unwrap(), Some(applied(2)));
    assert_eq!(database.persisted().unwrap(), Some(applied(1)));
    assert_eq!(string(&database, "k").as_deref(), Some("two"));
}

#[test]
fn after_a_crash_the_state_is_the_persisted_one_and_replay_makes_it_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (live, crashed) = (directory.path().join("live"), directory.path().join("crashed"));
    let database = open(&live);
    let record = |database: &Database, seq: u64| {
        fold_string(database, seq, &format!("k{}", seq % 7), &format!("v{seq}"));
    };
    (1..=10).for_each(|seq| record(&database, seq));
    database.flush().unwrap();
    let persisted = rows(&database);
    (11..=20).for_each(|seq| record(&database, seq));
    copy_directory(&live, &crashed);
    let whole = rows(&database);
    assert_ne!(persisted, whole);

    let reopened = open(&crashed);
    assert_eq!(reopened.applied().unwrap(), Some(applied(10)));
    assert_eq!(rows(&reopened), persisted);
    (11..=20).for_each(|seq| record(&reopened, seq));
    assert_eq!(rows(&reopened), whole);
    assert_eq!(reopened.applied().unwrap(), Some(applied(20)));

    drop(database);
    let dropped_without_flush = open(&live);
    assert_eq!(dropped_without_flush.applied().unwrap(), Some(applied(10)));
    assert_eq!(rows(&dropped_without_flush), persisted);
}

#[test]
fn a_checkpoint_tells_its_own_position_and_restores() {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let checkpoint = directory.path().join("checkpoint");
    let restored = directory.path().join("restored");
    let database = open(&live);
    (1..=5).for_each(|seq| fold_string(&database, seq, &format!("k{seq}"), "v"));
    let mut batch = FoldBatch::new();
    put_hash(&mut batch, "h", generation(6), None, 3);
    database.fold(batch, applied(6)).unwrap();
    let then = rows(&database);
    assert_eq!(database.checkpoint(&checkpoint).unwrap(), applied(6));
    fold_string(&database, 7, "k1", "later");
    database.compact().unwrap();

    let copy = Database::open_read_only(&checkpoint, &options()).unwrap();
    assert_eq!(copy.persisted().unwrap(), Some(applied(6)));
    assert_eq!(rows(&copy), then);
    drop(copy);
    copy_directory(&checkpoint, &restored);
    let restored = open(&restored);
    assert_eq!(restored.applied().unwrap(), Some(applied(6)));
    assert_eq!(fields(&restored, "h", generation(6)), ["f0", "f1", "f2"]);
    fold_string(&restored, 7, "k1", "later");
    assert_eq!(rows(&restored), rows(&database));
}

#[test]
fn a_checkpoint_of_nothing_or_onto_something_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory.path().join("live"));
    let refused = database.checkpoint(&directory.path().join("empty"));
    assert!(matches!(refused, Err(StateError::NothingApplied { .. })), "{refused:?}");
    fold_string(&database, 1, "k", "v");
    let taken = directory.path().join("taken");
    database.checkpoint(&taken).unwrap();
    assert!(matches!(database.checkpoint(&taken), Err(StateError::RocksDb { .. })));
}

#[test]
fn clearing_leaves_what_the_same_batch_adds_and_survives_with_it_alone() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::new();
    put_hash(&mut batch, "h", generation(1), None, 100);
    database.fold(batch, applied(1)).unwrap();
    for seq in 2..=500 {
        fold_string(&database, seq, &format!("k{seq}"), "before");
    }
    database.flush().unwrap();
    let mut batch = FoldBatch::new();
    batch.clear();
    batch.put_row(b"k2", &row::string_row(HybridTime::ZERO, None, b"after"));
    database.fold(batch, applied(501)).unwrap();
    let check = |database: &Database| {
        assert_eq!(rows(database).len(), 1);
        assert_eq!(string(database, "k2").as_deref(), Some("after"));
        assert!(fields(database, "h", generation(1)).is_empty());
        assert_eq!(database.applied().unwrap(), Some(applied(501)));
    };
    check(&database);
    drop(database);
    let database = open(directory.path());
    assert_eq!(rows(&database).len(), 500, "the clearing was not persisted");
    let mut batch = FoldBatch::new();
    batch.clear();
    batch.put_row(b"k2", &row::string_row(HybridTime::ZERO, None, b"after"));
    database.fold(batch, applied(501)).unwrap();
    database.flush().unwrap();
    drop(database);
    let database = open(directory.path());
    check(&database);
    database.compact().unwrap();
    check(&database);
}

#[test]
fn a_failed_flush_is_an_error_is_counted_and_leaves_the_persisted_state() {
    let directory = tempfile::tempdir().unwrap();
    let (path, away) = (directory.path().join("state"), directory.path().join("away"));
    let database = open(&path);
    fold_string(&database, 1, "k", "persisted");
    database.flush().unwrap();
    assert_eq!(database.background_errors(), 0);
    fold_string(&database, 2, "k", "lost");
    fs::rename(&path, &away).unwrap();
    let failed = database.flush();
    assert!(matches!(failed, Err(StateError::RocksDb { .. })), "{failed:?}");
    assert!(database.background_errors() > 0);
    fs::rename(&away, &path).unwrap();
    let mut batch = FoldBatch::new();
    batch.put_row(b"k", &row::string_row(HybridTime::ZERO, None, b"must not be taken"));
    assert!(database.fold(batch, applied(3)).is_err(), "it does not recover by itself");
    drop(database);
    let database = open(&path);
    assert_eq!(database.background_errors(), 0);
    assert_eq!(database.applied().unwrap(), Some(applied(1)));
    assert_eq!(string(&database, "k").as_deref(), Some("persisted"));
}

#[test]
fn nothing_is_ever_written_to_a_log_of_rocksdb() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let small = options().with_write_buffer_bytes(SMALL_BUFFER_BYTES);
    let database = Database::open(&path, &small).unwrap();
    let check = |when: &str| {
        let logs = write_ahead_logs(&path);
        assert!(logs.iter().all(|(_, bytes)| *bytes == 0), "{when}: {logs:?}");
    };
    for seq in 1..=2_000 {
        fold_string(&database, seq, &format!("k{seq}"), &"v".repeat(200));
    }
    assert!(!tables(&path).is_empty(), "the write buffer was never flushed");
    check("after folds");
    database.flush().unwrap();
    check("after a flush");
    database.compact().unwrap();
    check("after a compaction");
    let checkpoint = directory.path().join("checkpoint");
    database.checkpoint(&checkpoint).unwrap();
    assert!(write_ahead_logs(&checkpoint).iter().all(|(_, bytes)| *bytes == 0));
    let mut batch = FoldBatch::new();
    batch.clear();
    database.fold(batch, applied(2_001)).unwrap();
    check("after clearing");
    drop(database);
    check("after closing");
    drop(open(&path));
    check("after opening again");
}

#[test]
fn a_state_with_a_foreign_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    fs::write(directory.path().join("000099.log"), b"written by something else").unwrap();
    let refused = Database::open(directory.path(), &options());
    assert!(matches!(refused, Err(StateError::ForeignLog { bytes: 25, .. })), "{refused:?}");
}

#[test]
fn a_state_opened_for_reading_takes_no_writes() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    fold_string(&database, 1, "k", "v");
    database.flush().unwrap();
    drop(database);
    let database = Database::open_read_only(directory.path(), &options()).unwrap();
    assert_eq!(string(&database, "k").as_deref(), Some("v"));
    assert!(database.fold(FoldBatch::new(), applied(2)).is_err());
    assert!(Database::open_read_only(&directory.path().join("absent"), &options()).is_err());
}

#[test]
fn a_state_is_opened_by_one_only() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    assert!(Database::open(directory.path(), &options()).is_err());
    drop(database);
    open(directory.path());
}

#[test]
fn a_flipped_bit_in_a_table_is_refused_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let database = open(&path);
    let mut batch = FoldBatch::new();
    put_hash(&mut batch, "h", generation(1), None, 200);
    database.fold(batch, applied(1)).unwrap();
    for seq in 2..=300 {
        fold_string(&database, seq, &format!("k{seq}"), &format!("v{seq}"));
    }
    database.flush().unwrap();
    let whole = rows(&database);
    drop(database);
    let table = tables(&path).pop().unwrap();
    let sound = fs::read(&table).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for at in (0..sound.len()).step_by(sound.len() / 150) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&table, &damaged).unwrap();
        if read_all_or_refuse(&path, &whole) { harmless += 1 } else { refused += 1 }
    }
    println!("{refused} flips refused, {harmless} harmless");
    assert!(refused > harmless, "most of a table is data and its checksums");
    fs::write(&table, &sound).unwrap();
    assert!(read_all_or_refuse(&path, &whole));
}

/// Returns whether the state reads whole; panics if it reads otherwise without an error.
fn read_all_or_refuse(path: &Path, whole: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let Ok(database) = Database::open_read_only(path, &options()) else { return false };
    let Ok(report) = database.verify() else { return false };
    let first = Unit::new(0).unwrap();
    let Ok(found) = database.rows_from(first, None).collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let found: Vec<_> = found.iter().map(|(_, key, row)| (key.to_vec(), row.to_vec())).collect();
    assert_eq!(found, whole);
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.strings, report.hashes, report.fields), (299, 1, 200));
    true
}

#[test]
fn a_state_whose_manifest_ends_in_zeros_opens_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    fold_string(&database, 1, "k", "v");
    database.flush().unwrap();
    drop(database);
    let name = fs::read_to_string(directory.path().join("CURRENT")).unwrap();
    let manifest = directory.path().join(name.trim_end());
    let whole = fs::read(&manifest).unwrap();
    for zeros in [1, 7, 100, 100 << 10] {
        fs::write(&manifest, [&whole[..], &vec![0; zeros]].concat()).unwrap();
        let database = Database::open_read_only(directory.path(), &options()).unwrap();
        assert_eq!(string(&database, "k").as_deref(), Some("v"), "{zeros} zeros");
    }
    assert_eq!(string(&open(directory.path()), "k").as_deref(), Some("v"));
}

#[test]
fn verification_tells_a_hash_whose_fields_do_not_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::new();
    put_hash(&mut batch, "sound", generation(1), None, 3);
    put_hash(&mut batch, "short", generation(2), None, 3);
    batch.delete_element(b"short", generation(2), b"f1");
    put_hash(&mut batch, "hollow", generation(3), None, 0);
    put_hash(&mut batch, "dropped", generation(4), None, 5);
    batch.delete_row(b"dropped");
    batch.put_row(b"damaged", b"\x77");
    database.fold(batch, applied(9)).unwrap();
    let report = database.verify().unwrap();
    assert_eq!(report.applied, Some(applied(9)));
    assert_eq!((report.hashes, report.fields, report.dropped_elements), (3, 5, 5));
    assert_eq!(report.defects, 3, "{:?}", report.described);
    let text = report.described.join("\n");
    for expected in ["hash short has 2 fields, but its row states 3", "of damaged", "3 hashes"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn verification_passes_over_hashes_that_have_expired_and_may_have_lost_any_fields() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::new();
    put_hash(&mut batch, "lasting", generation(1), Some(1_001), 3);
    put_hash(&mut batch, "whole", generation(1), Some(1_000), 3);
    put_hash(&mut batch, "short", generation(1), Some(1_000), 3);
    batch.delete_element(b"short", generation(1), b"f1");
    put_hash(&mut batch, "hollow", generation(1), Some(1_000), 0);
    database.fold(batch, applied_at(1, 1_000)).unwrap();
    let report = database.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.hashes, report.fields, report.dropped_elements), (1, 3, 5));
}

#[test]
fn elements_are_those_of_one_generation_in_order_and_go_on_after_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut batch = FoldBatch::new();
    put_hash(&mut batch, "h", generation(1), None, 2);
    put_hash(&mut batch, "h", generation(2), None, 3);
    put_hash(&mut batch, "h2", generation(2), None, 4);
    database.fold(batch, applied(2)).unwrap();
    assert_eq!(fields(&database, "h", generation(2)), ["f0", "f1", "f2"]);
    assert_eq!(fields(&database, "h", generation(1)), ["f0", "f1"]);
    assert!(fields(&database, "h", generation(3)).is_empty());
    let after = database.elements_after(b"h", generation(2), Some(b"f0"));
    let after: Vec<_> = after.map(|element| element.unwrap().0.to_vec()).collect();
    assert_eq!(after, [b"f1", b"f2"]);
    assert!(database.element(b"h", generation(1), b"f1").unwrap().is_some());
    assert!(database.element(b"h", generation(1), b"f2").unwrap().is_none());
}

#[test]
fn a_scan_meets_every_row_once_in_order_and_goes_on_from_any_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path());
    let mut expected = Vec::new();
    let mut batch = FoldBatch::new();
    for number in 0..300 {
        let key = format!("{{tag{}}}{number}", number % 40);
        if number % 3 == 0 {
            put_hash(&mut batch, &key, generation(1), None, 5);
        } else {
            let row = row::string_row(HybridTime::ZERO, None, b"v");
            batch.put_row(key.as_bytes(), &row);
        }
        expected.push((Unit::of_key(key.as_bytes()), key.into_bytes()));
    }
    database.fold(batch, applied(1)).unwrap();
    expected.sort();
    let scan = |start: Unit, after: Option<&[u8]>| -> Vec<(Unit, Vec<u8>)> {
        let rows = database.rows_from(start, after).map(Result::unwrap);
        rows.map(|(unit, key, _)| (unit, key.to_vec())).collect()
    };
    assert_eq!(scan(Unit::new(0).unwrap(), None), expected);
    for (at, (unit, key)) in expected.iter().enumerate() {
        assert_eq!(scan(*unit, Some(key)), expected[at + 1..]);
    }
}
