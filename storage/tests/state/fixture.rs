//! A state written by format version 1 must be readable for ever: `docs/format/keys.md`.
//!
//! `LARDER_BLESS=1` writes the fixture, where there is none.

use std::{env, fs, path::PathBuf};

use larder_storage::{
    row::{self, FieldRef, RowRef, RowValue},
    state::{Database, FoldBatch},
};
use larder_types::HybridTime;

use crate::support::*;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-v1")
}

#[test]
fn a_state_of_version_1_reads_as_it_was_written() {
    if env::var_os("LARDER_BLESS").is_some() && !fixture().exists() {
        write_fixture();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    copy_directory(&fixture(), &path);
    let database = open(&path);
    let report = database.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.applied, Some(applied_at(7, 1_000)));
    assert_eq!((report.strings, report.hashes, report.fields), (2, 1, 2));

    let row = |key: &[u8]| database.row(key).unwrap().unwrap();
    let string = row(b"string");
    let string = RowRef::parse(&string).unwrap();
    assert_eq!(string.version(), HybridTime::new(900, 1));
    assert_eq!(string.expiry(), None);
    assert_eq!(string.value(), RowValue::String(b"value"));
    let expiring = row(b"expiring");
    let expiring = RowRef::parse(&expiring).unwrap();
    assert_eq!(expiring.expiry(), Some(4_102_444_800_000));
    let hash = row(b"hash");
    let expected = RowValue::Hash { generation: generation(6), fields: 2 };
    assert_eq!(RowRef::parse(&hash).unwrap().value(), expected);
    assert_eq!(fields(&database, "hash", generation(6)), ["one", "two"]);
    let field = database.element(b"hash", generation(6), b"two").unwrap().unwrap();
    let field = FieldRef::parse(&field).unwrap();
    assert_eq!((field.version(), field.value()), (HybridTime::new(901, 0), &b"2"[..]));

    fold_string(&database, 2_000, "string", "written by today's version");
    assert_eq!(database.flush().unwrap(), Some(applied(2_000)));
}

/// RocksDB's own log, lock and options are left out: none of them is needed to open a state.
fn write_fixture() {
    let path = fixture();
    let database = Database::open(&path, &options()).unwrap();
    let mut batch = FoldBatch::new();
    batch.put_row(b"string", &row::string_row(HybridTime::new(900, 1), None, b"value"));
    let expiry = Some(4_102_444_800_000);
    batch.put_row(b"expiring", &row::string_row(HybridTime::new(900, 2), expiry, b"value"));
    let (version, hash) = (HybridTime::new(901, 0), generation(6));
    batch.put_row(b"hash", &row::hash_row(version, None, hash, 2));
    batch.put_element(b"hash", hash, b"one", &row::field_row(version, b"1"));
    batch.put_element(b"hash", hash, b"two", &row::field_row(version, b"2"));
    database.fold(batch, applied_at(7, 1_000)).unwrap();
    database.flush().unwrap();
    drop(database);
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let needed = ["CURRENT", "IDENTITY"].contains(&name.as_str())
            || name.starts_with("MANIFEST")
            || name.ends_with(".sst");
        if !needed {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}
