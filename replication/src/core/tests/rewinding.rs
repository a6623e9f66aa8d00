//! Rewinds: what parted is exported, cut and fetched again, whatever stops in between.

use std::time::Duration;

use bytes::Bytes;
use larder_types::AckLevel;

use super::world::{World, sequence};
use crate::{
    core::{Alert, Outcome, Request, RewindScope},
    message::Message,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_old_master_steps_down_rewinds_and_is_equal_again() {
    let mut world = World::parted();
    let (own, parting) = (world.tail(0), world.tail(0) - 3);
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(5 * SECOND);
    assert_eq!(world.masters(), [1]);
    assert!(world.same_logs());
    let alert = Alert::Parted { from: sequence(parting), to: sequence(own) };
    assert!(world.nodes[0].alerts.contains(&alert), "{:?}", world.nodes[0].alerts);
    assert_eq!((world.nodes[0].fetches, world.nodes[0].marker), (1, None));
    assert_eq!(world.nodes[0].snapshots, before);
    assert!(world.reads(0));
}

#[test]
fn where_nothing_that_parted_was_folded_only_the_log_is_cut() {
    let mut world = World::parted();
    world.nodes[0].scope = RewindScope::Log;
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(5 * SECOND);
    assert!(world.same_logs() && world.reads(0));
    assert_eq!((world.nodes[0].fetches, world.nodes[0].marker), (0, None));
    assert_eq!(world.nodes[0].snapshots, before);
}

#[test]
fn where_keys_do_not_suffice_a_snapshot_takes_the_place_of_what_is_left_whole_until_then() {
    let mut world = World::parted();
    let (own, parting) = (world.tail(0), world.tail(0) - 3);
    world.nodes[0].scope = RewindScope::Everything;
    world.nodes[0].snapshot_hangs = true;
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(5 * SECOND);
    assert_eq!((world.tail(0), world.reads(0)), (own, false));
    let acknowledged = world.nodes[0].standing.acknowledged;
    assert_eq!(acknowledged, parting - 1, "what parted counts for nothing");
    world.kill(0);
    world.nodes[0].snapshot_hangs = false;
    world.start(0);
    world.run(5 * SECOND);
    assert!(world.same_logs() && world.reads(0));
    assert_eq!((world.nodes[0].fetches, world.nodes[0].marker), (0, None));
    assert_eq!(world.nodes[0].snapshots, before + 1);
}

#[test]
fn records_that_come_while_keys_are_fetched_are_asked_for_again() {
    let mut world = World::parted();
    world.heal();
    world.run(5 * SECOND);
    let follows = |message: &Message| matches!(message, Message::Follow(_));
    let asked = world.sent.iter().filter(|(from, to, it)| (*from, *to) == (0, 1) && follows(it));
    assert_eq!(asked.count(), 3, "to be cut, to fetch, and for what was passed over");
    assert!(world.same_logs() && world.reads(0), "although nothing was written since");
    assert_eq!(world.nodes[0].fetches, 1, "and no key a second time");
}

#[test]
fn replicas_whose_master_waits_for_them_to_rewind_take_a_snapshot() {
    let mut world = World::running(3, AckLevel::All);
    let before = [0, 2].map(|at| world.nodes[at].snapshots);
    world.cut_back(1, 0);
    world.write(0, 3);
    world.cut(0, 1);
    world.cut(1, 2);
    world.write(0, 2);
    world.run(4 * SECOND);
    world.ask(1, 1, Request::Promote { force_term: Some(2) });
    world.run(8 * SECOND);
    assert_eq!((world.tail(0), world.tail(2)), (world.tail(1) + 1, world.tail(1) + 1));
    world.heal();
    world.run(10 * SECOND);
    assert_eq!(world.masters(), [1]);
    assert_eq!(world.nodes[1].committed, world.tail(1), "with both of them");
    let after = [0, 2].map(|at| world.nodes[at].snapshots);
    assert_eq!(after, before.map(|before| before + 1));
    assert!(world.same_logs() && world.reads(0) && world.reads(2));
}

#[test]
fn a_rewind_serves_nothing_before_the_state_has_passed_what_was_fetched() {
    let mut world = World::rewinding();
    world.run(SECOND);
    assert!(!world.reads(0) && world.nodes[0].marker.is_some());
    world.nodes[0].disk_hangs = false;
    world.sync(0);
    assert!(world.reads(0) && world.nodes[0].marker.is_none());
}

#[test]
fn a_crash_within_a_rewind_starts_again_from_the_marker() {
    let mut world = World::rewinding();
    world.kill(0);
    world.lose_unsynced(0);
    world.nodes[0].disk_hangs = false;
    world.start(0);
    assert!(!world.reads(0));
    world.run(5 * SECOND);
    assert_eq!(world.nodes[0].fetches, 2, "every key again");
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn keys_from_before_the_state_that_they_are_put_into_are_not_taken() {
    let mut world = World::rewinding();
    world.kill(0);
    // One record came to be durable, and folded, before it stopped.
    let node = &mut world.nodes[0];
    let cut = node.synced;
    (node.synced, node.applied, node.disk_hangs) = (cut + 1, cut + 1, false);
    world.lose_unsynced(0);
    world.nodes[1].visible_max = Some(cut);
    world.start(0);
    world.run(SECOND);
    assert_eq!((world.nodes[0].fetches, world.reads(0)), (1, false), "its readers see too little");
    world.nodes[1].visible_max = None;
    world.run(SECOND);
    assert_eq!((world.nodes[0].fetches, world.nodes[0].snapshots), (2, 0));
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn a_replica_whose_master_cannot_give_the_keys_takes_a_snapshot() {
    let mut world = World::parted();
    world.nodes[1].keys = Some(Bytes::new());
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(5 * SECOND);
    assert_eq!((world.nodes[0].fetches, world.nodes[0].snapshots), (0, before + 1));
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn keys_that_are_of_no_use_a_few_times_are_asked_for_again() {
    let mut world = World::parted();
    world.nodes[0].useless = 4;
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(5 * SECOND);
    assert_eq!((world.nodes[0].useless, world.nodes[0].fetches), (0, 1));
    assert_eq!(world.nodes[0].snapshots, before);
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn a_replica_whose_master_gives_keys_that_are_of_no_use_takes_a_snapshot() {
    let mut world = World::parted();
    world.nodes[0].useless = u32::MAX;
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(5 * SECOND);
    assert_eq!((world.nodes[0].fetches, world.nodes[0].snapshots), (0, before + 1));
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn a_replica_that_waits_for_keys_for_too_long_takes_a_snapshot() {
    let mut world = World::parted();
    world.nodes[1].keys = None;
    let before = world.nodes[0].snapshots;
    world.heal();
    world.run(55 * SECOND);
    assert_eq!((world.nodes[0].snapshots, world.reads(0)), (before, false), "it may still come");
    world.run(10 * SECOND);
    assert_eq!((world.nodes[0].fetches, world.nodes[0].snapshots), (0, before + 1));
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn a_snapshot_that_is_ordered_waits_until_storage_has_done_its_step_of_a_rewind() {
    let steps = ["names keys", "puts keys in place", "opens what they are in"];
    for (done, step) in steps.into_iter().enumerate() {
        let mut world = World::parted();
        let before = world.nodes[0].snapshots;
        world.nodes[0].keys_hang = true;
        world.heal();
        world.run_until(5 * SECOND, |world| world.nodes[0].working.is_some());
        (0..done).for_each(|_| world.release_keys(0));
        let node = world.name(0);
        world.ask(1, 2, Request::Resync { node });
        assert_eq!(world.answer(1, 2), Some(&Ok(Outcome::Accepted)));
        world.run(2 * SECOND);
        assert_eq!(world.nodes[0].snapshots, before, "while it {step}");
        world.nodes[0].keys_hang = false;
        world.release_keys(0);
        world.run(5 * SECOND);
        assert_eq!(world.nodes[0].snapshots, before + 1);
        assert!(world.same_logs() && world.reads(0));
    }
}

#[test]
fn a_change_of_the_master_within_a_rewind_fetches_every_key_again() {
    let mut world = World::rewinding();
    world.switch(1, 2, 2);
    world.run(SECOND);
    assert_eq!(world.masters(), [2]);
    world.nodes[0].disk_hangs = false;
    world.sync(0);
    world.run(5 * SECOND);
    assert_eq!(world.nodes[0].fetches, 2);
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn a_log_whose_epochs_the_master_no_longer_knows_is_replaced_and_not_said_to_have_parted() {
    let mut world = World::running(2, AckLevel::Local);
    world.write(0, 5);
    world.run(SECOND);
    world.kill(1);
    let (first, own) = (world.nodes[1].trimmed + 1, world.tail(1));
    for trim in [true, false] {
        world.kill(0);
        world.start(0);
        world.run_until(5 * SECOND, |world| world.masters() == [0]);
        world.write(0, 5);
        if trim {
            world.nodes[0].trimmed = world.tail(0);
        }
    }
    world.start(1);
    world.run(5 * SECOND);
    let alert = Alert::NothingInCommon { from: sequence(first), to: sequence(own) };
    assert_eq!(world.nodes[1].alerts, [alert]);
    assert_eq!(world.nodes[1].snapshots, 2, "the first one when it was blank");
    assert!(world.same_logs() && world.reads(1));
}

#[test]
fn nothing_is_said_to_be_exported_of_what_parted_under_a_snapshot() {
    let mut world = World::parted();
    world.kill(0);
    world.nodes[0].trimmed = world.tail(0);
    world.nodes[0].scope = RewindScope::Everything;
    world.heal();
    world.start(0);
    world.run(8 * SECOND);
    assert_eq!((world.nodes[0].snapshots, &world.nodes[0].alerts[..]), (1, &[][..]));
    assert!(world.same_logs() && world.reads(0));
}

#[test]
fn a_replica_that_rewinds_does_not_count() {
    let mut world = World::rewinding();
    world.kill(1);
    world.run(SECOND);
    world.ask(0, 3, Request::Promote { force_term: None });
    assert!(world.answer(0, 3).unwrap().is_err());
    world.ask(2, 3, Request::Promote { force_term: None });
    world.run(8 * SECOND);
    assert!(world.answer(2, 3).unwrap().is_err());
}
