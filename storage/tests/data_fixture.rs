//! A whole data directory of every released version of the format, kept in `fixtures/`, is opened as it
//! was written: `docs/format/directory.md`. `LARDER_BLESS=1` writes the fixture of the current version
//! where there is none.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use larder_storage::{OpenAs, StoreOptions, store::FORMAT_VERSION};
use larder_types::{Epoch, HybridTime, SequenceNumber};
use store_support::{Content, Node, WALL_MS, copy, tiny};

const EXPIRY: u64 = 4_102_444_800_000;
/// What of the state is needed to open it.
const STATE_FILES: [&str; 5] = ["CURRENT", "IDENTITY", "MANIFEST-", "OPTIONS-", ".sst"];
const TORN_BYTES: usize = 5;
/// The last record that the state has on disk, and the last of the log.
const PERSISTED: u64 = 5;
const TAIL: u64 = 11;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-v1")
}

/// All of the log is kept, in several segments.
fn options() -> StoreOptions {
    StoreOptions { segment_bytes: 400, retain_from: Some(SequenceNumber::FIRST), ..tiny() }
}

fn open(root: &Path, run: u32) -> Node {
    let role = OpenAs::Master { wall_ms: WALL_MS, epoch_id: u64::from(run) };
    Node::open_as(root, options(), role).unwrap()
}

fn stamp(millis: u64) -> HybridTime {
    HybridTime::new(WALL_MS + millis, 0)
}

/// Three runs: one that ended in order, one that crashed within its last record, and one that crashed
/// with records that are not folded.
fn write(root: &Path) {
    let mut node = open(root, 1);
    let mut txn = node.writer.transaction(WALL_MS + 1);
    txn.put_string(b"string", b"value", None).unwrap();
    txn.commit().unwrap();
    let mut txn = node.writer.transaction(WALL_MS + 2);
    txn.put_string(b"expiring", b"value", Some(EXPIRY)).unwrap();
    txn.commit().unwrap();
    let mut txn = node.writer.transaction(WALL_MS + 3);
    txn.hash_put(b"hash", &[(b"one", b"1"), (b"two", b"2")]).unwrap();
    txn.commit().unwrap();
    let mut txn = node.writer.transaction(WALL_MS + 4);
    txn.put_string(b"gone", b"value", None).unwrap();
    txn.commit().unwrap();
    node.close();

    let mut node = open(root, 2);
    let mut txn = node.writer.transaction(WALL_MS + 11);
    txn.delete(b"gone").unwrap();
    txn.put_string(b"string", b"another", None).unwrap();
    txn.commit().unwrap();
    node.commit();
    let mut txn = node.writer.transaction(WALL_MS + 12);
    txn.put_string(b"torn", b"value", None).unwrap();
    txn.commit().unwrap();
    node.commit();
    drop(node);
    tear(&root.join("log"));

    let mut node = open(root, 3);
    let mut txn = node.writer.transaction(WALL_MS + 21);
    txn.hash_delete(b"hash", &[b"one"]).unwrap();
    txn.hash_put(b"hash", &[(b"three", b"3")]).unwrap();
    txn.commit().unwrap();
    node.commit();
    for number in 0..2 {
        let mut txn = node.writer.transaction(WALL_MS + 22 + number);
        txn.put_string(b"late", number.to_string().as_bytes(), None).unwrap();
        txn.commit().unwrap();
        node.commit();
    }
}

/// Cuts the log within its last record.
fn tear(log: &Path) {
    let last = names(log).pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    fs::write(&last, &bytes[..end - TORN_BYTES]).unwrap();
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path()).collect();
    names.sort();
    names
}

/// Writes `fixtures/data-v1` once; a released fixture is never written again.
fn bless() {
    assert_eq!(FORMAT_VERSION, 1, "another version gets another directory");
    let root = tempfile::tempdir().unwrap();
    write(root.path());
    copy(root.path(), &fixture());
    for path in names(&fixture().join("state")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if !STATE_FILES.iter().any(|it| name.starts_with(it) || name.ends_with(it)) {
            fs::remove_file(path).unwrap();
        }
    }
}

fn string(version: HybridTime, expiry: Option<u64>, value: &[u8]) -> Content {
    (version, expiry, value.to_vec(), Vec::new())
}

#[test]
fn a_data_directory_of_version_1_is_opened_and_continued() {
    if std::env::var_os("LARDER_BLESS").is_some() && !fixture().exists() {
        bless();
    }
    let root = tempfile::tempdir().unwrap();
    copy(&fixture(), root.path());
    let quarantined: Vec<_> = names(&root.path().join("quarantine"));
    assert_eq!(quarantined.len(), 1, "{quarantined:?}");

    let node = open(root.path(), 4);
    let marks = node.store.watermarks();
    assert_eq!((marks.persisted, marks.durable), (PERSISTED, TAIL + 1));
    assert_eq!((node.replayed, marks.trimmed), (TAIL - PERSISTED, 0));
    let epoch = |run| Epoch { term: 1, run, id: u64::from(run) };
    let epochs: Vec<_> =
        node.recovered.epochs.iter().map(|(epoch, first)| (*epoch, first.as_u64())).collect();
    assert_eq!(epochs, [(epoch(1), 1), (epoch(2), 6), (epoch(3), 8)]);
    assert_eq!(node.writer.last().epoch, epoch(4));
    assert_eq!(node.recovered.torn, None);

    let mut contents = node.contents();
    let (version, _, _, fields) = contents.remove(b"hash".as_slice()).unwrap();
    assert_eq!(version, stamp(21));
    assert_eq!(
        fields,
        [(b"three".to_vec(), stamp(21), b"3".to_vec()), (b"two".to_vec(), stamp(3), b"2".to_vec())]
    );
    let expected = BTreeMap::from([
        (b"expiring".to_vec(), string(stamp(2), Some(EXPIRY), b"value")),
        (b"late".to_vec(), string(stamp(23), None, b"1")),
        (b"string".to_vec(), string(stamp(11), None, b"another")),
    ]);
    assert_eq!(contents, expected);
    node.close();
    let mut node = open(root.path(), 5);
    assert_eq!(node.replayed, 0, "it ended in order");
    node.put("string", "written by today's version");
    assert_eq!(node.text("string").as_deref(), Some("written by today's version"));
}
