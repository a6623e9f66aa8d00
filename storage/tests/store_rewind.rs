//! Rewinds: an old master whose log parted becomes equal to the new one, key by key, whatever it
//! had folded and wherever it crashed; and what parted can be read and applied again.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::path::Path;

use larder_storage::{
    Directory, OpenAs, StoreError,
    fs::RealFs,
    log,
    parted::{self, PartedInfo},
    peek,
    rewind::{self, Rewind, RewindError, Scope},
    row::RowValue,
};
use larder_types::{Epoch, SequenceNumber};
use rand::{Rng, SeedableRng, rngs::StdRng};
use store_support::{Node, WALL_MS, seed, tiny, write_randomly};
use tempfile::TempDir;

/// Rounds of each random story, unless `LARDER_REWIND_ROUNDS` says otherwise.
const ROUNDS: u64 = 6;

fn rounds() -> u64 {
    let given = std::env::var("LARDER_REWIND_ROUNDS").ok();
    given.map_or(ROUNDS, |text| text.parse().unwrap())
}

fn follower(root: &Path, master: &Node) -> Node {
    let log = Some(master.store.log().id());
    Node::open_as(root, tiny(), OpenAs::Follower { log }).unwrap()
}

fn write(random: &mut StdRng, node: &mut Node, records: usize, clears: bool) {
    for _ in 0..records {
        write_randomly(random, node, clears);
        node.commit();
    }
}

/// Folds, and perhaps flushes, some of what there is.
fn settle_some(random: &mut StdRng, node: &mut Node) {
    if random.random() {
        node.writer.seal();
    }
    node.fold();
    if random.random() {
        node.folder.flush().unwrap();
    }
    if random.random_range(0..3) == 0 {
        node.store.database().unwrap().compact().unwrap();
    }
}

fn fold_and_flush(node: &mut Node) {
    node.writer.seal();
    node.fold();
    node.folder.flush().unwrap();
}

/// The follower becomes the master; answers the first record that nobody else has.
fn promote(node: &mut Node, term: u32) -> SequenceNumber {
    let first = node.next();
    node.writer.begin_epoch(Epoch { term, run: 1, id: u64::from(term) * 11 }, WALL_MS).unwrap();
    node.commit();
    first
}

/// Fetches touched keys from the master in small replies; stops before the one numbered `stop`.
/// True when the end was reached.
fn fetch(
    rewind: &mut Rewind,
    directory: &Directory,
    master: &Node,
    restart: bool,
    stop: usize,
) -> bool {
    let mut restart = restart;
    for _ in 0..stop {
        let Some(request) = rewind.next_keys(directory, restart, 60).unwrap() else {
            let state = peek(directory, &tiny().database).unwrap().unwrap();
            assert_eq!(rewind.marker().settles_at(), state.applied);
            return true;
        };
        restart = false;
        let (reply, visible) = master.store.read_keys(&request, 4_000, 4_000).unwrap();
        assert_eq!(visible, master.store.watermarks().visible);
        assert!(SequenceNumber::new(visible) >= rewind.marker().settles_at());
        rewind.apply(directory, &reply).unwrap();
    }
    false
}

fn mark(root: &Path, parting: SequenceNumber) -> (Directory, Rewind) {
    let directory = Directory::open(root).unwrap();
    let rewind = Rewind::mark(&directory, &tiny().database, parting, WALL_MS).unwrap();
    (directory, rewind)
}

fn rewound(root: &Path, master: &Node, parting: SequenceNumber) {
    let (directory, mut rewind) = mark(root, parting);
    rewind.cut(&directory).unwrap();
    assert!(fetch(&mut rewind, &directory, master, false, usize::MAX));
}

/// The directory of a node that was rewound, and its one file of parted records.
fn rewound_with_parted(
    root: &Path,
    master: &Node,
    parting: SequenceNumber,
) -> (Directory, PartedInfo) {
    rewound(root, master, parting);
    let directory = Directory::open(root).unwrap();
    let mut files = parted::list(&directory).unwrap();
    assert_eq!(files.len(), 1);
    (directory, files.remove(0))
}

/// An old master, and a follower of all it had written, which is the master from record `at` on.
struct Parting {
    one: TempDir,
    _two: TempDir,
    old: Node,
    new: Node,
    at: SequenceNumber,
}

impl Parting {
    fn after(written: impl FnOnce(&mut Node)) -> Self {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut old = Node::open(one.path(), tiny()).unwrap();
        written(&mut old);
        let mut new = follower(two.path(), &old);
        new.follow(&old, 700);
        let at = promote(&mut new, 2);
        Self { one, _two: two, old, new, at }
    }
}

fn compare(one: &Node, two: &Node, context: &str) {
    assert_eq!(one.contents(), two.contents(), "{context}");
    assert_eq!(one.store.log().epochs().last(), two.store.log().epochs().last(), "{context}");
}

#[test]
fn an_old_master_becomes_equal_to_the_new_one_whatever_it_had_folded() {
    let seed = seed();
    let mut scopes = [0; 2];
    for round in 0..rounds() {
        let mut random = StdRng::seed_from_u64(seed + round);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut old = Node::open(one.path(), tiny()).unwrap();
        write(&mut random, &mut old, 60, true);
        let mut new = follower(two.path(), &old);
        new.follow(&old, 700);
        old.store.retain_from(Some(new.next()));
        settle_some(&mut random, &mut old);
        let parting = promote(&mut new, 2);
        write(&mut random, &mut old, 30, false);
        settle_some(&mut random, &mut old);
        let parted_tail = old.writer.last();
        drop(old);
        write(&mut random, &mut new, 30, true);
        let (directory, mut rewind) = mark(one.path(), parting);
        scopes[usize::from(rewind.marker().scope == Scope::Keys)] += 1;
        assert_ne!(rewind.marker().scope, Scope::Everything);
        rewind.cut(&directory).unwrap();
        let peeked = peek(&directory, &tiny().database).unwrap().unwrap();
        assert_eq!(peeked.last.unwrap().seq.next(), parting);
        // The master goes on while keys are fetched.
        assert!(!fetch(&mut rewind, &directory, &new, false, 0));
        fetch(&mut rewind, &directory, &new, false, 3);
        write(&mut random, &mut new, 10, true);
        assert!(fetch(&mut rewind, &directory, &new, false, usize::MAX));
        let files = parted::list(&directory).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].from, files[0].to), (parting, parted_tail.seq));
        assert_eq!(
            parted::read(&directory, &files[0].name).unwrap().count() as u64,
            files[0].records
        );
        drop((rewind, directory));
        let mut old = follower(one.path(), &new);
        old.follow(&new, 900);
        compare(&old, &new, &format!("LARDER_SEED={}", seed + round));
        settle_some(&mut random, &mut old);
        compare(&old, &new, &format!("LARDER_SEED={}, folded", seed + round));
        rewind::end(&old.directory).unwrap();
        let root = one.path();
        drop(old);
        assert!(
            Rewind::pending(&Directory::open(root).unwrap(), &tiny().database).unwrap().is_none()
        );
        compare(&follower(root, &new), &new, "opened again");
    }
    println!("rewinds: {} of the log alone, {} of keys", scopes[0], scopes[1]);
    assert!(scopes[1] > 0);
}

#[test]
fn a_rewind_that_crashes_anywhere_begins_again_from_its_marker() {
    let seed = seed();
    for round in 0..rounds() {
        let mut random = StdRng::seed_from_u64(seed + round);
        let context = format!("LARDER_SEED={}", seed + round);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut old = Node::open(one.path(), tiny()).unwrap();
        write(&mut random, &mut old, 50, false);
        let mut new = follower(two.path(), &old);
        new.follow(&old, 700);
        let parting = promote(&mut new, 2);
        old.store.retain_from(Some(parting));
        write(&mut random, &mut old, 40, false);
        fold_and_flush(&mut old);
        drop(old);
        write(&mut random, &mut new, 40, true);
        let options = tiny().database;
        let mut marked = false;
        loop {
            let directory = Directory::open(one.path()).unwrap();
            let pending = Rewind::pending(&directory, &options).unwrap();
            assert_eq!(pending.is_some(), marked, "{context}");
            let mut rewind = match pending {
                Some(rewind) if rewind.marker().cut => rewind,
                _ => Rewind::mark(&directory, &options, parting, WALL_MS).unwrap(),
            };
            marked = true;
            if !rewind.marker().cut && random.random_range(0..4) == 0 {
                // A crash behind the cut, and before the marker says so.
                let before = parting.prev().unwrap();
                log::cut(&RealFs, &directory.log(), &directory.quarantine(), before).unwrap();
                continue;
            }
            drop(directory);
            if random.random_range(0..4) == 0 {
                let role = OpenAs::Follower { log: None };
                let refused = Node::open_as(one.path(), tiny(), role).err();
                let rewinding = matches!(refused, Some(StoreError::Rewinding { .. }));
                assert!(rewinding || rewind.marker().settled, "{context}");
                continue;
            }
            let directory = Directory::open(one.path()).unwrap();
            rewind.cut(&directory).unwrap();
            if random.random_range(0..4) == 0 {
                continue;
            }
            let stop = random.random_range(0..12);
            if !fetch(&mut rewind, &directory, &new, true, stop) {
                continue;
            }
            drop((rewind, directory));
            let mut old = follower(one.path(), &new);
            old.follow(&new, 900);
            compare(&old, &new, &context);
            settle_some(&mut random, &mut old);
            // A crash before the marker is gone: keys are fetched again into a state that went on.
            if random.random_range(0..3) == 0 {
                drop(old);
                write(&mut random, &mut new, 20, true);
                continue;
            }
            rewind::end(&old.directory).unwrap();
            compare(&old, &new, &context);
            assert_eq!(parted::list(&old.directory).unwrap().len(), 1, "{context}");
            break;
        }
    }
}

#[test]
fn a_second_parting_takes_over_the_keys_of_the_first() {
    let seed = seed();
    for round in 0..rounds() {
        let mut random = StdRng::seed_from_u64(seed + round);
        let context = format!("LARDER_SEED={}", seed + round);
        let roots: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut first = Node::open(roots[0].path(), tiny()).unwrap();
        write(&mut random, &mut first, 40, false);
        let mut third = follower(roots[2].path(), &first);
        let third_is_shorter = random.random();
        if third_is_shorter {
            third.follow(&first, 700);
            write(&mut random, &mut first, 10, false);
        }
        let mut second = follower(roots[1].path(), &first);
        second.follow(&first, 700);
        let parting = promote(&mut second, 2);
        write(&mut random, &mut first, 20, false);
        first.store.retain_from(Some(parting.min(third.next())));
        fold_and_flush(&mut first);
        drop(first);
        write(&mut random, &mut second, 20, false);
        if !third_is_shorter {
            third.follow(&second, 700);
            write(&mut random, &mut second, 20, false);
        }
        // The first rewinds to the second, which is lost at some point of that.
        let (directory, mut rewind) = mark(roots[0].path(), parting);
        rewind.cut(&directory).unwrap();
        let stop = random.random_range(0..20);
        let settled = fetch(&mut rewind, &directory, &second, false, stop);
        drop((rewind, directory));
        let mut parting = parting.min(third.next());
        if settled && random.random() {
            let mut first = follower(roots[0].path(), &second);
            first.follow(&second, 900);
            parting = third.next();
            first.store.retain_from(Some(parting));
            settle_some(&mut random, &mut first);
        }
        promote(&mut third, 3);
        write(&mut random, &mut third, 20, false);
        let directory = Directory::open(roots[0].path()).unwrap();
        let options = tiny().database;
        let has = peek(&directory, &options).unwrap().unwrap().last.unwrap().seq;
        drop(directory);
        if has >= parting {
            rewound(roots[0].path(), &third, parting);
        } else {
            let directory = Directory::open(roots[0].path()).unwrap();
            let mut rewind = Rewind::pending(&directory, &options).unwrap().unwrap();
            assert!(fetch(&mut rewind, &directory, &third, true, usize::MAX), "{context}");
        }
        let mut first = follower(roots[0].path(), &third);
        first.follow(&third, 900);
        compare(&first, &third, &context);
        settle_some(&mut random, &mut first);
        compare(&first, &third, &context);
    }
}

#[test]
fn where_nothing_parted_was_folded_only_the_log_is_cut() {
    let Parting { one, _two, mut old, new, at: parting } =
        Parting::after(|old| old.put("key", "common"));
    old.put("key", "parted");
    drop(old);
    let (directory, mut rewind) = mark(one.path(), parting);
    assert_eq!(rewind.marker().scope, Scope::Log);
    rewind.cut(&directory).unwrap();
    assert!(rewind.next_keys(&directory, false, 1_000).unwrap().is_none());
    drop((rewind, directory));
    let mut old = follower(one.path(), &new);
    assert_eq!(old.text("key").unwrap(), "common");
    old.follow(&new, 700);
    compare(&old, &new, "the log alone");
}

#[test]
fn a_deletion_of_all_keys_or_records_that_are_trimmed_ask_for_a_snapshot() {
    for trimmed in [false, true] {
        let Parting { one, _two, mut old, new: _new, at: parting } =
            Parting::after(|old| old.put("key", "common"));
        if trimmed {
            (0..100).for_each(|_| old.put("key", &"x".repeat(1_000)));
        } else {
            let mut txn = old.writer.transaction(WALL_MS);
            txn.clear().unwrap();
            txn.commit().unwrap();
            old.commit();
        }
        fold_and_flush(&mut old);
        assert_eq!(old.store.log().first() > parting, trimmed);
        let kept = old.store.log().first().max(parting);
        drop(old);
        let (directory, mut rewind) = mark(one.path(), parting);
        assert_eq!(rewind.marker().scope, Scope::Everything);
        let refused = rewind.cut(&directory);
        assert!(matches!(refused, Err(RewindError::SnapshotNeeded)), "{refused:?}");
        let refused = rewind.next_keys(&directory, false, 100);
        assert!(matches!(refused, Err(RewindError::SnapshotNeeded)));
        // What there is of it is exported all the same.
        let exported = &parted::list(&directory).unwrap()[0];
        assert_eq!((exported.from, exported.in_common), (kept, true));
        drop(directory);
        let role = OpenAs::Follower { log: None };
        let refused = Node::open_as(one.path(), tiny(), role).err();
        assert!(matches!(refused, Some(StoreError::Rewinding { .. })));
    }
}

#[test]
fn a_key_that_is_not_asked_for_or_malformed_is_not_applied() {
    let Parting { one, _two, mut old, mut new, at: parting } = Parting::after(|_| {});
    old.put("key", "parted");
    fold_and_flush(&mut old);
    drop(old);
    let (directory, mut rewind) = mark(one.path(), parting);
    rewind.cut(&directory).unwrap();
    let changed = rewind.next_keys(&directory, false, 100).unwrap().unwrap();
    let (reply, _) = new.store.read_keys(&changed, 1_000, 1_000).unwrap();
    let early = rewind.apply(&directory, &[1]);
    assert!(matches!(early, Err(RewindError::OtherKey)), "no keys were asked for: {early:?}");
    rewind.apply(&directory, &reply).unwrap();
    let request = rewind.next_keys(&directory, false, 100).unwrap().unwrap();
    for unasked in [&reply[..], &[1]] {
        let refused = rewind.apply(&directory, unasked).unwrap_err();
        assert!(matches!(refused, RewindError::OtherKey) && refused.is_of_keys(), "{refused:?}");
    }
    let other = [&[1_u8][..], &5_u32.to_le_bytes(), b"other"].concat();
    let (reply, _) = new.store.read_keys(&other, 1_000, 1_000).unwrap();
    let refused = rewind.apply(&directory, &reply);
    assert!(matches!(refused, Err(RewindError::OtherKey)), "{refused:?}");
    let (reply, _) = new.store.read_keys(&request, 1_000, 1_000).unwrap();
    let refused = rewind.apply(&directory, &reply[..reply.len() - 1]);
    assert!(matches!(refused, Err(RewindError::Keys(_))), "{refused:?}");
    assert!(refused.is_err_and(|refused| refused.is_of_keys()), "the disk is in order");
    for malformed in [&b""[..], b"\0", b"\x02short", b"\x02\0\0\0\0\0\0\0\0"] {
        new.store.read_keys(malformed, 1_000, 1_000).expect_err("no request");
        assert!(malformed.len() > 1 || rewind.apply(&directory, malformed).is_err());
    }
    new.put("key", &"x".repeat(2_000));
    new.store.read_keys(&request, 1_000, 1_000).expect_err("too large to be fetched whole");
    // One key comes also where it is more than enough.
    let (reply, _) = new.store.read_keys(&request, 1_000, 4_000).unwrap();
    rewind.apply(&directory, &reply).unwrap();
    assert!(rewind.next_keys(&directory, false, 100).unwrap().is_none());
}

#[test]
fn a_parted_record_of_very_many_fields_is_applied_again() {
    const FIELDS: u32 = 150_000;
    let Parting { one, _two, mut old, mut new, at: parting } =
        Parting::after(|old| old.put("common", "value"));
    let fields: Vec<[u8; 4]> = (0..FIELDS).map(u32::to_be_bytes).collect();
    let pairs: Vec<(&[u8], &[u8])> = fields.iter().map(|field| (&field[..], &b"v"[..])).collect();
    let mut txn = old.writer.transaction(WALL_MS);
    txn.hash_put(b"hash", &pairs).unwrap();
    txn.commit().unwrap();
    let mut txn = old.writer.transaction(WALL_MS);
    let names: Vec<&[u8]> = fields[1..].iter().map(|field| &field[..]).collect();
    txn.hash_delete(b"hash", &names).unwrap();
    txn.commit().unwrap();
    old.commit();
    drop(old);
    let (directory, info) = rewound_with_parted(one.path(), &new, parting);
    let mut file = parted::read(&directory, &info.name).unwrap();
    let records = file.some(1 << 30).unwrap();
    for (record, left) in records.iter().zip([FIELDS, 1]) {
        let mut txn = new.writer.transaction(WALL_MS);
        record.reapply(&mut txn).unwrap();
        txn.commit();
        new.commit();
        let row = new.store.view(WALL_MS).row(b"hash").unwrap().expect("it was applied");
        let RowValue::Hash { fields, .. } = row.as_ref().value() else { panic!("no hash") };
        assert_eq!(fields, u64::from(left));
    }
    assert_eq!(records.len(), 2);
}

#[test]
fn parted_records_are_listed_read_and_applied_again() {
    let Parting { one, _two, mut old, mut new, at: parting } =
        Parting::after(|old| old.put("gone", "common"));
    let mut txn = old.writer.transaction(WALL_MS);
    txn.put_string(b"text", "påskrift".as_bytes(), Some(WALL_MS + 9_000)).unwrap();
    txn.put_string(&[0xff, 0x00], &[0xfe; 3], None).unwrap();
    txn.hash_put(b"hash", &[(b"a", b"1"), (b"b", b"2")]).unwrap();
    txn.set_expiry(b"hash", Some(WALL_MS + 8_000)).unwrap();
    txn.delete(b"gone").unwrap();
    txn.commit().unwrap();
    let mut txn = old.writer.transaction(WALL_MS);
    txn.hash_delete(b"hash", &[b"a"]).unwrap();
    txn.commit().unwrap();
    old.commit();
    drop(old);
    let (directory, info) = rewound_with_parted(one.path(), &new, parting);
    assert_eq!((info.records, info.at_ms, info.in_common), (2, WALL_MS, true));
    let text = std::fs::read_to_string(directory.parted().join(format!("{}.jsonl", info.name)));
    let text = text.unwrap();
    assert!(text.contains("påskrift") && text.contains(r#"{"hex":"ff00"}"#), "{text}");
    let mut file = parted::read(&directory, &info.name).unwrap();
    let some = [1, 1 << 20, 1].map(|bytes_enough| file.some(bytes_enough).unwrap());
    assert_eq!(some.each_ref().map(Vec::len), [1, 1, 0]);
    for record in some.iter().flatten() {
        let mut txn = new.writer.transaction(WALL_MS);
        record.reapply(&mut txn).unwrap();
        txn.commit();
    }
    new.commit();
    let contents = new.contents();
    assert_eq!(contents.len(), 3);
    assert_eq!(contents[&b"text"[..]].2, "påskrift".as_bytes());
    assert_eq!(contents[&b"text"[..]].1, Some(WALL_MS + 9_000));
    assert_eq!(contents[&[0xff_u8, 0x00][..]].2, [0xfe; 3]);
    assert_eq!(contents[&b"hash"[..]].1, Some(WALL_MS + 8_000));
    assert_eq!(contents[&b"hash"[..]].3.len(), 1);
    parted::read(&directory, "../LOCK").expect_err("a name that leads elsewhere");
    parted::read(&directory, "none").expect_err("no such file");
}

/// What has expired is no record: an old master that lived beyond it has dropped fields of a hash
/// that the new master has prolonged meanwhile.
#[test]
fn a_hash_that_expired_at_the_old_master_and_was_prolonged_at_the_new_one_is_whole() {
    let hashes = |old: &mut Node| {
        for hash in [&b"prolonged"[..], b"left alone", b"lasting"] {
            let mut txn = old.writer.transaction(WALL_MS);
            txn.hash_put(hash, &[(b"a", b"1"), (b"b", b"2")]).unwrap();
            if hash != b"lasting" {
                txn.set_expiry(hash, Some(WALL_MS + 5_000)).unwrap();
            }
            txn.commit().unwrap();
        }
        old.commit();
    };
    let Parting { one, _two, mut old, mut new, at: parting } = Parting::after(hashes);
    old.store.retain_from(Some(parting));
    // The old master lives on beyond the expiry, and its compactions take the time of its records.
    let mut txn = old.writer.transaction(WALL_MS + 10_000);
    txn.put_string(b"later", b"", None).unwrap();
    txn.commit().unwrap();
    old.commit();
    fold_and_flush(&mut old);
    old.store.database().unwrap().compact().unwrap();
    assert!(old.store.database().unwrap().stats().dropped_by_filter > 0);
    drop(old);
    for hash in [&b"prolonged"[..], b"lasting"] {
        let mut txn = new.writer.transaction(WALL_MS + 1_000);
        assert!(txn.set_expiry(hash, Some(WALL_MS + 1_000_000)).unwrap());
        txn.commit().unwrap();
    }
    new.commit();
    rewound(one.path(), &new, parting);
    let mut old = follower(one.path(), &new);
    old.follow(&new, 700);
    let (fetched, expected) = (old.contents(), new.contents());
    assert_eq!(expected[&b"prolonged"[..]].3.len(), 2);
    // What nobody prolonged has expired for both, and may be gone at one of them already.
    let gone = |contents: &std::collections::BTreeMap<Vec<u8>, _>| {
        let alive = contents.keys().filter(|key| **key != b"left alone");
        alive.cloned().collect::<Vec<_>>()
    };
    assert_eq!(gone(&fetched), gone(&expected));
    for key in gone(&expected) {
        assert_eq!(fetched[&key], expected[&key]);
    }
}

/// What has expired for a record that is on its way may have been prolonged by one before it.
#[test]
fn a_hash_that_was_prolonged_by_a_record_that_nobody_sees_yet_is_whole() {
    let hash = |old: &mut Node| {
        let mut txn = old.writer.transaction(WALL_MS);
        txn.hash_put(b"hash", &[(b"a", b"1"), (b"b", b"2")]).unwrap();
        txn.set_expiry(b"hash", Some(WALL_MS + 5_000)).unwrap();
        txn.commit().unwrap();
        old.commit();
    };
    let Parting { one, _two, mut old, mut new, at: parting } = Parting::after(hash);
    let mut txn = old.writer.transaction(WALL_MS);
    txn.hash_put(b"hash", &[(b"parted", b"3")]).unwrap();
    txn.commit().unwrap();
    old.commit();
    fold_and_flush(&mut old);
    drop(old);
    let mut txn = new.writer.transaction(WALL_MS + 1_000);
    assert!(txn.set_expiry(b"hash", None).unwrap());
    txn.commit().unwrap();
    let mut txn = new.writer.transaction(WALL_MS + 10_000);
    txn.put_string(b"later", b"", None).unwrap();
    txn.commit().unwrap();
    rewound(one.path(), &new, parting);
    new.commit();
    let mut old = follower(one.path(), &new);
    old.follow(&new, 700);
    assert_eq!(new.contents()[&b"hash"[..]].3.len(), 2);
    compare(&old, &new, "prolonged on its way");
}

#[test]
fn a_log_with_nothing_in_common_with_the_masters_is_not_said_to_have_parted() {
    let root = tempfile::tempdir().unwrap();
    let mut old = Node::open(root.path(), tiny()).unwrap();
    old.put("key", "value");
    drop(old);
    let (directory, rewind) = mark(root.path(), SequenceNumber::FIRST);
    assert_eq!(rewind.marker().scope, Scope::Everything);
    let exported = parted::list(&directory).unwrap().remove(0);
    assert!(!exported.in_common);
    // Nor is one of a file that says nothing of it.
    let path = directory.parted().join(format!("{}.jsonl", exported.name));
    let text = std::fs::read_to_string(&path).unwrap();
    let silent = text.replacen(",\"in_common\":false", "", 1);
    assert!(silent.len() < text.len(), "{text}");
    std::fs::write(&path, silent).unwrap();
    assert_eq!(parted::list(&directory).unwrap(), [exported]);
}
