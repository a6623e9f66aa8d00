//! Opening a store: what is replayed, what is refused, how long it takes, and the bounds that keep
//! it short.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    error::Error,
    fs,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use larder_storage::{
    Directory, Durability, LogError, Position, StoreError, StoreOptions, Txn, Visibility,
    effect::Effect,
    fs::RealFs,
    log::{self, LogOptions},
    peek,
    row::{Generation, field_row, string_row},
    store::FoldError,
};
use larder_types::{Epoch, HybridTime, SequenceNumber};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use store_support::{DEADLINE, Node, WALL_MS, copy, seed, tiny, wait_for};

const CLEARS: u64 = 20_000;

fn refusal(root: &Path) -> StoreError {
    Node::open(root, tiny()).err().expect("the store must be refused")
}

/// The error with all its causes.
fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

#[test]
fn exactly_what_is_not_persisted_is_replayed() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    let mut numbers = 0..;
    for round in 0..20 {
        let before = node.store.watermarks();
        for number in numbers.by_ref().take(50 + round) {
            node.append(&format!("key:{number}"), &number.to_string());
        }
        node.commit();
        node.writer.seal();
        match round % 3 {
            0 => {}
            1 => node.fold(),
            _ => assert!(node.folder.fold_one().unwrap().is_continue()),
        }
        if round % 4 == 1 {
            node.folder.flush().unwrap();
        }
        let marks = node.store.watermarks();
        assert!(marks.persisted >= before.persisted && marks.applied >= marks.persisted);
        drop(node);
        node = Node::open(root.path(), tiny()).unwrap();
        assert_eq!(node.replayed, marks.durable - marks.persisted, "round {round}: {marks:?}");
        let after = node.store.watermarks();
        assert_eq!((after.applied, after.persisted), (marks.persisted, marks.persisted));
        assert_eq!(after.visible, marks.durable + 1, "the record that begins the epoch");
    }
    for number in 0..numbers.next().unwrap() {
        assert_eq!(node.text(&format!("key:{number}")), Some(number.to_string()));
    }
    assert!(node.store.watermarks().trimmed > 0, "nothing was ever trimmed");
}

#[test]
fn every_start_raises_the_run_and_no_position_is_used_twice() {
    let root = tempfile::tempdir().unwrap();
    let mut used: HashSet<Position> = HashSet::new();
    let mut run = 0;
    for start in 0..12 {
        let mut node = Node::open(root.path(), tiny()).unwrap();
        let begun = node.writer.last();
        assert_eq!(begun.epoch.run, run + 1, "start {start}");
        run = begun.epoch.run;
        assert!(used.insert(begun));
        for number in 0..10 {
            if number == 5 {
                node.commit();
            }
            // What comes after the commit is lost, and its numbers are given again.
            let mut txn = node.writer.transaction(WALL_MS);
            txn.put_string(b"key", number.to_string().as_bytes(), None).unwrap();
            assert!(used.insert(txn.commit().unwrap()), "start {start}, write {number}");
        }
        if start % 3 == 0 {
            node.close();
        }
    }
    let sequences: HashSet<_> = used.iter().map(|position| position.seq).collect();
    assert!(sequences.len() < used.len(), "no number was ever given again: nothing was tested");
}

#[test]
fn a_state_ahead_of_its_log_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    node.put("early", "1");
    drop(node);
    let early = tempfile::tempdir().unwrap();
    copy(&root.path().join("log"), early.path());
    let mut node = Node::open(root.path(), tiny()).unwrap();
    for number in 0..10 {
        node.put("late", &number.to_string());
    }
    node.close();
    let before = fs::read_dir(early.path()).unwrap().count();
    copy(early.path(), &root.path().join("log"));
    let refused = refusal(root.path());
    assert!(matches!(refused, StoreError::StateAhead { .. }), "{refused}");
    assert_eq!(fs::read_dir(root.path().join("log")).unwrap().count(), before);
}

#[test]
fn room_of_the_log_is_given_back_before_the_state_is_opened_that_may_need_it() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    node.put("key", "value");
    node.close();
    let room = root.path().join("log/next.room");
    // The state does not open, whatever the reason.
    fs::write(root.path().join("state/CURRENT"), "none").unwrap();
    let looked_at = |root: &Path| {
        let directory = Directory::open(root).unwrap();
        peek(&directory, &tiny().database).unwrap_err();
    };
    let opened = |root: &Path| assert!(matches!(refusal(root), StoreError::State(_)));
    for open in [&looked_at as &dyn Fn(&Path), &opened] {
        fs::write(&room, [0; 100]).unwrap();
        open(root.path());
        assert!(!room.exists());
    }
}

#[test]
fn a_state_of_another_history_is_refused() {
    let root = tempfile::tempdir().unwrap();
    Node::open(root.path(), tiny()).unwrap().close();
    let other = tempfile::tempdir().unwrap();
    copy(root.path(), other.path());
    for root in [root.path(), other.path()] {
        let mut node = Node::open(root, tiny()).unwrap();
        for number in 0..10 {
            node.put("key", &number.to_string());
        }
        node.close();
    }
    copy(&other.path().join("state"), &root.path().join("state"));
    let refused = refusal(root.path());
    assert!(matches!(refused, StoreError::Parted { .. }), "{refused}");
}

#[test]
fn a_state_that_was_lost_after_its_log_was_trimmed_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    for number in 0..60 {
        node.put(&format!("key:{number}"), &"x".repeat(1_000));
    }
    node.writer.seal();
    node.fold();
    node.folder.flush().unwrap();
    assert!(node.store.watermarks().trimmed > 0);
    drop(node);
    fs::remove_dir_all(root.path().join("state")).unwrap();
    let refused = refusal(root.path());
    assert!(matches!(refused, StoreError::Log(LogError::Gap { .. })), "{refused}");
}

#[test]
fn the_log_is_trimmed_below_what_is_persisted_only() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    for number in 0..400 {
        node.put(&format!("key:{number}"), &"x".repeat(200));
        if number % 7 == 0 {
            let _ = node.folder.fold_one().unwrap();
        }
        if number % 31 == 0 {
            node.folder.flush().unwrap();
        }
        let marks = node.store.watermarks();
        assert!(marks.trimmed <= marks.persisted, "{marks:?}");
        assert!(marks.persisted <= marks.applied && marks.applied <= marks.visible, "{marks:?}");
    }
    assert!(node.store.watermarks().trimmed > 100, "{:?}", node.store.watermarks());
}

#[test]
fn a_clear_that_is_not_durable_is_not_folded() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    node.put("key", "value");
    let mut txn = node.writer.transaction(WALL_MS);
    txn.put_string(b"key", b"between", None).unwrap();
    txn.clear().unwrap();
    txn.put_string(b"other", b"between", None).unwrap();
    txn.clear().unwrap();
    txn.commit().unwrap();
    node.fold();
    assert_eq!(node.text("key").as_deref(), Some("value"), "the clear is not visible");
    node.folder.flush().unwrap();
    drop(node);
    let node = Node::open(root.path(), tiny()).unwrap();
    assert_eq!(node.text("key").as_deref(), Some("value"), "the clear was lost in the crash");
    assert_eq!(node.text("other"), None);
}

#[test]
fn a_transaction_that_deletes_every_key_again_and_again_begins_one_layer() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    node.put("key", "before");
    let mut txn = node.writer.transaction(WALL_MS);
    for number in 0..CLEARS {
        txn.put_string(b"key", number.to_string().as_bytes(), None).unwrap();
        txn.clear().unwrap();
        assert!(txn.view().row(b"key").unwrap().is_none());
    }
    txn.put_string(b"last", b"value", None).unwrap();
    txn.commit().unwrap();
    // Below it what was before, and above it what comes after: the record fills a layer.
    assert!(node.store.stats().layers <= 3, "{:?}", node.store.stats());
    assert_eq!(node.text("key").as_deref(), Some("before"), "the record is not visible");
    node.commit();
    for _ in 0..2 {
        assert_eq!((node.text("key"), node.text("last").as_deref()), (None, Some("value")));
        drop(node);
        node = Node::open(root.path(), tiny()).unwrap();
    }
    node.writer.seal();
    node.fold();
    assert_eq!((node.text("key"), node.text("last").as_deref()), (None, Some("value")));
}

#[test]
fn deletions_of_every_key_delete_all_and_count_the_same_when_they_are_replayed() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    let mut txn = node.writer.transaction(WALL_MS);
    for keys in [100, 1, 0, 10] {
        (0..keys).for_each(|key| txn.put_string(&[key], b"value", None).unwrap());
        txn.clear().unwrap();
        assert_eq!(txn.view().count_keys().unwrap(), 0);
    }
    txn.commit().unwrap();
    node.commit();
    let written = node.store.stats().unapplied_changes;
    drop(node);
    let node = Node::open(root.path(), tiny()).unwrap();
    assert_eq!(node.store.stats().unapplied_changes, written + 1, "with the record of its epoch");
    assert_eq!(node.store.view(WALL_MS).count_keys().unwrap(), 0);
}

#[test]
fn deletions_of_every_key_with_nothing_between_them_begin_one_layer() {
    let root = tempfile::tempdir().unwrap();
    let options = || StoreOptions { layer_bytes: 8 << 20, layer_changes: CLEARS * 4, ..tiny() };
    let mut node = Node::open(root.path(), options()).unwrap();
    node.put("key", "before");
    for _ in 0..CLEARS {
        let mut txn = node.writer.transaction(WALL_MS);
        txn.clear().unwrap();
        txn.commit().unwrap();
    }
    assert_eq!(node.store.stats().layers, 2);
    node.commit();
    assert_eq!(node.text("key"), None);
    drop(node);
    let node = Node::open(root.path(), options()).unwrap();
    assert_eq!((node.replayed, node.store.stats().layers), (CLEARS + 2, 1));
    assert_eq!(node.text("key"), None);
}

#[test]
fn what_lies_below_a_deletion_of_every_key_is_not_kept_when_it_is_replayed() {
    let root = tempfile::tempdir().unwrap();
    let options = || StoreOptions { layer_bytes: 8 << 20, layer_changes: CLEARS * 4, ..tiny() };
    let mut node = Node::open(root.path(), options()).unwrap();
    node.writer.append_replicas(b"set", WALL_MS).unwrap();
    node.put("key", "before");
    drop(node);
    let row = string_row(HybridTime::new(WALL_MS, 0), None, b"v");
    let put = Effect::PutRow { key: b"key", row: &row };
    append_bodies(root.path(), &vec![body(&[put, Effect::Clear, put]); CLEARS as usize]);
    let began = Instant::now();
    let mut node = Node::open(root.path(), options()).unwrap();
    let took = began.elapsed();
    println!("{} records, each of which deletes every key, opened in {took:?}", node.replayed);
    let stats = node.store.stats();
    assert!(node.replayed > CLEARS && stats.layers == 1, "{stats:?}");
    assert!(stats.unapplied_records > CLEARS, "what must be replayed counts: {stats:?}");
    assert_eq!(node.text("key").as_deref(), Some("v"));
    // What is no key stays.
    node.writer.seal();
    node.commit();
    node.fold();
    node.folder.flush().unwrap();
    drop(node);
    let node = Node::open(root.path(), options()).unwrap();
    let bodies: Vec<_> = node.store.replicas().iter().map(|record| record.body.clone()).collect();
    assert_eq!(bodies, [b"set".as_slice()]);
    assert_eq!(node.text("key").as_deref(), Some("v"));
}

#[test]
fn a_replayed_deletion_of_every_key_waits_until_it_is_committed() {
    let root = tempfile::tempdir().unwrap();
    let options = || StoreOptions { visibility: Visibility::Committed, ..tiny() };
    let mut node = Node::open(root.path(), options()).unwrap();
    node.put("key", "value");
    let written = node.writer.last().seq;
    for _ in 0..2 {
        let mut txn = node.writer.transaction(WALL_MS);
        txn.clear().unwrap();
        txn.commit().unwrap();
    }
    let cleared = node.writer.last().seq;
    node.put("other", "value");
    let last = node.writer.last().seq;
    drop(node);
    let node = Node::open(root.path(), options()).unwrap();
    node.store.commit(written);
    assert_eq!(node.text("key").as_deref(), Some("value"));
    node.store.commit(cleared);
    assert_eq!((node.text("key"), node.text("other")), (None, None));
    node.store.commit(last);
    assert_eq!((node.text("key"), node.text("other").as_deref()), (None, Some("value")));
}

#[test]
fn many_small_layers_that_are_folded_make_a_flush_come() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { layer_bytes: 8 << 20, ..tiny() };
    let mut node = Node::open(root.path(), options).unwrap();
    let mut folds = 0;
    while !node.folder.owes_flush() {
        node.put("key", "value");
        node.writer.seal();
        node.fold();
        folds += 1;
        assert!(folds < 100, "a start would have to replay every layer");
    }
}

#[test]
fn a_flush_that_is_asked_for_persists_every_sealed_layer() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { layer_bytes: 1 << 20, ..tiny() };
    let mut node = Node::open(root.path(), options).unwrap();
    for number in 0..8 {
        node.put(&format!("key:{number}"), "value");
        node.writer.seal();
    }
    let last = node.writer.last().seq.as_u64();
    node.store.request_flush();
    let Node { folder, store, .. } = node;
    let folding = thread::spawn(move || folder.run());
    wait_for("the flush", || store.watermarks().persisted == last);
    store.stop_folding();
    folding.join().unwrap().unwrap();
}

#[test]
fn a_writer_waits_for_the_fold_at_the_bound_of_what_is_unapplied() {
    let root = tempfile::tempdir().unwrap();
    let options = tiny();
    let mut node = Node::open(root.path(), options.clone()).unwrap();
    while node.store.stats().unapplied_bytes <= options.unapplied_bytes_max {
        node.put("key", &"x".repeat(500));
    }
    let (waited, waits) = mpsc::channel();
    let Node { writer, folder, store, .. } = node;
    let writing = thread::spawn(move || {
        writer.wait_for_room();
        waited.send(()).unwrap();
    });
    let held = waits.recv_timeout(Duration::from_millis(300));
    assert_eq!(held, Err(mpsc::RecvTimeoutError::Timeout), "the writer went on beyond the bound");
    let folding = thread::spawn(move || folder.run());
    waits.recv_timeout(DEADLINE).expect("the fold made room");
    writing.join().unwrap();
    assert!(store.stats().unapplied_bytes <= options.unapplied_bytes_max);
    store.stop_folding();
    folding.join().unwrap().unwrap();
}

/// Writes with an interval of an hour until there is no room, and has the fold make some.
fn fill_up(options: StoreOptions, write: impl Fn(&mut Txn<'_>)) {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { durability: Durability::Interval(3_600_000), ..options };
    let mut node = Node::open(root.path(), options).unwrap();
    while node.writer.has_room() {
        let mut txn = node.writer.transaction(WALL_MS);
        write(&mut txn);
        txn.commit().unwrap();
        node.commit();
    }
    assert_eq!(node.store.watermarks().durable, node.writer.last().seq.as_u64());
    node.fold();
    assert!(node.writer.has_room(), "the fold makes room");
}

#[test]
fn what_waits_for_its_interval_is_fsynced_once_a_writer_waits_for_the_fold_to_take_it() {
    let put = |txn: &mut Txn<'_>| txn.put_string(b"key", &[0; 500], None).unwrap();
    fill_up(tiny(), put);
    fill_up(
        StoreOptions { unapplied_bytes_max: 1 << 30, unapplied_changes_max: 100, ..tiny() },
        put,
    );
    // Each deletion of all keys begins a layer.
    fill_up(tiny(), |txn| {
        put(txn);
        txn.clear().unwrap();
    });
}

#[test]
fn what_was_written_waits_for_its_interval_while_nothing_else_happens() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { durability: Durability::Interval(3_600_000), ..tiny() };
    let mut node = Node::open(root.path(), options).unwrap();
    let before = node.store.watermarks().durable;
    node.put("key", "value");
    node.syncer.idle().unwrap();
    assert_eq!(node.store.watermarks().durable, before);
    assert!(node.syncer.patience().is_some_and(|patience| patience > Duration::from_secs(3_000)));
}

#[test]
fn a_writer_waits_no_longer_for_a_fold_that_could_not_trim_the_log() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { retain_from: Some(SequenceNumber::FIRST), ..tiny() };
    let mut node = Node::open(root.path(), options.clone()).unwrap();
    let write = |node: &mut Node, more: u64| {
        let upto = node.store.stats().unapplied_bytes + more;
        while node.store.stats().unapplied_bytes <= upto {
            node.put("key", &"x".repeat(500));
        }
    };
    write(&mut node, 2 * options.segment_bytes);
    node.close();
    let mut node = Node::open(root.path(), options.clone()).unwrap();
    write(&mut node, 2 * options.unapplied_bytes_max);
    // What is to be trimmed cannot be removed.
    let first = node.store.log().segments().remove(0).path;
    fs::remove_file(&first).unwrap();
    fs::create_dir(&first).unwrap();
    node.store.retain_from(None);
    let Node { writer, folder, store, .. } = node;
    let waiting = thread::spawn(move || writer.wait_for_room());
    let ended = folder.run().unwrap_err();
    assert!(matches!(ended, FoldError::Log(_)), "{ended}");
    wait_for("the end of the waiting", || waiting.is_finished());
    assert!(store.stats().unapplied_bytes > options.unapplied_bytes_max, "there was no room");
}

#[test]
fn batches_wait_while_the_fold_is_behind_and_no_longer() {
    let root = tempfile::tempdir().unwrap();
    // Nothing is fsynced and no segment begun in a batch, so that it is done before its layer would be
    // folded.
    let options = StoreOptions {
        durability: Durability::Interval(3_600_000),
        segment_bytes: 1 << 30,
        unapplied_bytes_max: 64 << 20,
        ..tiny()
    };
    let mut node = Node::open(root.path(), options).unwrap();
    let value = "x".repeat(4 << 20);
    let put_a_layer = |node: &mut Node| {
        node.put("key", &value);
        node.writer.seal();
        node.syncer.sync_rest().unwrap();
    };
    put_a_layer(&mut node);
    assert_eq!(node.syncer.pause(), Duration::ZERO, "nobody knows how fast the fold is");
    let (mut pause, deadline) = (Duration::ZERO, Instant::now() + DEADLINE);
    while pause == Duration::ZERO {
        assert!(Instant::now() < deadline, "no batch waits");
        node.fold();
        put_a_layer(&mut node);
        node.put("key", &value);
        pause = node.syncer.pause();
        node.writer.seal();
        node.syncer.sync_rest().unwrap();
    }
    assert!(pause <= Duration::from_millis(100), "{pause:?}");
    node.fold();
    assert_eq!(node.syncer.pause(), Duration::ZERO, "nothing is unfolded");
    node.put("key", &value);
    assert_eq!(node.syncer.pause(), Duration::ZERO, "the fold may not take it yet");
}

/// Appends records with these bodies, whose checksums are right, to a store's log.
fn append_bodies(root: &Path, bodies: &[Vec<u8>]) {
    let directory = Directory::open(root).unwrap();
    let mut opened = log::open(
        Arc::new(RealFs),
        &directory.log(),
        &directory.quarantine(),
        LogOptions { reserve_bytes: 0, ..LogOptions::default() },
        SequenceNumber::FIRST,
        &mut |_| Ok::<(), Infallible>(()),
    )
    .unwrap();
    let stamp = HybridTime::new(WALL_MS + 1_000, 0);
    let epoch = Epoch { term: 1, run: 1_000, id: 1 };
    opened.appender.begin_epoch(epoch, stamp);
    for body in bodies {
        opened.appender.append(stamp, |out| out.extend_from_slice(body)).unwrap();
    }
    opened.syncer.commit(opened.appender.take_batch().unwrap()).unwrap();
    opened.syncer.close().unwrap();
}

fn body(effects: &[Effect<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    effects.iter().for_each(|effect| effect.encode(&mut body));
    body
}

#[test]
fn a_body_that_no_writer_wrote_is_refused_by_its_record() {
    let epoch = Epoch { term: 1, run: 1, id: 1 };
    let position = Position { epoch, seq: SequenceNumber::FIRST };
    let generation = Generation { position, ordinal: 0 };
    let stamp = HybridTime::new(WALL_MS, 0);
    let (string, field) = (string_row(stamp, None, b"v"), field_row(stamp, b"v"));
    let truncated = body(&[Effect::PutRow { key: b"key", row: &string }]);
    let put_field = |row| body(&[Effect::PutField { key: b"hash", generation, field: b"f", row }]);
    let damaged = [
        (vec![0xee], "unknown op"),
        (truncated[..truncated.len() - 1].to_vec(), "ends too early"),
        (body(&[Effect::PutRow { key: b"key", row: b"\x7f" }]), "ends within its header"),
        (body(&[Effect::PutRow { key: b"key", row: &field }]), "tag"),
        (put_field(&field), "row it does not put"),
        (body(&[Effect::DeleteField { key: b"hash", generation, field: b"f" }]), "does not put"),
        (
            body(&[
                Effect::PutRow { key: b"hash", row: &string },
                Effect::PutField { key: b"hash", generation, field: b"f", row: b"" },
            ]),
            "ends within its header",
        ),
    ];
    for (body, what) in damaged {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::open(root.path(), tiny()).unwrap();
        node.put("key", "value");
        drop(node);
        append_bodies(root.path(), &[body]);
        let said = chain(&refusal(root.path()));
        assert!(said.contains(what) && said.contains("record 4"), "{what}: {said}");
    }
}

/// The thread that reads the log is far ahead by the time that the record is refused.
#[test]
fn the_refused_record_is_named_whatever_comes_behind_it() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), tiny()).unwrap();
    node.put("key", "value");
    drop(node);
    let row = string_row(HybridTime::new(WALL_MS, 0), None, &[b'v'; 64]);
    let whole = body(&[Effect::PutRow { key: b"key", row: &row }]);
    let mut bodies = vec![whole; 40_000];
    (bodies[0], bodies[30_000]) = (vec![9], vec![9]);
    append_bodies(root.path(), &bodies);
    for _ in 0..2 {
        let said = chain(&refusal(root.path()));
        assert!(said.contains("unknown op") && said.contains("record 4:"), "{said}");
    }
}

#[test]
fn records_of_every_size_and_of_none_are_replayed_in_order() {
    let root = tempfile::tempdir().unwrap();
    drop(Node::open(root.path(), tiny()).unwrap());
    let mut random = StdRng::seed_from_u64(seed());
    let mut values = vec![0; 20_000];
    values.extend([300 << 10, 0, 8 << 20, 1, 8 << 20]);
    values.extend((0..20_000).map(|_| random.random_range(0..200)));
    let mut last = BTreeMap::new();
    let mut bodies = vec![Vec::new()];
    for (at, bytes) in values.into_iter().enumerate() {
        let (key, value) = (format!("key:{}", random.random_range(0..1_000)), at.to_string());
        let value = value + &"x".repeat(bytes);
        let row = string_row(HybridTime::new(WALL_MS, 0), None, value.as_bytes());
        bodies.push(body(&[Effect::PutRow { key: key.as_bytes(), row: &row }]));
        last.insert(key, value);
    }
    let (written, root) = (bodies.len() as u64, root.path());
    append_bodies(root, &bodies);
    let node = Node::open(root, tiny()).unwrap();
    // Those of the epochs that two starts begin are among them.
    assert_eq!(node.replayed, written + 2);
    for (key, value) in last {
        assert!(node.text(&key).is_some_and(|found| found == value), "{key}");
    }
}

#[test]
fn no_bytes_in_a_body_make_opening_panic() {
    let mut random = StdRng::seed_from_u64(seed());
    let stamp = HybridTime::new(WALL_MS, 0);
    let row = string_row(stamp, Some(WALL_MS + 1_000_000), b"value");
    let whole = body(&[Effect::PutRow { key: b"key", row: &row }, Effect::Clear]);
    for _ in 0..60 {
        let root = tempfile::tempdir().unwrap();
        drop(Node::open(root.path(), tiny()).unwrap());
        let mut damaged = whole.clone();
        for _ in 0..=random.next_u32() % 3 {
            let at = random.next_u32() as usize % damaged.len();
            damaged[at] = random.next_u32() as u8;
        }
        append_bodies(root.path(), &[damaged]);
        if let Ok(mut node) = Node::open(root.path(), tiny()) {
            // What is taken for a record must be readable and foldable.
            node.store.view(WALL_MS).count_keys().unwrap();
            node.put("other", "value");
            node.close();
        }
    }
}
