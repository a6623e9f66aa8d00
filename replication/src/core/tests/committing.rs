//! When a write is committed, and when whoever waits for more is answered.

use std::time::Duration;

use larder_types::{AckLevel, DiskId, NodeId, ReplicaId};

use super::world::{World, sequence};
use crate::{
    core::{Event, Member, Need, ReplicaSet, Request, RequestId, commit::can_meet},
    message::Message,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_local_write_is_committed_by_the_master_alone() {
    let mut world = World::running(3, AckLevel::Local);
    world.kill(1);
    world.kill(2);
    world.write(0, 1);
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn a_majority_write_waits_for_a_second_region() {
    let mut world = World::running(3, AckLevel::Majority);
    for at in [1, 2] {
        world.nodes[at].disk_hangs = true;
    }
    world.write(0, 1);
    let written = world.tail(0);
    assert_eq!(world.nodes[0].committed, written - 1);
    world.nodes[2].disk_hangs = false;
    world.sync(2);
    assert_eq!(world.nodes[0].committed, written);
    assert_eq!(world.nodes[1].committed, written - 1, "never beyond its own durable tail");
}

/// What the first records that a master sent to a slave said is committed.
fn first_told(world: &World, from: usize, to: usize) -> Option<u64> {
    let mut sent = world.sent.iter().filter(|(one, other, _)| (*one, *other) == (from, to));
    let told = sent.find_map(|(.., message)| match message {
        Message::Records(records) => records.chunk.as_ref().map(|_| records.committed),
        _ => None,
    });
    told.expect("records were sent").map(|committed| committed.seq.as_u64())
}

#[test]
fn a_slave_far_behind_hears_of_a_new_master_what_was_committed_before() {
    let mut world = World::running(3, AckLevel::Majority);
    world.cut(0, 2);
    world.cut(1, 2);
    world.write(0, 10);
    world.run(SECOND);
    let committed = world.tail(0);
    assert_eq!(world.nodes[1].committed, committed);
    world.kill(0);
    world.heal();
    world.sent.clear();
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run_until(8 * SECOND, |world| world.tail(2) > committed);
    assert_eq!(first_told(&world, 1, 2), Some(committed));
}

#[test]
fn a_master_that_starts_again_tells_what_it_had_folded() {
    let mut world = World::running(3, AckLevel::All);
    world.write(0, 10);
    let folded = world.nodes[0].applied;
    assert_eq!(folded, world.tail(0));
    (0..3).for_each(|at| world.kill(at));
    world.sent.clear();
    (0..3).for_each(|at| world.start(at));
    assert_eq!(world.core(1).committed().map(|it| it.seq.as_u64()), Some(folded));
    world.run_until(8 * SECOND, |world| world.tail(1) > folded);
    assert_eq!(first_told(&world, 0, 1), Some(folded));
}

#[test]
fn a_majority_within_one_region_is_none() {
    let mut world = World::blank(3, AckLevel::Majority);
    for node in &mut world.nodes {
        node.config.region = "one".into();
        node.config.peers.iter_mut().for_each(|peer| peer.region = "one".into());
    }
    let mut world = World::restarted_blank(world);
    world.run(5 * SECOND);
    assert_eq!(world.set_at(0).members.len(), 3, "the set still grows");
    assert_eq!(world.nodes[0].committed, 0);
}

#[test]
fn who_is_not_known_to_a_majority_as_a_member_yet_is_not_near() {
    let mut world = World::blank(4, AckLevel::Near);
    for at in 0..4 {
        let region = |of: usize| if of == 3 { "two" } else { "one" }.to_owned();
        let names: Vec<_> = (0..4).map(|of| (world.name(of), region(of))).collect();
        let config = &mut world.nodes[at].config;
        config.region = region(at);
        for peer in &mut config.peers {
            let of = names.iter().find(|(name, _)| *name == peer.node);
            peer.region = of.map(|(_, region)| region.clone()).unwrap();
        }
    }
    let mut world = World::restarted_blank(world);
    world.run(8 * SECOND);
    assert_eq!(world.set_at(2).members.len(), 4);
    let node = world.name(1);
    world.ask(0, 1, Request::RemoveReplica { node: node.clone() });
    world.run(2 * SECOND);
    assert_eq!(world.set_at(2).members.len(), 3);
    // Those who elect by the set without it ask only each other.
    world.cut(0, 2);
    world.cut(0, 3);
    world.ask(0, 2, Request::AddReplica { node, voter: true });
    world.write(0, 1);
    world.run(SECOND);
    let written = world.tail(0);
    assert_eq!((world.set_at(0).members.len(), world.set_at(2).members.len()), (4, 3));
    assert_eq!(world.tail(1), written);
    assert!(world.nodes[0].committed < written, "{written} is committed by a node nobody asks");
    world.mend(0, 3);
    world.run(5 * SECOND);
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn all_is_all_also_of_those_that_are_away() {
    let mut world = World::running(3, AckLevel::All);
    world.kill(2);
    world.write(0, 1);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[0].committed, world.tail(0) - 1);
    world.start(2);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn an_acknowledgement_of_an_older_session_does_not_count() {
    let mut world = World::running(2, AckLevel::Majority);
    world.nodes[1].disk_hangs = true;
    world.write(0, 1);
    let before = world.nodes[0].committed;
    let ack = world.sent.iter().rev().find_map(|(.., message)| match message {
        Message::Ack { session, durable, .. } => Some((*session, *durable)),
        _ => None,
    });
    let (session, mut durable) = ack.unwrap();
    durable.seq = sequence(world.tail(0));
    let stale = crate::core::Session(session.0 ^ 1);
    world.send_again(1, 0, Message::Ack { session: stale, durable, counts: true });
    assert_eq!(world.nodes[0].committed, before);
    world.send_again(1, 0, Message::Ack { session, durable, counts: true });
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn whoever_asks_for_more_waits_for_it_or_for_the_deadline() {
    let mut world = World::running(3, AckLevel::Local);
    for at in [1, 2] {
        world.nodes[at].disk_hangs = true;
    }
    world.write(0, 1);
    let written = world.last(0);
    let deadline = world.now + SECOND;
    let needs = [
        Need::Level(AckLevel::Local),
        Need::Level(AckLevel::Majority),
        Need::Level(AckLevel::All),
        Need::Replicas(1),
        Need::Replicas(2),
    ];
    for (number, need) in (0..).zip(needs) {
        let request = RequestId(number);
        world.tell(0, Event::Await { request, written, need, deadline });
    }
    assert_eq!(world.nodes[0].reached, [(0, true)].into());
    world.nodes[1].disk_hangs = false;
    world.sync(1);
    assert_eq!(world.nodes[0].reached, [(0, true), (1, true), (3, true)].into());
    world.run(SECOND);
    let given_up = [2, 4].map(|request| world.nodes[0].reached[&request]);
    assert_eq!(given_up, [false, false]);
}

#[test]
fn nobody_is_told_that_others_have_a_write_that_was_taken_back() {
    let mut world = World::parted();
    let parted = world.last(0);
    world.heal();
    world.run(5 * SECOND);
    world.switch(1, 0, 2);
    world.run(2 * SECOND);
    assert_eq!(world.masters(), [0]);
    world.write(0, 20);
    assert!(parted.is_some_and(|parted| parted.seq.as_u64() < world.tail(0)));
    let inherited = Some(world.nodes[0].log.as_ref().unwrap()[2].position);
    let deadline = world.now + SECOND;
    for (number, written) in (0..).zip([parted, inherited, world.last(0), None]) {
        let (request, need) = (RequestId(number), Need::Replicas(2));
        world.tell(0, Event::Await { request, written, need, deadline });
    }
    assert_eq!(world.nodes[0].reached, [(0, false), (1, true), (2, true), (3, true)].into());
}

#[test]
fn a_write_of_an_older_epoch_is_committed_only_with_one_of_the_new() {
    let mut world = World::running(3, AckLevel::Majority);
    // A record that reaches everybody, and is not acknowledged: its master is gone.
    for at in [1, 2] {
        world.cut_back(at, 0);
    }
    world.write(0, 1);
    let old = world.tail(0);
    assert_eq!(world.nodes[0].committed, old - 1);
    world.kill(0);
    world.run(4 * SECOND);
    world.nodes[2].disk_hangs = true;
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run(6 * SECOND);
    assert_eq!(world.masters(), [1]);
    assert_eq!(world.tail(1), old + 1, "the record that opens the epoch");
    assert!(world.nodes[1].committed < old, "two have it, and it is of an older epoch");
    world.nodes[2].disk_hangs = false;
    world.sync(2);
    world.run(SECOND);
    assert_eq!(world.nodes[1].committed, old + 1);
}

#[test]
fn who_has_no_vote_is_near_nobody() {
    let member = |name: &str, region: &str, voter: bool| {
        let id = ReplicaId { node: NodeId::new(name).unwrap(), disk: DiskId(1) };
        Member { id, region: region.into(), voter }
    };
    let set = |voter: bool| ReplicaSet {
        members: vec![
            member("a", "here", voter),
            member("b", "here", true),
            member("c", "far", true),
        ],
        removed: Vec::new(),
    };
    assert!(can_meet(&set(true), AckLevel::Near, "here"));
    assert!(!can_meet(&set(false), AckLevel::Near, "here"), "whichever of the two is the master");
}

#[test]
fn at_all_a_master_that_starts_again_is_read_once_a_record_of_its_own_is_committed() {
    let mut world = World::running(2, AckLevel::All);
    world.write(0, 3);
    world.run(SECOND);
    assert!(world.reads(0));
    world.kill(1);
    world.kill(0);
    world.start(0);
    world.run(10 * SECOND);
    assert_eq!(world.masters(), [0]);
    assert!(!world.reads(0), "what it acknowledged before may not be visible yet");
    world.start(1);
    world.run_until(10 * SECOND, |world| world.reads(0));
    assert_eq!(world.nodes[0].committed, world.tail(0));
}
