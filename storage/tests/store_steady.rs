//! Several keys read one after the other where what is visible moves on: a steady view shows all of
//! them as of one record, whatever is written, committed and folded meanwhile.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use larder_storage::{OpenAs, Store, StoreOptions, View, Visibility, row::RowValue};
use store_support::{Node, WALL_MS, tiny, wait_for};

/// The keys of one record: the first and the last are compared, and there is time between.
const KEYS: usize = 12;
const READERS: usize = 2;
/// A reader has read enough after so many times, and after so many that showed something new.
const ENOUGH: (u64, u64) = (1_000, 50);
/// A machine on which there was not enough by then is too slow to say anything.
const LONGEST: Duration = Duration::from_secs(60);

fn key(index: usize) -> String {
    format!("key:{index}")
}

/// One record that puts the same value under every key.
fn put_all(node: &mut Node, value: u64) {
    let mut txn = node.writer.transaction(WALL_MS);
    for index in 0..KEYS {
        txn.put_string(key(index).as_bytes(), value.to_string().as_bytes(), None).unwrap();
    }
    txn.commit().unwrap();
}

fn value(view: &View<'_>, index: usize) -> Option<u64> {
    let row = view.row(key(index).as_bytes()).unwrap()?;
    let RowValue::String(text) = row.as_ref().value() else { panic!("not a string") };
    Some(std::str::from_utf8(text).unwrap().parse().unwrap())
}

fn node() -> (tempfile::TempDir, Node) {
    let root = tempfile::tempdir().unwrap();
    let node = Node::open(root.path(), tiny()).unwrap();
    (root, node)
}

/// Whether readers whose clock is where the key was put find it, now and in a view that does not move.
fn finds(node: &Node, key: &str) -> [bool; 2] {
    let store = &node.store;
    let (view, steady) = (store.view(WALL_MS), store.steady_view(WALL_MS));
    [view.row(key.as_bytes()), steady.row(key.as_bytes())].map(|row| row.unwrap().is_some())
}

#[test]
fn what_has_expired_for_a_record_has_for_readers_whose_clock_is_behind_it() {
    let (root, mut node) = node();
    let mut txn = node.writer.transaction(WALL_MS);
    txn.put_string(b"short", b"lived", Some(WALL_MS + 5)).unwrap();
    txn.commit().unwrap();
    node.commit();
    assert_eq!(finds(&node, "short"), [true; 2]);
    let mut txn = node.writer.transaction(WALL_MS + 10);
    txn.put_string(b"later", b"record", None).unwrap();
    txn.commit().unwrap();
    node.commit();
    assert_eq!(finds(&node, "short"), [false; 2], "the next transaction takes it for gone");
    assert_eq!(finds(&node, "later"), [true; 2]);

    let slave_root = tempfile::tempdir().unwrap();
    let follower = OpenAs::Follower { log: Some(node.store.log().id()) };
    let mut slave = Node::open_as(slave_root.path(), tiny(), follower).unwrap();
    slave.follow(&node, 1 << 20);
    assert_eq!((finds(&slave, "short"), finds(&slave, "later")), ([false; 2], [true; 2]));

    node.close();
    let node = Node::open_as(root.path(), tiny(), OpenAs::Follower { log: None }).unwrap();
    assert_eq!((finds(&node, "short"), finds(&node, "later")), ([false; 2], [true; 2]));
}

#[test]
fn a_steady_view_shows_what_was_visible_when_it_was_made() {
    let (_root, mut node) = node();
    put_all(&mut node, 1);
    node.commit();
    let store = node.store.clone();
    let steady = store.steady_view(WALL_MS);
    assert_eq!(value(&steady, 0), Some(1));
    for number in 2..5 {
        put_all(&mut node, number);
        node.commit();
    }
    assert_eq!(value(&store.view(WALL_MS), 1), Some(4));
    assert_eq!(value(&steady, 1), Some(1));
    let later = store.steady_view(WALL_MS);
    drop(steady);
    put_all(&mut node, 5);
    node.commit();
    assert_eq!(value(&later, 2), Some(4), "another one that was made later");
}

#[test]
fn the_fold_waits_for_a_steady_view_and_goes_on_after_it() {
    let (_root, mut node) = node();
    put_all(&mut node, 1);
    node.commit();
    node.writer.seal();
    node.fold();
    let store = node.store.clone();
    let before = store.watermarks().applied;
    let steady = store.steady_view(WALL_MS);
    put_all(&mut node, 2);
    node.commit();
    node.writer.seal();
    assert!(node.folder.fold_one().unwrap().is_break(), "RocksDB would have what is not in sight");
    assert_eq!(value(&steady, 3), Some(1), "as RocksDB has it");
    drop(steady);
    node.fold();
    assert!(store.watermarks().applied > before);
    assert_eq!(value(&store.steady_view(WALL_MS), 3), Some(2));
}

#[test]
fn a_steady_view_does_not_see_that_everything_was_deleted_later() {
    let (_root, mut node) = node();
    put_all(&mut node, 1);
    node.commit();
    let store = node.store.clone();
    let steady = store.steady_view(WALL_MS);
    let mut txn = node.writer.transaction(WALL_MS);
    txn.clear().unwrap();
    txn.commit();
    node.commit();
    assert!(node.folder.fold_one().unwrap().is_continue(), "up to what is in sight");
    assert_eq!(value(&steady, 0), Some(1));
    assert_eq!(value(&store.view(WALL_MS), 0), None);
}

/// Reads every key from one view after the other, until that was often enough, or is to end.
fn read_enough(end: &AtomicBool, store: &Store) -> (u64, u64) {
    let (mut reads, mut news, mut last) = (0, 0, 0);
    while (reads < ENOUGH.0 || news < ENOUGH.1) && !end.load(Ordering::Acquire) {
        let view = store.steady_view(WALL_MS);
        let first = value(&view, 0).expect("it was written before");
        for index in 1..KEYS {
            assert_eq!(value(&view, index), Some(first), "keys of one record, read together");
        }
        assert!(first >= last, "{first} after {last}");
        (reads, news) = (reads + 1, news + u64::from(first > last));
        last = first;
    }
    (reads, news)
}

#[test]
fn keys_that_a_master_writes_together_are_read_together_at_a_follower() {
    let (_master_root, mut master) = node();
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { visibility: Visibility::Committed, ..tiny() };
    let role = OpenAs::Follower { log: Some(master.store.log().id()) };
    let Node { mut writer, mut syncer, folder, store, directory: _directory, .. } =
        Node::open_as(root.path(), options, role).unwrap();
    let folding = thread::spawn(move || folder.run());
    let end = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    let (mut next, mut written, began) = (store.log().first(), 0, Instant::now());
    let applied = || store.watermarks().applied;
    while (readers.is_empty()
        || !readers.iter().all(thread::JoinHandle::is_finished)
        || applied() < 50)
        && began.elapsed() < LONGEST
    {
        written += 1;
        put_all(&mut master, written);
        master.commit();
        master.writer.seal();
        master.fold();
        let mut cursor = master.store.log().read(next).unwrap();
        while let Some(frames) = cursor.next_frames(1 << 20).unwrap() {
            wait_for("the fold", || writer.has_room());
            writer.accept(&frames.bytes).unwrap();
            syncer.commit(writer.take_batch().unwrap()).unwrap();
            store.commit(frames.last);
            next = frames.last.next();
        }
        if readers.is_empty() {
            readers.extend((0..READERS).map(|_| {
                let (end, store) = (end.clone(), store.clone());
                thread::spawn(move || read_enough(&end, &store))
            }));
        }
    }
    end.store(true, Ordering::Release);
    let ends: Vec<_> = readers.into_iter().map(thread::JoinHandle::join).collect();
    let applied = applied();
    store.stop_folding();
    folding.join().unwrap().unwrap();
    let figures: Vec<(u64, u64)> = ends.into_iter().map(Result::unwrap).collect();
    println!("{written} records, folded up to {applied}; reads, with news: {figures:?}");
    assert!(applied >= 50, "too little was folded");
    assert!(figures.iter().all(|&(reads, news)| reads >= ENOUGH.0 && news >= ENOUGH.1));
}
