//! What the tests of the state share.

use std::{fs, path::Path};

use larder_storage::{
    row::{self, FieldRef, Generation, RowRef, RowValue},
    state::{Applied, Database, DatabaseOptions, FoldBatch},
};
use larder_types::{Epoch, HybridTime, Position, SequenceNumber, Unit};

/// Small enough that a few hundred rows make a table file.
pub(crate) const SMALL_BUFFER_BYTES: usize = 64 << 10;

pub(crate) fn options() -> DatabaseOptions {
    DatabaseOptions::new(8 << 20, 64 << 20)
}

pub(crate) fn open(path: &Path) -> Database {
    Database::open(path, &options()).unwrap()
}

pub(crate) fn position(seq: u64) -> Position {
    let seq = SequenceNumber::new(seq).unwrap();
    Position { epoch: Epoch { term: 1, run: 1, id: 42 }, seq }
}

/// The position of record `seq`, which was written in millisecond `millis`.
pub(crate) fn applied_at(seq: u64, millis: u64) -> Applied {
    Applied { position: position(seq), hybrid: HybridTime::new(millis, 0) }
}

/// The position of record `seq`, one record a millisecond.
pub(crate) fn applied(seq: u64) -> Applied {
    applied_at(seq, seq)
}

pub(crate) fn generation(seq: u64) -> Generation {
    Generation { position: position(seq), ordinal: 0 }
}

/// Folds, as record `seq`, one string.
pub(crate) fn fold_string(database: &Database, seq: u64, key: &str, value: &str) {
    let mut batch = FoldBatch::new();
    let row = row::string_row(HybridTime::new(seq, 0), None, value.as_bytes());
    batch.put_row(key.as_bytes(), &row);
    database.fold(batch, applied(seq)).unwrap();
}

/// Adds a new hash to `batch`, with fields `f0`, `f1` and so on.
pub(crate) fn put_hash(
    batch: &mut FoldBatch,
    key: &str,
    generation: Generation,
    expiry: Option<u64>,
    fields: u64,
) {
    let row = row::hash_row(HybridTime::ZERO, expiry, generation, fields);
    batch.put_row(key.as_bytes(), &row);
    let field_row = row::field_row(HybridTime::ZERO, b"value");
    for field in 0..fields {
        batch.put_element(key.as_bytes(), generation, format!("f{field}").as_bytes(), &field_row);
    }
}

pub(crate) fn string(database: &Database, key: &str) -> Option<String> {
    let row = database.row(key.as_bytes()).unwrap()?;
    match RowRef::parse(&row).unwrap().value() {
        RowValue::String(value) => Some(String::from_utf8(value.to_vec()).unwrap()),
        RowValue::Hash { .. } => panic!("{key} is a hash"),
    }
}

pub(crate) fn fields(database: &Database, key: &str, generation: Generation) -> Vec<String> {
    let elements = database.elements(key.as_bytes(), generation);
    elements
        .map(|element| {
            let (field, row) = element.unwrap();
            FieldRef::parse(&row).unwrap();
            String::from_utf8(field.to_vec()).unwrap()
        })
        .collect()
}

/// All key rows, as (key, row).
pub(crate) fn rows(database: &Database) -> Vec<(Vec<u8>, Vec<u8>)> {
    let first = Unit::new(0).unwrap();
    let rows = database.rows_from(first, None);
    rows.map(|row| row.map(|(_, key, row)| (key.to_vec(), row.to_vec())).unwrap()).collect()
}

/// Copies a database as a crash of the machine's power would find it, were all its files whole.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Names and sizes of the write-ahead logs of RocksDB.
pub(crate) fn write_ahead_logs(path: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
    let logs = entries.filter(|entry| entry.path().extension().is_some_and(|it| it == "log"));
    // RocksDB removes an obsolete one whenever it likes.
    let sizes = logs.filter_map(|entry| entry.metadata().ok().map(|found| (entry, found.len())));
    sizes.map(|(entry, bytes)| (entry.file_name().into_string().unwrap(), bytes)).collect()
}

/// The names of the table files.
pub(crate) fn tables(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}
