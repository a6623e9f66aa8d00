//! Snapshots: made, fetched in pieces, verified, and put in place of log and state.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{fs, os::unix::fs::symlink, path::Path};

use larder_storage::{
    Directory, OpenAs, StateError, StoreOptions, parted, peek,
    rewind::{Rewind, RewindError, Scope},
    snapshot::{Incoming, Manifest, Snapshot, SnapshotError, install_nothing},
};
use larder_types::SequenceNumber;
use rand::{Rng, SeedableRng, rngs::StdRng};
use store_support::{Node, WALL_MS, copy, seed, tiny, write_randomly};

/// A master that has folded and trimmed a good deal, and has more in flight.
fn busy_master(root: &Path) -> Node {
    let mut random = StdRng::seed_from_u64(seed());
    let mut master = Node::open(root, tiny()).unwrap();
    master.writer.append_replicas(b"members", WALL_MS).unwrap();
    for round in 0..8 {
        for _ in 0..150 {
            write_randomly(&mut random, &mut master, false);
            master.commit();
        }
        master.fold();
        if round < 7 {
            master.writer.seal();
            master.fold();
            master.folder.flush().unwrap();
        }
    }
    assert!(master.store.log().first() > SequenceNumber::FIRST);
    master
}

/// Fetches all that is missing, in pieces of this size; stops after `pieces`.
fn fetch(incoming: &mut Incoming, snapshot: &Snapshot, size: usize, pieces: usize) -> bool {
    for _ in 0..pieces {
        let Some((file, offset)) = incoming.missing().unwrap() else { return true };
        let bytes = snapshot.read(file, offset, size).unwrap();
        incoming.write(file, offset, &bytes).unwrap();
    }
    incoming.missing().unwrap().is_none()
}

fn follow_on(root: &Path, master: &Node) -> Node {
    let log = Some(master.store.log().id());
    let mut node = Node::open_as(root, tiny(), OpenAs::Follower { log }).unwrap();
    node.follow(master, 1 << 20);
    assert_eq!(node.contents(), master.contents());
    node
}

#[test]
fn a_fetched_snapshot_takes_the_place_of_log_and_state_and_the_log_goes_on_behind_it() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = busy_master(one.path());
    let mut old = Node::open(two.path(), tiny()).unwrap();
    old.put("only here", "before");
    let old_log = old.store.log().id();
    drop(old);
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let manifest = Manifest::decode(&snapshot.manifest().encode().unwrap()).unwrap();
    assert_eq!(&manifest, snapshot.manifest());
    let directory = Directory::open(two.path()).unwrap();
    let mut incoming = Incoming::begin(&directory, manifest.clone()).unwrap();
    assert!(!fetch(&mut incoming, &snapshot, 1_000, 5));
    // A break: it goes on where it was.
    let begun = incoming.missing().unwrap();
    let mut incoming = Incoming::begin(&directory, manifest).unwrap();
    assert_eq!(incoming.missing().unwrap(), begun);
    assert!(fetch(&mut incoming, &snapshot, 1 << 20, usize::MAX));
    incoming.install(&directory, &tiny().database, "2026-11-28").unwrap();
    drop(directory);
    // Meanwhile the master goes on and would trim, were the snapshot not held.
    for _ in 0..300 {
        master.put("key:1", &"y".repeat(500));
    }
    master.writer.seal();
    master.fold();
    master.folder.flush().unwrap();
    assert!(master.store.log().first() <= snapshot.manifest().applied().position.seq.next());
    let node = follow_on(two.path(), &master);
    let sets = node.store.replicas();
    assert_eq!(&*sets[0].body, b"members");
    assert_eq!(node.text("only here"), None);
    drop(node);
    // Nothing was deleted: what was there is a store of its own.
    let aside = two.path().join("set-aside/2026-11-28");
    let third = tempfile::tempdir().unwrap();
    drop(Directory::open(third.path()).unwrap());
    for part in ["log", "state"] {
        let _ = fs::remove_dir(third.path().join(part));
        fs::rename(aside.join(part), third.path().join(part)).unwrap();
    }
    let old = Node::open(third.path(), tiny()).unwrap();
    assert_eq!(old.store.log().id(), old_log);
    assert_eq!(old.text("only here").unwrap(), "before");
    assert!(!two.path().join("incoming").exists());
}

#[test]
fn a_log_that_parted_under_its_snapshot_has_nothing_to_export_and_takes_another_snapshot() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = busy_master(one.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let directory = Directory::open(two.path()).unwrap();
    let install = |aside: &str| {
        let mut incoming = Incoming::begin(&directory, snapshot.manifest().clone()).unwrap();
        assert!(fetch(&mut incoming, &snapshot, 1 << 20, usize::MAX));
        incoming.install(&directory, &tiny().database, aside).unwrap();
    };
    install("before");
    let parting = snapshot.manifest().applied().position.seq;
    let mut rewind = Rewind::mark(&directory, &tiny().database, parting, WALL_MS).unwrap();
    assert_eq!(rewind.marker().scope, Scope::Everything);
    assert!(rewind.marker().exported.is_empty() && parted::list(&directory).unwrap().is_empty());
    let refused = rewind.cut(&directory);
    assert!(matches!(refused, Err(RewindError::SnapshotNeeded)), "{refused:?}");
    install("again");
    drop(directory);
    follow_on(two.path(), &master);
}

#[test]
fn a_snapshot_that_lives_on_while_the_log_grows_beyond_its_cap_holds_it_no_longer() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { retain_bytes_max: 200 << 10, ..tiny() };
    let mut master = Node::open(root.path(), options).unwrap();
    let grow = |master: &mut Node, count: usize| {
        for _ in 0..count {
            master.put("key:1", &"y".repeat(500));
        }
        master.writer.seal();
        master.fold();
        master.folder.flush().unwrap();
    };
    grow(&mut master, 100);
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let behind = snapshot.manifest().applied().position.seq.next();
    grow(&mut master, 100);
    assert!(master.store.log().first() <= behind, "below the cap");
    for _ in 0..8 {
        grow(&mut master, 100);
    }
    assert!(master.store.log().first() > behind);
    assert!(master.store.log().bytes() <= (200 << 10) + (60 << 10));
    assert!(snapshot.read(0, 0, 100).is_ok(), "its files are there");
}

#[test]
fn a_file_that_is_read_piece_by_piece_is_opened_once() {
    let root = tempfile::tempdir().unwrap();
    let master = busy_master(root.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let files = snapshot.manifest().files.clone();
    let place = files.iter().position(|file| file.bytes > 2).unwrap();
    let other = files.iter().rposition(|file| file.bytes > 0).unwrap();
    assert_ne!(place, other);
    let path = master.directory.snapshots().join("0000000000000007").join(&files[place].name);
    let whole = fs::read(&path).unwrap();
    let shared = snapshot.clone();
    assert_eq!(snapshot.read(place, 0, 1).unwrap(), whole[..1]);
    // Who has it open goes on with it.
    fs::rename(&path, path.with_extension("away")).unwrap();
    assert_eq!(shared.read(place, 1, 1).unwrap(), whole[1..2]);
    assert_eq!(snapshot.read(place, 2, usize::MAX).unwrap(), whole[2..]);
    assert_eq!(snapshot.read(other, 0, usize::MAX).unwrap().len() as u64, files[other].bytes);
    assert!(snapshot.read(place, 0, 1).is_err(), "one is kept open, not all");
}

#[test]
fn the_log_is_held_while_anybody_fetches_and_no_longer() {
    let root = tempfile::tempdir().unwrap();
    let mut master = busy_master(root.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let shared = snapshot.clone();
    let behind = snapshot.manifest().applied().position.seq.next();
    let grow = |master: &mut Node| {
        for _ in 0..200 {
            master.put("key:1", &"y".repeat(500));
        }
        master.writer.seal();
        master.fold();
        master.folder.flush().unwrap();
    };
    drop(snapshot);
    grow(&mut master);
    assert!(master.store.log().first() <= behind);
    assert!(shared.read(0, 0, 100).is_ok());
    let dir = root.path().join("snapshots");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    drop(shared);
    grow(&mut master);
    assert!(master.store.log().first() > behind);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_damaged_file_is_found_fetched_again_and_never_installed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = busy_master(one.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let directory = Directory::open(two.path()).unwrap();
    let manifest = snapshot.manifest().clone();
    for damaged in 0..manifest.files.len() {
        let mut incoming = Incoming::begin(&directory, manifest.clone()).unwrap();
        while let Some((file, offset)) = incoming.missing().unwrap() {
            let mut bytes = snapshot.read(file, offset, 1 << 20).unwrap().to_vec();
            if file == damaged {
                bytes[0] ^= 1;
            }
            incoming.write(file, offset, &bytes).unwrap();
            if file == damaged {
                break;
            }
        }
        let found = incoming.missing();
        assert!(matches!(found, Err(SnapshotError::Damaged { .. })), "{found:?}");
        assert_eq!(incoming.missing().unwrap(), Some((damaged, 0)));
    }
    // Damage that comes later, on the replica's own disk, is found by installing.
    let mut incoming = Incoming::begin(&directory, manifest.clone()).unwrap();
    assert!(fetch(&mut incoming, &snapshot, 1 << 20, usize::MAX));
    let table = manifest.files.iter().find(|file| file.name.ends_with(".sst")).unwrap();
    let path = two.path().join("incoming/state").join(&table.name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut incoming = Incoming::begin(&directory, manifest).unwrap();
    let found = incoming.missing();
    assert!(matches!(found, Err(SnapshotError::Damaged { .. })), "{found:?}");
    assert!(fetch(&mut incoming, &snapshot, 1 << 20, usize::MAX));
    incoming.install(&directory, &tiny().database, "now").unwrap();
    drop(directory);
    follow_on(two.path(), &master);
}

#[test]
fn bytes_for_another_place_are_refused_and_what_is_not_whole_is_not_installed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = busy_master(one.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let directory = Directory::open(two.path()).unwrap();
    let mut incoming = Incoming::begin(&directory, snapshot.manifest().clone()).unwrap();
    let bytes = snapshot.read(0, 0, 1 << 30).unwrap();
    for (file, offset, bytes) in
        [(1, 0, &bytes[..]), (0, 1, &bytes[1..]), (0, 0, &[0; 1 << 20][..]), (0, u64::MAX, b"x")]
    {
        let refused = incoming.write(file, offset, bytes);
        assert!(matches!(refused, Err(SnapshotError::OutOfPlace)), "{refused:?}");
    }
    let refused = incoming.install(&directory, &tiny().database, "now");
    assert!(matches!(refused, Err(SnapshotError::Incomplete)), "{refused:?}");
    assert!(matches!(snapshot.read(99, 0, 1), Err(SnapshotError::OutOfPlace)));
    assert!(matches!(snapshot.read(0, u64::MAX, 1), Err(SnapshotError::OutOfPlace)));
}

#[test]
fn manifests_with_names_that_lead_elsewhere_or_with_another_log_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let master = busy_master(root.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let good = String::from_utf8(snapshot.manifest().encode().unwrap()).unwrap();
    let another = format!("\"{}\"", snapshot.manifest().files.last().unwrap().name);
    let seq = |number: u64| format!("\"seq\":{number}");
    let at = seq(snapshot.manifest().applied().position.seq.as_u64());
    for (from, to) in [
        (at.as_str(), seq(u64::MAX).as_str()),
        ("\"run\":1", "\"run\":4294967295"),
        ("CURRENT", "../CURRENT"),
        ("CURRENT", ".hidden"),
        ("CURRENT", ""),
        ("\"CURRENT\"", &another),
        ("\"head\":\"f1", "\"head\":\"f2"),
        ("\"run\":1", "\"run\":2"),
        ("{", "["),
    ] {
        assert!(good.contains(from), "{from}");
        let refused = Manifest::decode(good.replacen(from, to, 1).as_bytes());
        assert!(matches!(refused, Err(SnapshotError::Malformed { .. })), "{from} -> {to}");
    }
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..300 {
        let mut bytes = good.clone().into_bytes();
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
        // Refused or another manifest: never a panic.
        let _ = Manifest::decode(&bytes);
    }
}

#[test]
fn a_state_that_has_folded_nothing_has_no_snapshot_yet_and_leaves_nothing_of_one() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::open(root.path(), tiny()).unwrap();
    let refused = node.store.snapshot(&node.directory, 1).err().unwrap();
    let nothing = matches!(refused, SnapshotError::State(StateError::NothingApplied { .. }));
    assert!(nothing, "{refused}");
    assert_eq!(fs::read_dir(node.directory.snapshots()).unwrap().count(), 0);
}

/// Goes on with an installation that was decided for as far as each of its steps, as if killed there,
/// and has the next opening look at each.
fn killed_at_each_step(root: &Path, next_opening: impl Fn(&Path)) {
    assert!(root.join("INSTALL").exists());
    let mut steps = 0;
    loop {
        let killed = tempfile::tempdir().unwrap();
        copy(root, killed.path());
        let directory = Directory::open(killed.path()).unwrap();
        let mut more = true;
        for _ in 0..steps {
            more = larder_storage::snapshot::install_step(&directory).unwrap();
        }
        drop(directory);
        next_opening(killed.path());
        let aside = killed.path().join("set-aside/now");
        assert!(aside.join("log").exists() && aside.join("state").exists(), "after {steps} steps");
        assert!(!killed.path().join("INSTALL").exists());
        if !more {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 4, "{steps}");
}

/// Gathers a snapshot whole.
fn gathered(directory: &Directory, snapshot: &Snapshot) -> Incoming {
    let mut incoming = Incoming::begin(directory, snapshot.manifest().clone()).unwrap();
    assert!(fetch(&mut incoming, snapshot, 1 << 20, usize::MAX));
    incoming
}

#[test]
fn an_installation_that_is_killed_at_any_step_is_ended_by_the_next_opening() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = busy_master(one.path());
    let mut old = Node::open(two.path(), tiny()).unwrap();
    old.put("only here", "before");
    old.close();
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let directory = Directory::open(two.path()).unwrap();
    let incoming = gathered(&directory, &snapshot);
    incoming.decide(&directory, &tiny().database, "now").unwrap();
    drop(directory);
    killed_at_each_step(two.path(), |root| {
        let node = follow_on(root, &master);
        assert_eq!(node.text("only here"), None);
    });
}

#[test]
fn an_installation_is_not_over_while_nobody_can_tell_what_is_left_of_it() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = busy_master(one.path());
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    let directory = Directory::open(two.path()).unwrap();
    let loop_at = |path: &Path| symlink(path, path).unwrap();
    let incoming = gathered(&directory, &snapshot);
    // Nor can anybody tell whether a name is free.
    fs::create_dir_all(directory.set_aside()).unwrap();
    loop_at(&directory.set_aside().join("now"));
    let refused = incoming.decide(&directory, &tiny().database, "now");
    assert!(refused.is_err() && !two.path().join("INSTALL").exists());
    fs::remove_file(directory.set_aside().join("now")).unwrap();

    let (state, away) = (directory.incoming().join("state"), two.path().join("away"));
    gathered(&directory, &snapshot).decide(&directory, &tiny().database, "now").unwrap();
    drop(directory);
    fs::rename(&state, &away).unwrap();
    loop_at(&state);
    assert!(Node::open(two.path(), tiny()).is_err());
    assert!(two.path().join("INSTALL").exists());
    fs::remove_file(&state).unwrap();
    fs::rename(&away, &state).unwrap();
    follow_on(two.path(), &master);
}

#[test]
fn a_rewind_is_over_once_a_snapshot_was_decided_for_wherever_its_installation_was_killed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = busy_master(one.path());
    let mut old = Node::open(two.path(), tiny()).unwrap();
    old.put("key", "common");
    old.put("key", "parted");
    let parting = old.writer.last().seq;
    old.close();
    let directory = Directory::open(two.path()).unwrap();
    let options = tiny().database;
    let mut rewind = Rewind::mark(&directory, &options, parting, WALL_MS).unwrap();
    rewind.cut(&directory).unwrap();
    // Its keys are not to be had in time.
    assert!(!rewind.marker().is_whole());
    drop(rewind);
    let snapshot = master.store.snapshot(&master.directory, 7).unwrap();
    gathered(&directory, &snapshot).decide(&directory, &options, "now").unwrap();
    drop(directory);
    killed_at_each_step(two.path(), |root| {
        let directory = Directory::open(root).unwrap();
        let pending = Rewind::pending(&directory, &options).unwrap();
        assert!(pending.is_none(), "it was for the state that is set aside");
        drop(directory);
        follow_on(root, &master);
    });
}

#[test]
fn an_empty_log_takes_the_place_of_one_that_was_trimmed_wherever_that_was_killed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = Node::open(one.path(), tiny()).unwrap();
    master.put("key", "value");
    busy_master(two.path()).close();
    let directory = Directory::open(two.path()).unwrap();
    // A link to nowhere, where a directory has to be made.
    symlink("nowhere", directory.set_aside()).unwrap();
    let failed = install_nothing(&directory, "now");
    assert!(matches!(failed, Err(SnapshotError::Halfway(_))), "{failed:?}");
    fs::remove_file(directory.set_aside()).unwrap();
    drop(directory);
    killed_at_each_step(two.path(), |root| {
        let directory = Directory::open(root).unwrap();
        assert_eq!(peek(&directory, &tiny().database).unwrap(), None);
        drop(directory);
        follow_on(root, &master);
    });
}

#[test]
fn what_was_decided_for_and_could_not_be_put_in_place_is_not_given_up_for_another() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut master = busy_master(one.path());
    let mut old = Node::open(two.path(), tiny()).unwrap();
    old.put("only here", "before");
    old.close();
    let first = master.store.snapshot(&master.directory, 7).unwrap();
    master.put("key:1", "later");
    master.writer.seal();
    master.fold();
    let second = master.store.snapshot(&master.directory, 8).unwrap();
    let directory = Directory::open(two.path()).unwrap();
    // A link to nowhere, where a directory has to be made.
    symlink("nowhere", directory.set_aside()).unwrap();
    let failed = gathered(&directory, &first).install(&directory, &tiny().database, "now");
    assert!(matches!(failed, Err(SnapshotError::Halfway(_))), "{failed:?}");
    let refused = Incoming::begin(&directory, second.manifest().clone());
    assert!(matches!(refused, Err(SnapshotError::Decided)), "{refused:?}");
    fs::remove_file(directory.set_aside()).unwrap();
    drop(directory);
    killed_at_each_step(two.path(), |root| {
        let node = follow_on(root, &master);
        assert_eq!(node.text("only here"), None);
    });
}
