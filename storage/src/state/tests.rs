//! Tests that need to steer RocksDB's own compactions.

use std::{
    fs,
    time::{Duration, Instant},
};

use larder_types::{Epoch, HybridTime, Position, SequenceNumber};

use super::*;
use crate::row::{field_row, hash_row, string_row};

fn applied(seq: u64) -> Applied {
    let epoch = Epoch { term: 1, run: 1, id: 1 };
    let seq = SequenceNumber::new(seq).unwrap();
    Applied { position: Position { epoch, seq }, hybrid: HybridTime::new(seq.as_u64(), 0) }
}

fn put_hash(batch: &mut FoldBatch, generation: Generation, fields: u32) {
    batch.put_row(b"hash", &hash_row(HybridTime::ZERO, None, generation, fields.into()));
    for field in 0..fields {
        let row = field_row(HybridTime::ZERO, b"value");
        batch.put_element(b"hash", generation, &field.to_be_bytes(), &row);
    }
}

/// Five files of level 0 lie there until compactions are let.
fn open_without_compactions(directory: &Path, options: &DatabaseOptions) -> Database {
    let database = Database::open(directory, options).unwrap();
    let options =
        [("disable_auto_compactions", "true"), ("level0_file_num_compaction_trigger", "4")];
    database.db.set_options(&options).unwrap();
    database
}

/// Lets RocksDB compact what has piled up in level 0, and waits until it has.
fn compact_without_flush(database: &Database) {
    database.db.set_options(&[("disable_auto_compactions", "false")]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while database.stats().level0_files > 0 {
        assert!(Instant::now() < deadline, "level 0 was not compacted: {:?}", database.stats());
        std::thread::yield_now();
    }
}

#[test]
fn a_deletion_that_is_not_persisted_costs_no_element() {
    let directory = tempfile::tempdir().unwrap();
    let options = DatabaseOptions::new(8 << 20, 64 << 20);
    let database = open_without_compactions(directory.path(), &options);
    let generation = Generation { position: applied(1).position, ordinal: 0 };
    for seq in 1..=5 {
        let mut batch = FoldBatch::new();
        put_hash(&mut batch, generation, 50);
        database.fold(batch, applied(seq)).unwrap();
        database.flush().unwrap();
    }
    assert_eq!(database.stats().level0_files, 5);
    let mut batch = FoldBatch::new();
    batch.delete_row(b"hash");
    database.fold(batch, applied(6)).unwrap();
    compact_without_flush(&database);
    assert_eq!(database.persisted().unwrap(), Some(applied(5)), "the deletion is in memory only");
    assert!(database.row(b"hash").unwrap().is_none());
    assert_eq!(database.stats().dropped_by_filter, 0);

    drop(database);
    let crashed = Database::open(directory.path(), &options).unwrap();
    assert_eq!(crashed.applied().unwrap(), Some(applied(5)));
    assert!(crashed.row(b"hash").unwrap().is_some());
    assert_eq!(crashed.elements(b"hash", generation).count(), 50);
}

#[test]
fn a_hash_that_is_persisted_again_under_another_name_loses_the_old_elements() {
    let directory = tempfile::tempdir().unwrap();
    let options = DatabaseOptions::new(8 << 20, 64 << 20);
    let database = open_without_compactions(directory.path(), &options);
    for seq in 1..=5 {
        let generation = Generation { position: applied(seq).position, ordinal: 0 };
        let mut batch = FoldBatch::new();
        put_hash(&mut batch, generation, 50);
        database.fold(batch, applied(seq)).unwrap();
        database.flush().unwrap();
    }
    compact_without_flush(&database);
    assert_eq!(database.stats().dropped_by_filter, 200);
    let newest = Generation { position: applied(5).position, ordinal: 0 };
    assert_eq!(database.elements(b"hash", newest).count(), 50);
}

#[test]
fn closing_while_a_compaction_filters_ends_the_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let options = DatabaseOptions::new(8 << 20, 64 << 20);
    let database = open_without_compactions(directory.path(), &options);
    for seq in 1..=5 {
        let mut batch = FoldBatch::new();
        for key in 0..20_000u32 {
            let generation = Generation { position: applied(seq).position, ordinal: key };
            let key = key.to_be_bytes();
            batch.put_row(&key, &hash_row(HybridTime::ZERO, None, generation, 1));
            batch.put_element(&key, generation, b"f", &field_row(HybridTime::ZERO, b"v"));
        }
        database.fold(batch, applied(seq)).unwrap();
        database.flush().unwrap();
    }
    database.db.set_options(&[("disable_auto_compactions", "false")]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while database.stats().dropped_by_filter == 0 {
        assert!(Instant::now() < deadline, "no compaction ran");
        std::thread::yield_now();
    }
    drop(database);
    let database = Database::open(directory.path(), &options).unwrap();
    let report = database.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.hashes, report.fields), (20_000, 20_000));
}

/// The tables of this database that this process has open.
fn tables_open(database: &Path) -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap);
    // A file may have been closed since it was listed.
    let paths = files.filter_map(|file| fs::read_link(file.path()).ok());
    let tables = paths.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    tables.filter(|path| path.starts_with(database)).count()
}

/// A database of so many tables, of a row each, that has few of them open.
fn database_of_tables(dir: &Path, tables: u64) -> (Database, DatabaseOptions) {
    let options = DatabaseOptions::new(8 << 20, 64 << 20).with_tables_open_max(20);
    let database = open_without_compactions(dir, &options);
    for seq in 1..=tables {
        let mut batch = FoldBatch::new();
        batch.put_row(&seq.to_be_bytes(), &string_row(HybridTime::ZERO, None, b"value"));
        database.fold(batch, applied(seq)).unwrap();
        database.flush().unwrap();
    }
    (database, options)
}

#[test]
fn a_database_of_many_tables_keeps_no_more_open_than_it_may() {
    const TABLES: u64 = 100;
    /// RocksDB leaves one in each of the 64 parts of its cache.
    const OPEN_MAX: usize = 64;
    let directory = tempfile::tempdir().unwrap();
    let (database, _) = database_of_tables(directory.path(), TABLES);
    assert_eq!(database.stats().level0_files, TABLES);
    assert!((1..=TABLES).all(|seq| database.row(&seq.to_be_bytes()).unwrap().is_some()));
    let open = tables_open(directory.path());
    assert!(0 < open && open <= OPEN_MAX, "{open} are open");
}

#[test]
fn what_the_system_refuses_is_told_from_damage_and_from_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (database, options) = database_of_tables(directory.path(), 1);
    let refused = || Database::open(directory.path(), &options).err().unwrap();
    assert!(refused().is_io(), "one at a time has the lock");
    drop(database);
    let current = directory.path().join("CURRENT");
    let manifest = fs::read_to_string(&current).unwrap();
    let manifest = directory.path().join(manifest.trim_end());
    fs::remove_file(manifest).unwrap();
    assert!(!refused().is_io(), "a file is missing");
    fs::write(&current, "rubbish").unwrap();
    assert!(!refused().is_io(), "a file is damaged");
}

#[test]
fn a_table_that_is_missing_or_cut_is_found_at_the_start_also_where_few_are_opened() {
    const TABLES: u64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let (database, options) = database_of_tables(directory.path(), TABLES);
    let tables = database.tables().unwrap();
    assert_eq!(tables.len() as u64, TABLES);
    drop(database);
    for table in tables {
        let file = directory.path().join(table.name.trim_start_matches('/'));
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(Database::open_read_only(directory.path(), &options).is_err(), "{file:?} is cut");
        fs::remove_file(&file).unwrap();
        assert!(Database::open_read_only(directory.path(), &options).is_err(), "{file:?} is gone");
        fs::write(&file, &whole).unwrap();
    }
    Database::open_read_only(directory.path(), &options).unwrap();
}

#[test]
fn tables_that_a_compaction_has_rewritten_since_they_were_listed_are_not_missed() {
    const TABLES: u64 = 5;
    let directory = tempfile::tempdir().unwrap();
    let (database, _) = database_of_tables(directory.path(), TABLES);
    let listed = database.tables().unwrap();
    compact_without_flush(&database);
    let is_gone = || !directory.path().join(listed[0].name.trim_start_matches('/')).exists();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_gone() {
        assert!(Instant::now() < deadline, "{} was not removed", listed[0].name);
        std::thread::yield_now();
    }
    database.check_tables(listed).unwrap();
}
