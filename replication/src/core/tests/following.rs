//! How slaves join, follow, and come back.

use std::time::Duration;

use larder_types::{AckLevel, DiskId, SequenceNumber};

use super::world::{World, sequence};
use crate::{
    core::{Alert, Event, MemberState, Outcome, Refusal, Request, Role},
    message::Message,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_blank_cluster_begins_one_log_and_admits_everybody() {
    let mut world = World::blank(3, AckLevel::Majority);
    let took = world
        .run_until(5 * SECOND, |world| world.tail(2) > 0 && world.set_at(2).voters().count() == 3);
    assert!(took < SECOND, "{took:?}");
    assert_eq!(world.masters(), [0]);
    assert_eq!([1, 2].map(|at| world.nodes[at].snapshots), [1, 1]);
    world.write(0, 10);
    world.run(SECOND);
    assert!(world.same_logs());
}

#[test]
fn the_first_master_does_not_begin_while_a_node_has_not_said_that_it_is_blank() {
    let mut world = World::blank(2, AckLevel::Local);
    world.kill(1);
    world.kill(0);
    world.start(0);
    world.nodes[0].log = None;
    world.replace_disk(0);
    world.run(10 * SECOND);
    assert_eq!(world.nodes[0].log, None);
    world.start(1);
    world.run(5 * SECOND);
    assert_eq!(world.masters(), [0]);
}

#[test]
fn a_slave_that_was_away_goes_on_where_it_was() {
    let mut world = World::running(2, AckLevel::Local);
    world.write(0, 5);
    world.kill(1);
    world.write(0, 50);
    world.start(1);
    world.run_until(5 * SECOND, World::same_logs);
    assert_eq!(world.nodes[1].snapshots, 1, "only the first one, of the blank node");
}

#[test]
fn a_slave_whose_next_record_was_trimmed_takes_a_snapshot_and_skips_nothing() {
    let mut world = World::running(2, AckLevel::Local);
    world.kill(1);
    world.write(0, 50);
    world.nodes[0].trimmed = 30;
    world.tell(0, Event::Trimmed { first: sequence(31) });
    assert!(world.nodes[0].alerts.contains(&Alert::Detached { node: world.name(1) }));
    let status = world.core(0).status(world.now);
    assert!(status.members[1].detached);
    world.start(1);
    world.run_until(5 * SECOND, World::same_logs);
    assert_eq!(world.nodes[1].snapshots, 2);
    assert!(!world.core(0).status(world.now).members[1].detached);
}

/// The second node comes back, and reads what the master has trimmed without its core knowing yet.
fn reading_what_is_trimmed() -> World {
    let mut world = World::running(3, AckLevel::Local);
    world.kill(1);
    world.write(0, 50);
    world.run(SECOND);
    world.nodes[0].trimmed = 30;
    world.nodes[1].snapshot_hangs = true;
    world.start(1);
    let state = |world: &World| world.core(0).status(world.now).members[1].state;
    world.run_until(5 * SECOND, |world| state(world) == MemberState::Snapshot);
    world
}

#[test]
fn a_slave_whose_next_record_is_trimmed_while_it_reads_takes_a_snapshot() {
    let mut world = reading_what_is_trimmed();
    assert!(world.nodes[0].alerts.contains(&Alert::Detached { node: world.name(1) }));
    world.kill(1);
    world.nodes[1].snapshot_hangs = false;
    world.start(1);
    world.run_until(5 * SECOND, World::same_logs);
    assert_eq!(world.nodes[1].snapshots, 2);
}

#[test]
fn a_slave_whose_next_record_is_trimmed_goes_on_with_a_master_that_keeps_it() {
    let mut world = reading_what_is_trimmed();
    world.kill(0);
    world.ask(2, 1, Request::Promote { force_term: Some(2) });
    world.run(20 * SECOND);
    assert_eq!(world.masters(), [2]);
    assert_eq!(world.nodes[1].log, world.nodes[2].log);
    assert_eq!(world.nodes[1].snapshots, 1, "only the first one, of the blank node");
}

/// A slave is away while the master writes on. Returns the record it needs next.
fn leave_behind(world: &mut World, at: usize) -> SequenceNumber {
    let next = sequence(world.tail(at) + 1);
    world.kill(at);
    world.write(0, 50);
    world.run(SECOND);
    next
}

#[test]
fn the_log_is_kept_for_a_registered_slave_that_is_away() {
    let mut world = World::running(3, AckLevel::Local);
    world.write(0, 5);
    world.run(SECOND);
    let next = leave_behind(&mut world, 1);
    assert_eq!(world.nodes[0].retained, Some(next));
    assert_eq!(world.nodes[2].retained, Some(next), "a slave keeps the same");
}

#[test]
fn what_is_kept_for_a_slave_that_is_away_is_kept_over_a_change_of_the_master() {
    let mut world = World::running(3, AckLevel::Local);
    world.write(0, 5);
    world.run(SECOND);
    let next = world.tail(2) + 1;
    world.kill(2);
    world.write(0, 5);
    world.run(SECOND);
    world.sent.clear();
    let kept = |world: &World, at: usize| {
        let retained = world.nodes[at].retained.map(|seq| seq.as_u64());
        assert!(retained.is_some_and(|first| first <= next), "{retained:?}");
    };
    world.ask(0, 1, Request::StepDown);
    world.run_until(SECOND, |world| {
        kept(world, 1);
        world.masters().is_empty()
    });
    world.run(SECOND);
    kept(&world, 1);
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run_until(8 * SECOND, |world| {
        kept(world, 1);
        world.masters() == [1]
    });
    world.run(SECOND);
    [0, 1].into_iter().for_each(|at| kept(&world, at));
    let careless = |message: &Message| matches!(message, Message::Ping(ping) if ping.view.leads.is_some() && ping.retain.is_none());
    assert!(!world.sent.iter().any(|(.., message)| careless(message)));
}

#[test]
fn a_node_with_a_new_disk_is_taken_out_and_only_then_admitted() {
    let mut world = World::running(3, AckLevel::Majority);
    world.write(0, 5);
    world.replace_disk(2);
    let fresh = world.nodes[2].standing.disk;
    world.run_until(5 * SECOND, |world| {
        world.set_at(0).on_node(&world.name(2)).is_some_and(|member| member.id.disk == fresh)
    });
    let sizes: Vec<_> = world.nodes[0].log.as_ref().unwrap().iter().collect();
    let sizes: Vec<_> =
        sizes.iter().filter_map(|it| Some(it.set.as_ref()?.members.len())).collect();
    assert_eq!(sizes, [1, 2, 3, 2, 3]);
}

#[test]
fn a_slave_that_lost_what_it_acknowledged_becomes_another_replica() {
    let mut world = World::running(3, AckLevel::Local);
    world.write(0, 20);
    world.run(SECOND);
    let disk = world.nodes[1].standing.disk;
    world.kill(1);
    world.nodes[1].log.as_mut().unwrap().truncate(10);
    world.start(1);
    world.run(2 * SECOND);
    assert_ne!(world.nodes[1].standing.disk, disk);
    assert!(world.nodes[0].alerts.contains(&Alert::LostAcknowledged { node: world.name(1) }));
    let member = world.set_at(0).on_node(&world.name(1)).map(|member| member.id.disk);
    assert_eq!(member, Some(world.nodes[1].standing.disk));
    assert!(world.same_logs());
}

#[test]
fn a_removed_node_is_not_admitted_again_by_itself() {
    let mut world = World::running(3, AckLevel::Local);
    let node = world.name(2);
    world.ask(0, 1, Request::RemoveReplica { node: node.clone() });
    world.run(3 * SECOND);
    assert!(world.answer(0, 1).unwrap().is_ok());
    assert_eq!(world.set_at(0).members.len(), 2);
    let state = |world: &World| world.core(0).status(world.now).members[2].state;
    assert_eq!(state(&world), MemberState::AwaitingAdmission);
    world.ask(0, 2, Request::AddReplica { node, voter: true });
    world.run(SECOND);
    assert!(world.answer(0, 2).unwrap().is_ok());
    assert_eq!(state(&world), MemberState::Streaming);
}

#[test]
fn a_member_without_which_the_level_cannot_be_met_stays() {
    let mut world = World::running(2, AckLevel::Majority);
    let node = world.name(1);
    world.ask(0, 1, Request::RemoveReplica { node });
    assert!(world.answer(0, 1).unwrap().is_err());
}

/// An operator takes a member's vote away. Returns what the master answered.
fn take_vote(world: &mut World, at: usize) -> Result<Outcome, Refusal> {
    let (node, request) = (world.name(at), 100 + at as u64);
    world.ask(0, request, Request::AddReplica { node, voter: false });
    world.run(SECOND);
    world.answer(0, request).expect("it is answered").clone()
}

#[test]
fn a_vote_without_which_the_level_cannot_be_met_is_not_taken() {
    let mut world = World::running(3, AckLevel::Majority);
    assert_eq!(take_vote(&mut world, 1), Ok(Outcome::Accepted));
    let unmet = Refusal::LevelUnmet { level: AckLevel::Majority };
    assert_eq!(take_vote(&mut world, 2), Err(unmet));
    world.write(0, 3);
    world.run(SECOND);
    assert_eq!(world.nodes[0].committed, world.tail(0));
    assert!(world.reads(0));
}

#[test]
fn a_vote_is_not_taken_while_no_majority_of_the_others_streams() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(2);
    world.run(SECOND);
    let refused = take_vote(&mut world, 1);
    assert!(
        matches!(&refused, Err(Refusal::Unfit { why, .. }) if why.contains("no majority streams")),
        "{refused:?}"
    );
    world.write(0, 3);
    assert_eq!(world.nodes[0].committed, world.tail(0), "the first two are a majority");
}

#[test]
fn a_member_without_a_vote_has_none_with_a_new_disk_either() {
    let mut world = World::running(3, AckLevel::Majority);
    assert_eq!(take_vote(&mut world, 2), Ok(Outcome::Accepted));
    let before = world.tail(0);
    world.replace_disk(2);
    let (node, disk) = (world.name(2), world.nodes[2].standing.disk);
    world.run_until(5 * SECOND, |world| {
        world.set_at(0).on_node(&node).is_some_and(|member| member.id.disk == disk)
    });
    world.run(3 * SECOND);
    let sets = world.nodes[0].log.as_ref().unwrap().iter().skip(before as usize);
    for set in sets.filter_map(|record| record.set.as_ref()) {
        assert_eq!(set.on_node(&node).map(|member| member.voter), Some(false), "{set:?}");
    }
    assert_eq!(world.set_at(0).voters().count(), 2);
}

#[test]
fn a_level_that_those_who_are_left_cannot_meet_is_known_as_such() {
    let mut world = World::blank(3, AckLevel::Local);
    let meets = |world: &World, level| world.core(0).status(world.now).can_meet(level, "region-0");
    assert!(meets(&world, AckLevel::Majority), "all are yet to be admitted");
    world.run(8 * SECOND);
    assert!(meets(&world, AckLevel::Majority));
    assert!(!meets(&world, AckLevel::Near), "each is alone in its region");
    for at in [1, 2] {
        let node = world.name(at);
        world.ask(0, at as u64, Request::RemoveReplica { node });
        world.run(SECOND);
        assert_eq!(meets(&world, AckLevel::Majority), at == 1);
    }
    assert!(meets(&world, AckLevel::Local));
}

#[test]
fn records_that_come_twice_or_with_a_gap_do_no_harm() {
    let mut world = World::running(2, AckLevel::Local);
    world.write(0, 3);
    let is_records =
        |message: &Message| matches!(message, Message::Records(records) if records.chunk.is_some());
    let twice = world.sent.iter().rev().find(|(.., message)| is_records(message)).cloned();
    let (.., message) = twice.unwrap();
    world.send_again(0, 1, message.clone());
    assert!(world.same_logs());
    let Message::Records(mut records) = message else { panic!("it was looked for") };
    let chunk = records.chunk.as_mut().unwrap();
    chunk.prev.last = chunk.prev.last.map(|mut last| {
        last.seq = chunk.last.seq.next();
        last
    });
    chunk.last.seq = chunk.last.seq.next().next();
    world.send_again(0, 1, Message::Records(records));
    world.write(0, 3);
    world.run(SECOND);
    assert!(world.same_logs());
    assert_eq!(world.core(1).role(), &Role::Slave { master: Some(world.name(0)) });
}

#[test]
fn a_silent_connection_is_given_up_within_three_seconds() {
    let mut world = World::running(2, AckLevel::Local);
    world.cut(0, 1);
    let state = |world: &World| world.core(0).status(world.now).members[1].state;
    let took = world.run_until(3 * SECOND, |world| state(world) == MemberState::Disconnected);
    assert!(took > SECOND, "{took:?}");
    world.heal();
    world.run_until(4 * SECOND, |world| state(world) == MemberState::Streaming);
}

#[test]
fn a_slave_knows_how_late_it_is_from_its_own_probes() {
    let mut world = World::running(2, AckLevel::Local);
    world.run(SECOND);
    let lag = |world: &World| world.core(1).status(world.now).lag.unwrap();
    assert!(lag(&world) <= Duration::from_millis(220), "{:?}", lag(&world));
    world.nodes[1].disk_hangs = true;
    world.write(0, 1);
    world.run(2 * SECOND);
    assert!(lag(&world) >= Duration::from_millis(1_800), "{:?}", lag(&world));
    world.nodes[1].disk_hangs = false;
    world.sync(1);
    assert!(lag(&world) <= Duration::from_millis(220), "{:?}", lag(&world));
}

#[test]
fn a_state_that_differs_is_set_aside_until_it_is_replaced() {
    let mut world = World::running(2, AckLevel::Local);
    let at = world.core(0).committed().unwrap();
    world.tell(1, Event::Digested { at, digest: [1; 32] });
    assert!(world.reads(1));
    world.tell(0, Event::Digested { at, digest: [2; 32] });
    assert!(!world.reads(1));
    assert!(world.nodes[0].alerts.contains(&Alert::DigestDiffers { node: world.name(1), at }));
    world.kill(1);
    world.start(1);
    world.run(2 * SECOND);
    assert!(!world.reads(1));
    assert_eq!(world.core(0).status(world.now).members[1].state, MemberState::SetAside);
    let node = world.name(1);
    world.ask(0, 1, Request::Resync { node });
    world.run(SECOND);
    assert!(world.reads(1) && world.same_logs());
    assert_eq!(world.core(0).status(world.now).members[1].state, MemberState::Streaming);
}

#[test]
fn another_disk_of_the_same_node_is_another_replica() {
    let mut world = World::running(3, AckLevel::All);
    world.kill(2);
    world.nodes[2].standing.disk = DiskId(4_711);
    world.start(2);
    world.write(0, 1);
    let before = world.nodes[0].committed;
    assert!(before < world.tail(0), "the old disk is still of the set, and does not answer");
    world.run(2 * SECOND);
    assert!(world.nodes[0].committed > before);
}

#[test]
fn a_resync_whose_snapshot_fails_is_not_forgotten() {
    let mut world = World::running(3, AckLevel::Majority);
    world.write(0, 10);
    world.run(SECOND);
    let before = world.nodes[2].snapshots;
    world.nodes[2].failing = 1;
    let node = world.name(2);
    world.ask(0, 1, Request::Resync { node });
    assert_eq!(world.answer(0, 1), Some(&Ok(Outcome::Accepted)));
    assert_eq!(world.nodes[2].snapshots, before);
    world.run_until(20 * SECOND, |world| world.nodes[2].snapshots > before);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[2].snapshots, before + 1, "and is over with the first that succeeds");
}

#[test]
fn a_snapshot_behind_which_the_log_is_trimmed_is_begun_anew() {
    let mut world = World::running(2, AckLevel::Local);
    world.write(0, 10);
    world.run(SECOND);
    let before = world.nodes[1].snapshots;
    world.nodes[1].snapshot_hangs = true;
    let node = world.name(1);
    world.ask(0, 1, Request::Resync { node });
    let trim = |world: &mut World, upto: u64| {
        world.nodes[0].trimmed = upto;
        world.tell(0, Event::Trimmed { first: sequence(upto + 1) });
    };
    let waits = |world: &World| world.core(0).status(world.now).members[1].state;
    trim(&mut world, 8);
    assert_eq!(waits(&world), MemberState::Snapshot, "it holds more than what was trimmed");
    world.write(0, 40);
    trim(&mut world, 40);
    assert_eq!(waits(&world), MemberState::Disconnected, "it would end before the log begins");
    world.nodes[1].snapshot_hangs = false;
    world.run_until(20 * SECOND, World::same_logs);
    assert_eq!(world.nodes[1].snapshots, before + 1);
}

#[test]
fn a_snapshot_is_let_go_once_its_slave_goes_on_with_the_log_which_is_kept_for_it() {
    let mut world = World::running(3, AckLevel::Local);
    let node = world.name(2);
    world.ask(0, 1, Request::RemoveReplica { node });
    // It is no member, and follows all the same.
    world.nodes[2].snapshot_hangs = true;
    world.replace_disk(2);
    world.run(SECOND);
    assert_eq!(world.nodes[0].serving.len(), 1);
    world.kill(2);
    world.nodes[2].snapshot_hangs = false;
    world.start(2);
    world.run_until(5 * SECOND, World::same_logs);
    assert_eq!((world.nodes[2].snapshots, world.nodes[0].serving.len()), (2, 0));
    world.write(0, 10);
    world.run(SECOND);
    let next = leave_behind(&mut world, 2);
    assert!(world.set_at(0).on_node(&world.name(2)).is_none());
    assert_eq!(world.nodes[0].retained, Some(next));
}
