//! The largest logs that the bounds let stay unapplied open in time, by the wall clock.
//!
//! In a file of their own, one after the other, so that nothing runs beside what they measure.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    fs::{self, File},
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use larder_storage::{StoreOptions, Txn, Visibility, state::DatabaseOptions};
use larder_types::limits::{
    LAYER_BYTES_MAX, LOG_SEGMENTS_MAX, SEGMENT_BYTES_MAX, UNAPPLIED_BYTES_MAX, VALUE_BYTES_MAX,
};
use rustix::fs::{Advice, fadvise};
use store_support::{Node, WALL_MS, copy};
use tempfile::TempDir;

static ALONE: Mutex<()> = Mutex::new(());
/// What a start is to take at most.
const OPENING_MAX: Duration = Duration::from_secs(5);
/// What takes longer is measured again: a machine that others share stalls at times.
const STARTS_MAX: u64 = 3;
/// Of a value with which the bounds on bytes and on changes are reached together.
const MIDDLING_BYTES: usize = 160;
/// Of a value with which the bounds on bytes and on changes of a record are reached together.
const SHARE_BYTES: usize = 46;
/// What the smallest file takes of a file system in memory.
const PAGE_BYTES: u64 = 4 << 10;
/// What `log.segment_bytes` can be at least.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Writes one record, whose keys or fields are the numbers after `number`, which is raised.
type Write = fn(&mut Txn<'_>, number: &mut u64);

/// As short as it can be where there are so many.
fn name(number: u64) -> [u8; 5] {
    number.to_be_bytes()[3..].try_into().unwrap()
}

fn next(number: &mut u64) -> [u8; 5] {
    *number += 1;
    name(*number)
}

fn string(txn: &mut Txn<'_>, number: &mut u64, bytes: usize) {
    txn.put_string(&next(number), &vec![b'v'; bytes], None).unwrap();
}

fn hash(txn: &mut Txn<'_>, number: &mut u64, bytes: usize) {
    txn.hash_put(&next(number), &[(b"field", &vec![b'v'; bytes])]).unwrap();
}

fn field(txn: &mut Txn<'_>, number: &mut u64, bytes: usize) {
    txn.hash_put(b"hash", &[(&next(number), &vec![b'v'; bytes])]).unwrap();
}

/// As many strings as a record can hold, of as many bytes.
fn most_strings(txn: &mut Txn<'_>, number: &mut u64) {
    while txn.put_string(&name(*number + 1), &[b'v'; SHARE_BYTES], None).is_ok() {
        *number += 1;
    }
}

/// As many as a record can hold of deletions of what was written first and is still there.
fn most_deletions(txn: &mut Txn<'_>, number: &mut u64) {
    let live = (1..=*number).skip_while(|at| txn.view().row(&name(*at)).unwrap().is_none());
    let mut live = live.collect::<Vec<_>>().into_iter();
    while live.next().is_some_and(|at| txn.delete(&name(at)).is_ok()) {}
}

fn append(node: &mut Node, number: &mut u64, write: Write) {
    let mut txn = node.writer.transaction(WALL_MS);
    write(&mut txn, number);
    txn.commit().unwrap();
    if node.writer.pending_bytes() > 1 << 20 {
        node.commit();
    }
}

/// Writes until one record more would pass a bound of what is unapplied, then `last`.
fn fill(node: &mut Node, number: &mut u64, bounds: (u64, u64), write: Write, last: Write) {
    let unapplied = |node: &Node| {
        let stats = node.store.stats();
        (stats.unapplied_bytes, stats.unapplied_changes)
    };
    let (mut at, mut step) = (unapplied(node), (0, 0));
    while at.0 + step.0 < bounds.0 && at.1 + step.1 < bounds.1 {
        append(node, number, write);
        let now = unapplied(node);
        (at, step) = (now, (now.0 - at.0, now.1 - at.1));
    }
    append(node, number, last);
    node.commit();
}

fn options() -> StoreOptions {
    // Write buffers that RocksDB never finds full: it persists nothing by itself.
    let database = DatabaseOptions::new(64 << 20, 1 << 30).with_write_buffer_bytes(4 << 30);
    StoreOptions {
        segment_bytes: SEGMENT_BYTES_MAX,
        layer_bytes: LAYER_BYTES_MAX,
        unapplied_bytes_max: UNAPPLIED_BYTES_MAX,
        ..StoreOptions::new(database)
    }
}

/// The worst that the bounds allow, in one segment: a layer that is
/// folded, another that is folded while the first is flushed, and as much unfolded as there may be before
/// writes wait. Each ends with a record as large as there can be, which comes just before its bound is
/// reached.
fn leave_behind(root: &Path, bounds: &StoreOptions, write: Write, lasts: [Write; 3]) -> u64 {
    let mut node = Node::open(root, bounds.clone()).unwrap();
    let mut number = 0;
    let of_layer = (bounds.layer_bytes, bounds.layer_changes);
    let of_unapplied = (bounds.unapplied_bytes_max, bounds.unapplied_changes_max);
    let [first, second, third] = lasts;
    for last in [first, second] {
        fill(&mut node, &mut number, of_layer, write, last);
        node.fold();
        assert_eq!(node.store.stats().unapplied_records, 0, "it made a layer");
        assert!(node.folder.owes_flush());
    }
    fill(&mut node, &mut number, of_unapplied, write, third);
    assert!(!node.writer.has_room(), "writes wait");
    let marks = node.store.watermarks();
    assert_eq!(marks.persisted, 0, "something was flushed");
    marks.durable
}

/// Has the file system read everything anew from the disk, as after a loss of power.
fn forget_in_memory(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            forget_in_memory(&entry.path());
            continue;
        }
        let file = File::open(entry.path()).unwrap();
        // What is not on disk yet stays in memory.
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

/// Opens a store that had written `durable` records and persisted none; `before` is done before each start.
fn opens_in_time(what: &str, root: &Path, options: &StoreOptions, durable: u64, before: impl Fn()) {
    let mut least = Duration::MAX;
    for start in 0..STARTS_MAX {
        before();
        let began = Instant::now();
        let node = Node::open(root, options.clone()).unwrap();
        let took = began.elapsed();
        let (records, bytes) = (node.replayed, node.store.log().bytes() >> 20);
        let changes = node.store.stats().unapplied_changes;
        println!("{what}: {records} records, {changes} changes, {bytes} MiB, opened in {took:?}");
        assert_eq!(records, durable + start, "with the record of each epoch that a start begins");
        least = least.min(took);
        if least < OPENING_MAX {
            return;
        }
        println!("{what}: more than {OPENING_MAX:?}");
    }
    panic!("{what}: no start took less than {OPENING_MAX:?}, the quickest took {least:?}");
}

/// At the highest bounds that can be configured.
#[test]
fn the_largest_unapplied_log_opens_in_time() {
    let _alone = ALONE.lock();
    let opens_in_time = |what, write: Write, lasts| {
        let root = tempfile::tempdir().unwrap();
        let durable = leave_behind(root.path(), &options(), write, lasts);
        let before = || forget_in_memory(root.path());
        opens_in_time(what, root.path(), &options(), durable, before);
    };
    let rows: [Write; 3] = [most_strings; 3];
    opens_in_time("tiny strings", |txn, number| string(txn, number, 1), rows);
    let deletions: [Write; 3] = [most_strings, most_deletions, most_strings];
    opens_in_time("tiny strings, and deletions", |txn, number| string(txn, number, 1), deletions);
    opens_in_time("tiny hashes", |txn, number| hash(txn, number, 1), rows);
    opens_in_time("tiny fields of one hash", |txn, number| field(txn, number, 1), rows);
    opens_in_time("middling hashes", |txn, number| hash(txn, number, MIDDLING_BYTES), rows);
    opens_in_time("large strings", |txn, number| string(txn, number, VALUE_BYTES_MAX), rows);
    opens_in_time("large fields", |txn, number| field(txn, number, VALUE_BYTES_MAX), rows);
}

/// Nothing but what is persisted is known to be committed: every version stays. A time that grew with the
/// square of their number would be beyond all bounds with many fewer than there may be.
#[test]
fn a_log_of_many_writes_of_one_key_opens_in_time_before_it_is_known_to_be_committed() {
    let _alone = ALONE.lock();
    let bounds =
        StoreOptions { layer_changes: 200_000, unapplied_changes_max: 400_000, ..options() };
    let options = StoreOptions { visibility: Visibility::Committed, ..bounds.clone() };
    let last: Write = |txn, number| (0..3).for_each(|_| string(txn, number, 1));
    let opens_in_time = |what, write: Write| {
        let root = tempfile::tempdir().unwrap();
        let durable = leave_behind(root.path(), &bounds, write, [last; 3]);
        opens_in_time(what, root.path(), &options, durable, || forget_in_memory(root.path()));
    };
    opens_in_time("one string", |txn, _| txn.put_string(b"key", b"v", None).unwrap());
    opens_in_time("one field", |txn, _| {
        txn.hash_put(b"hash", &[(b"field", b"v")]).unwrap();
    });
}

/// A directory in memory, if there is one for so many bytes.
fn in_memory(bytes: u64) -> Option<TempDir> {
    let place = Path::new("/dev/shm");
    let stat = rustix::fs::statvfs(place).ok()?;
    let is_enough = stat.f_bavail.saturating_mul(stat.f_frsize) > 2 * bytes;
    is_enough.then(|| tempfile::tempdir_in(place).ok()).flatten()
}

/// As many as may be kept for followers, and all that is not applied in segments as small as can be.
#[test]
fn a_log_of_very_many_segments_opens_in_time() {
    let _alone = ALONE.lock();
    let unapplied = UNAPPLIED_BYTES_MAX + 2 * LAYER_BYTES_MAX;
    let segments = LOG_SEGMENTS_MAX + unapplied / SEGMENT_BYTES_MIN;
    // In memory, where a sync for each segment costs nothing; a segment of one record is one of many.
    let made = in_memory(segments * PAGE_BYTES).unwrap_or_else(|| tempfile::tempdir().unwrap());
    let options = StoreOptions { segment_bytes: 1, ..options() };
    let mut node = Node::open(made.path(), options.clone()).unwrap();
    for number in 1..segments {
        node.put("key", &number.to_string());
    }
    let durable = node.store.watermarks().durable;
    assert_eq!(node.store.log().segments().len() as u64, segments);
    drop(node);
    let root = tempfile::tempdir().unwrap();
    copy(made.path(), root.path());
    // Their files stay in memory: from the disk, each would be as late as that disk answers.
    opens_in_time("very many segments", root.path(), &options, durable, rustix::fs::sync);
}
