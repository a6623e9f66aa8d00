//! A store that follows another: what it holds, what of that is read, and what becomes of it when
//! it is opened again or becomes the master.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_storage::{
    AcceptError, Digest, OpenAs, Position, StoreError, StoreOptions, Visibility,
    effect::Effect,
    fs::RealFs,
    log::{self, LogOptions},
    peek,
};
use larder_types::{Epoch, HybridTime, LogId, SequenceNumber};
use rand::{Rng, SeedableRng, rngs::StdRng};
use store_support::{Node, WALL_MS, seed, tiny, wait_for, write_randomly};

fn committed() -> StoreOptions {
    StoreOptions { visibility: Visibility::Committed, ..tiny() }
}

fn follower_of(master: &Node, root: &Path, options: StoreOptions) -> Node {
    let log = Some(master.store.log().id());
    Node::open_as(root, options, OpenAs::Follower { log }).unwrap()
}

/// More records than a story writes between two calls of [`digests`].
const DIGEST_EVERY: u64 = 500;

fn digested() -> StoreOptions {
    StoreOptions { digest_every: DIGEST_EVERY, ..tiny() }
}

/// Goes on to the next record after which both make a digest, and answers both.
fn digests(master: &mut Node, follower: &mut Node) -> (Digest, Digest) {
    // In one batch that does not end there: what comes behind shows nothing of it.
    master.append("digest", "now");
    while !master.writer.last().seq.as_u64().is_multiple_of(DIGEST_EVERY) {
        master.append("digest", "now");
    }
    let at = master.writer.last();
    master.put("after", &at.seq.to_string());
    follower.follow(master, 1 << 20);
    (digest_at(master, at), digest_at(follower, at))
}

fn digest_at(node: &mut Node, at: Position) -> Digest {
    node.fold();
    let mut found = None;
    wait_for("a digest", || {
        found = node.store.take_digests().into_iter().find(|digest| digest.position == at);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_follower_holds_what_the_master_holds_through_restarts_folds_and_compactions() {
    let mut random = StdRng::seed_from_u64(seed());
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), digested()).unwrap();
    let mut follower = follower_of(&master, two.path(), digested());
    assert_eq!(follower.writer.tail(), None);
    for round in 0..40 {
        for _ in 0..random.random_range(0..60) {
            write_randomly(&mut random, &mut master, true);
            if random.random_range(0..4) == 0 {
                master.commit();
            }
        }
        master.commit();
        // Nothing is flushed at the master, so that its log still holds what the follower lacks.
        master.fold();
        follower.follow(&master, random.random_range(1..2_000));
        assert_eq!(follower.contents(), master.contents(), "round {round}");
        match random.random_range(0..5) {
            0 => {
                follower.crash();
                follower = follower_of(&master, two.path(), digested());
            }
            1 => {
                follower.close();
                follower = follower_of(&master, two.path(), digested());
            }
            2 => {
                follower.fold();
                follower.folder.flush().unwrap();
                follower.store.database().unwrap().compact().unwrap();
            }
            _ => follower.fold(),
        }
        assert_eq!(follower.contents(), master.contents(), "round {round}, later");
        if round % 8 == 7 {
            let (at_master, at_follower) = digests(&mut master, &mut follower);
            assert_eq!(at_master, at_follower, "round {round}");
        }
    }
}

#[test]
fn a_digest_that_a_crash_forestalled_is_made_of_the_records_that_are_replayed() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), digested()).unwrap();
    while node.writer.last().seq.as_u64() < DIGEST_EVERY + 1 {
        node.append("key", "value");
    }
    node.commit();
    let at = Position { seq: SequenceNumber::new(DIGEST_EVERY).unwrap(), ..node.writer.last() };
    node.crash();
    let mut node = Node::open(root.path(), digested()).unwrap();
    assert!(node.replayed > DIGEST_EVERY);
    assert_eq!(digest_at(&mut node, at).keys, 1);
}

#[test]
fn a_digest_tells_one_field_that_differs() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), digested()).unwrap();
    let mut follower = follower_of(&master, two.path(), digested());
    let mut txn = master.writer.transaction(WALL_MS);
    txn.hash_put(b"hash", &[(b"field", b"value")]).unwrap();
    txn.commit();
    let (before, same) = digests(&mut master, &mut follower);
    assert_eq!(before, same);
    assert_eq!(before.keys, 2);
    // A defect of the follower's: it applies another value than the record says.
    let database = follower.store.database().unwrap();
    let row = database.row(b"hash").unwrap().unwrap();
    let generation = match larder_storage::row::RowRef::parse(&row).unwrap().value() {
        larder_storage::row::RowValue::Hash { generation, .. } => generation,
        larder_storage::row::RowValue::String(_) => panic!("a hash"),
    };
    let mut batch = larder_storage::state::FoldBatch::new();
    let other = larder_storage::row::field_row(HybridTime::ZERO, b"other");
    batch.put_element(b"hash", generation, b"field", &other);
    let applied = database.applied().unwrap().unwrap();
    database.fold(batch, applied).unwrap();
    drop(database);
    let (at_master, at_follower) = digests(&mut master, &mut follower);
    assert_eq!(at_master.position, at_follower.position);
    assert_ne!(at_master.hash, at_follower.hash);
}

#[test]
fn a_follower_that_begins_an_epoch_writes_on_with_a_clock_above_the_logs() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), tiny()).unwrap();
    master.put("key", "of the first master");
    let mut follower = follower_of(&master, two.path(), tiny());
    follower.follow(&master, 1 << 20);
    let tail = follower.writer.tail().unwrap();
    assert_eq!(tail, master.writer.last());
    let stale = Epoch { id: 9, ..tail.epoch };
    follower.writer.begin_epoch(stale, WALL_MS).unwrap_err();
    let promoted = Epoch { term: tail.epoch.term + 1, run: 1, id: 9 };
    // The wall clock of the new master is behind.
    let begun = follower.writer.begin_epoch(promoted, 5).unwrap();
    assert_eq!((begun.epoch, begun.seq), (promoted, tail.seq.next()));
    let mut txn = follower.writer.transaction(5);
    assert!(txn.stamp().millis() >= WALL_MS, "{}", txn.stamp());
    txn.put_string(b"key", b"of the second", None).unwrap();
    txn.commit().unwrap();
    follower.commit();
    assert_eq!(follower.text("key").unwrap(), "of the second");
    // The old master follows.
    master.follow(&follower, 1 << 20);
    assert_eq!(master.contents(), follower.contents());
    let role = OpenAs::Follower { log: None };
    drop(master);
    let master = Node::open_as(one.path(), tiny(), role).unwrap();
    assert_eq!(master.contents(), follower.contents());
    assert_eq!(master.store.log().epochs(), follower.store.log().epochs());
}

#[test]
fn what_is_not_committed_is_neither_read_nor_folded_nor_read_after_a_restart() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), committed()).unwrap();
    let mut follower = follower_of(&master, two.path(), committed());
    master.put("key", "old");
    let first = master.writer.last().seq;
    assert_eq!(master.text("key"), None, "durable is not committed");
    assert_eq!(master.store.commit(first), first.as_u64());
    assert_eq!(master.text("key").unwrap(), "old");
    master.put("key", "new");
    let second = master.writer.last().seq;
    follower.follow(&master, 1 << 20);
    assert_eq!(follower.text("key"), None);
    follower.store.commit(first);
    assert_eq!(follower.text("key").unwrap(), "old");
    for node in [&mut master, &mut follower] {
        node.writer.seal();
        node.fold();
        let marks = node.store.watermarks();
        assert!(marks.applied < second.as_u64() && marks.visible == first.as_u64(), "{marks:?}");
        assert_eq!((marks.committed, marks.durable), (first.as_u64(), second.as_u64()));
        assert_eq!(node.store.commit(first), first.as_u64(), "it never goes back");
    }
    let (log, id) = (OpenAs::Follower { log: None }, master.store.log().id());
    drop(follower);
    let mut follower = Node::open_as(two.path(), committed(), log).unwrap();
    assert_eq!(follower.store.log().id(), id);
    // It learns again what is committed: nothing but what is folded is known to be.
    assert_eq!(follower.text("key"), None);
    follower.store.commit(second.next().next());
    assert_eq!(follower.text("key").unwrap(), "new");
    follower.writer.seal();
    follower.fold();
    assert_eq!(follower.store.watermarks().applied, second.as_u64());
}

#[test]
fn a_commit_beyond_what_is_durable_here_shows_no_more_than_that() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), committed()).unwrap();
    node.put("a", "1");
    node.append("b", "2");
    let (durable, last) = (node.store.watermarks().durable, node.writer.last().seq);
    assert_eq!(node.store.commit(last), durable);
    assert_eq!((node.text("a").unwrap(), node.text("b")), ("1".into(), None));
    node.commit();
    assert_eq!(node.text("b"), None, "it was not committed when it became durable");
    assert_eq!(node.store.commit(last), last.as_u64());
    assert_eq!(node.text("b").unwrap(), "2");
}

#[test]
fn a_deletion_of_all_keys_shows_when_it_is_committed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), committed()).unwrap();
    let mut follower = follower_of(&master, two.path(), committed());
    master.put("key", "value");
    let before = master.writer.last().seq;
    let mut txn = master.writer.transaction(WALL_MS);
    txn.clear().unwrap();
    txn.commit().unwrap();
    master.commit();
    follower.follow(&master, 1 << 20);
    drop(follower);
    let mut follower = follower_of(&master, two.path(), committed());
    follower.store.commit(before);
    assert_eq!(follower.text("key").unwrap(), "value");
    follower.store.commit(before.next());
    assert_eq!(follower.text("key"), None);
    follower.writer.seal();
    follower.fold();
    assert_eq!(follower.text("key"), None);
}

#[test]
fn whoever_waits_is_told_of_each_durable_tail() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let (seen, store) = (told.clone(), node.store.clone());
    node.store.on_durable(move |seq| {
        assert!(store.watermarks().durable >= seq.as_u64());
        seen.store(seq.as_u64(), Ordering::Relaxed);
    });
    node.put("key", "value");
    assert_eq!(told.load(Ordering::Relaxed), node.writer.last().seq.as_u64());
}

#[test]
fn frames_whose_record_cannot_be_applied_are_refused_whole() {
    let root = tempfile::tempdir().unwrap();
    let mut master = Node::open(root.path(), tiny()).unwrap();
    let two = tempfile::tempdir().unwrap();
    let mut follower = follower_of(&master, two.path(), tiny());
    follower.follow(&master, 1 << 20);
    master.put("key", "value");
    drop(master);
    // A log goes on behind the store's back, with a record that no store would write.
    let (dir, aside) = (root.path().join("log"), root.path().join("quarantine"));
    let from = SequenceNumber::FIRST;
    let mut opened =
        log::open(Arc::new(RealFs), &dir, &aside, LogOptions::default(), from, &mut |_| {
            Ok::<(), StoreError>(())
        })
        .unwrap();
    let epoch = Epoch { term: 7, run: 1, id: 1 };
    opened.appender.begin_epoch(epoch, HybridTime::new(WALL_MS + 5, 0));
    opened
        .appender
        .append(HybridTime::new(WALL_MS + 6, 0), |body| {
            Effect::PutRow { key: b"key", row: b"no row" }.encode(body);
        })
        .unwrap();
    opened.syncer.commit(opened.appender.take_batch().unwrap()).unwrap();
    let mut cursor = opened.log.read(follower.next()).unwrap();
    let frames = cursor.next_frames(1 << 20).unwrap().unwrap();
    let (before, tail) = (follower.contents(), follower.writer.tail());
    let refused = follower.writer.accept(&frames.bytes).unwrap_err();
    assert!(matches!(refused, AcceptError::Record(_)), "{refused}");
    assert!(follower.writer.take_batch().is_none());
    assert_eq!((follower.contents(), follower.writer.tail()), (before, tail));
}

#[test]
fn a_follower_of_another_log_or_of_none_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let follow = |log| Node::open_as(root.path(), tiny(), OpenAs::Follower { log }).err();
    assert!(matches!(follow(None), Some(StoreError::NoLog { .. })));
    assert!(follow(Some(LogId::from_bytes([1; 16]))).is_none());
    assert!(follow(None).is_none());
    let other = follow(Some(LogId::from_bytes([2; 16])));
    assert!(matches!(other, Some(StoreError::OtherLog { .. })));
}

#[test]
fn the_replica_sets_are_known_live_after_a_crash_and_after_their_records_are_trimmed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), tiny()).unwrap();
    let mut follower = follower_of(&master, two.path(), tiny());
    let mut expected = Vec::new();
    for round in 0..3 {
        let body = format!("set {round}");
        let at = master.writer.append_replicas(body.as_bytes(), WALL_MS).unwrap();
        expected.push((at, body.into_bytes()));
        master.put("key", "value");
    }
    let behind = |after| -> Vec<_> {
        master.store.replicas_behind(after).iter().map(|record| record.position).collect()
    };
    let positions: Vec<_> = expected.iter().map(|(at, _)| *at).collect();
    assert_eq!(behind(None), positions);
    assert_eq!(behind(Some(positions[0].seq)), positions[1..]);
    assert_eq!(behind(Some(positions[1].seq.next())), positions[2..]);
    assert!(behind(Some(positions[2].seq)).is_empty());
    let known = |node: &Node| -> Vec<_> {
        let records = node.store.replicas();
        records.into_iter().map(|record| (record.position, record.body.to_vec())).collect()
    };
    follower.follow(&master, 1 << 20);
    assert_eq!((known(&master), known(&follower)), (expected.clone(), expected.clone()));
    drop(follower);
    let mut follower = follower_of(&master, two.path(), tiny());
    assert_eq!(known(&follower), expected);
    while master.store.log().first() == SequenceNumber::FIRST {
        master.put("key", &"x".repeat(1_000));
        follower.follow(&master, 1 << 20);
        for node in [&mut master, &mut follower] {
            node.writer.seal();
            node.fold();
            node.folder.flush().unwrap();
        }
    }
    assert!(follower.store.log().first() > SequenceNumber::FIRST);
    assert_eq!((known(&master), known(&follower)), (expected.clone(), expected.clone()));
    let (tail, epochs) = (follower.writer.tail(), follower.store.log().epochs());
    let (directory, applied) = (follower.directory, follower.store.watermarks().applied);
    follower.store.close();
    drop((follower.writer, follower.syncer, follower.folder, follower.store));
    let peeked = peek(&directory, &tiny().database).unwrap().unwrap();
    let sets = peeked.replicas.iter().map(|record| (record.position, record.body.to_vec()));
    assert_eq!(sets.collect::<Vec<_>>(), expected);
    assert_eq!((peeked.last, peeked.epochs), (tail, epochs));
    assert_eq!(peeked.applied.unwrap().as_u64(), applied);
    assert_eq!(peeked.log, master.store.log().id());
}

/// Writes, folds and flushes until the log has sealed some segments more.
fn grow(node: &mut Node, segments: usize) {
    for _ in 0..segments * 20 {
        node.put("key", &"x".repeat(1_000));
    }
    node.writer.seal();
    node.fold();
    node.folder.flush().unwrap();
}

#[test]
fn the_log_is_kept_for_followers_up_to_the_cap_and_then_tells_that_it_was_not() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { retain_bytes_max: 200 << 10, ..tiny() };
    let mut node = Node::open(root.path(), options).unwrap();
    let needed = node.writer.last().seq.next();
    node.store.retain_from(Some(needed));
    grow(&mut node, 4);
    assert!(node.store.log().first() <= needed);
    assert_eq!(node.store.passed_floor(), None);
    let later = node.writer.last().seq;
    node.store.retain_from(Some(later));
    grow(&mut node, 2);
    let first = node.store.log().first();
    assert!(first > needed && first <= later);
    grow(&mut node, 20);
    let first = node.store.log().first();
    assert!(first > later, "beyond the cap the log goes on being trimmed");
    assert_eq!(node.store.passed_floor(), Some(first));
    assert!(node.store.log().bytes() <= (200 << 10) + (40 << 10));
    node.store.retain_from(None);
    assert_eq!(node.store.passed_floor(), None);
}

#[test]
fn nothing_is_trimmed_at_a_start_before_it_is_known_what_followers_need() {
    let root = tempfile::tempdir().unwrap();
    let retain_from = Some(SequenceNumber::FIRST);
    let options = StoreOptions { retain_from, ..tiny() };
    let mut node = Node::open(root.path(), options.clone()).unwrap();
    grow(&mut node, 4);
    assert_eq!(node.store.log().first(), SequenceNumber::FIRST);
    drop(node);
    let mut node = Node::open(root.path(), options).unwrap();
    grow(&mut node, 1);
    assert_eq!(node.store.log().first(), SequenceNumber::FIRST);
    node.store.retain_from(None);
    grow(&mut node, 1);
    assert!(node.store.log().first() > SequenceNumber::FIRST);
}
