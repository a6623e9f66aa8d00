//! Leases: when a master may answer reads, and when a slave may take a newer epoch.

use std::time::Duration;

use larder_types::AckLevel;

use super::world::World;
use crate::{core::Request, message::Message};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_master_at_majority_that_hears_nobody_stops_reads_before_its_lease_ends() {
    let mut world = World::running(3, AckLevel::Majority);
    assert!(world.reads(0));
    for at in [1, 2] {
        world.cut(0, at);
    }
    let took = world.run_until(4 * SECOND, |world| !world.reads(0));
    assert!(took < 3 * SECOND && took > 2 * SECOND, "{took:?}");
    world.write(0, 1);
    world.run(SECOND);
    assert!(world.nodes[0].committed < world.tail(0));
}

#[test]
fn a_master_whose_machine_was_suspended_acknowledges_nothing_before_it_hears_of_its_followers_anew()
{
    let mut world = World::running(3, AckLevel::Majority);
    for at in [1, 2] {
        world.cut_back(at, 0);
    }
    world.sent.clear();
    world.write(0, 1);
    let (tail, before) = (world.tail(0), world.nodes[0].committed);
    assert!(before < tail && world.reads(0));
    let acks: Vec<_> =
        world.sent.drain(..).filter(|it| matches!(it.2, Message::Ack { .. })).collect();
    assert!(acks.iter().any(|it| it.0 == 1) && acks.iter().any(|it| it.0 == 2), "{acks:?}");
    for at in [1, 2] {
        world.cut(0, at);
    }
    // All of it sleeps; what was on its way is the first that the master sees, before any tick.
    world.now = world.now + 60 * SECOND;
    assert!(!world.reads(0));
    for (from, to, ack) in acks {
        world.send_again(from, to, ack);
    }
    assert_eq!(world.nodes[0].committed, before);
    assert!(!world.reads(0));
    world.heal();
    world.run(10 * SECOND);
    assert!(world.reads(0) && world.same_logs());
    assert!(world.nodes[0].committed >= tail);
}

#[test]
fn a_master_at_local_goes_on_alone() {
    let mut world = World::running(2, AckLevel::Local);
    world.cut(0, 1);
    world.run(10 * SECOND);
    world.write(0, 1);
    assert!(world.reads(0));
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn a_slave_takes_no_newer_epoch_before_what_it_granted_has_run_out() {
    let mut world = World::running(3, AckLevel::Majority);
    world.cut(0, 1);
    world.cut(0, 2);
    let begin = world.now;
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run_until(8 * SECOND, |world| {
        assert!(!world.masters().contains(&1) || !world.reads(0), "two may answer reads");
        world.masters().contains(&1)
    });
    let took = world.now.since(begin);
    assert!(took > Duration::from_millis(2_700), "{took:?}");
}

#[test]
fn a_slave_that_has_started_grants_nothing_and_takes_nothing_newer_for_a_lease() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(1);
    world.kill(2);
    world.sent.clear();
    world.start(1);
    world.start(2);
    world.run(Duration::from_millis(2_400));
    let granted = world.sent.iter().any(|(from, to, message)| {
        *from > 0 && *to == 0 && matches!(message, Message::Pong(pong) if pong.grant.is_some())
    });
    assert!(!granted);
    world.kill(0);
    let begin = world.now;
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run_until(4 * SECOND, |world| world.masters() == [1]);
    assert!(world.now.since(begin) > Duration::from_millis(400));
}

#[test]
fn a_new_master_at_majority_answers_no_read_before_its_epoch_is_committed() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(0);
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run_until(8 * SECOND, |world| {
        assert!(!world.reads(1) || world.masters() != [1] || world.nodes[1].committed > 0);
        world.masters() == [1] && world.reads(1)
    });
    let epoch = world.term(1);
    assert_eq!(world.core(1).committed().map(|position| position.epoch.term), Some(epoch));
}
