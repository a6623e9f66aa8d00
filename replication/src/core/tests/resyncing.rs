//! An operator orders a snapshot for a slave, whatever the slave is doing.

use std::time::Duration;

use larder_types::AckLevel;

use super::world::World;
use crate::{
    core::{Alert, Event, Outcome, Request},
    message::{Follow, Message, RefusedWhy, Verdict},
};

const SECOND: Duration = Duration::from_secs(1);

/// Three nodes that have the same ten records.
fn written() -> World {
    let mut world = World::running(3, AckLevel::Local);
    world.write(0, 10);
    world.run(SECOND);
    world
}

fn order(world: &mut World, at: usize) {
    let node = world.name(at);
    world.ask(0, 1, Request::Resync { node });
    assert_eq!(world.answer(0, 1), Some(&Ok(Outcome::Accepted)));
}

/// The second node comes to wait: storage took no records of its master.
fn waiting() -> World {
    let mut world = written();
    world.tell(1, Event::AppendRefused { why: Some("they do not join".into()) });
    world
}

/// The second node comes back with another log, and is refused.
fn refused(change: impl FnOnce(&mut World)) -> World {
    let mut world = written();
    world.kill(1);
    change(&mut world);
    let log = world.nodes[1].log.clone();
    world.start(1);
    world.run(5 * SECOND);
    let master = world.name(0);
    let conflict = |alert: &Alert| matches!(alert, Alert::Conflict { node, .. } if *node == master);
    assert!(world.nodes[1].alerts.iter().any(conflict));
    assert_eq!(world.nodes[1].log, log, "nothing is cut or replaced by itself");
    assert_eq!(world.nodes[1].snapshots, 1, "only the first one, of the blank node");
    world
}

fn other_last_record(world: &mut World) {
    let log = world.nodes[1].log.as_mut().unwrap();
    log.last_mut().unwrap().crc ^= 1;
}

fn other_epoch_of_the_same_number(world: &mut World) {
    let log = world.nodes[1].log.as_mut().unwrap();
    log.iter_mut().for_each(|record| record.position.epoch.id ^= 1);
}

#[test]
fn a_slave_that_waits_takes_the_snapshot_that_is_ordered() {
    let mut world = waiting();
    order(&mut world, 1);
    world.run(SECOND);
    assert_eq!(world.nodes[1].snapshots, 2);
    assert!(world.same_logs());
}

#[test]
fn a_slave_whose_asking_crosses_the_order_takes_the_snapshot() {
    let mut world = waiting();
    world.cut_back(1, 0);
    world.run(SECOND / 2 + Duration::from_millis(100));
    let asks = |world: &World| {
        matches!(world.sent.last(), Some((1, 0, Message::Follow(Follow { snapshot: false, .. }))))
    };
    world.sent.retain(|(.., message)| matches!(message, Message::Follow(_)));
    assert!(asks(&world), "it does not reach the master");
    order(&mut world, 1);
    world.mend(0, 1);
    world.run(2 * SECOND);
    assert_eq!(world.nodes[1].snapshots, 2);
    assert!(world.same_logs());
}

#[test]
fn a_slave_whose_log_contradicts_the_masters_is_given_a_snapshot_by_order_alone() {
    for change in [other_last_record, other_epoch_of_the_same_number] {
        let mut world = refused(change);
        order(&mut world, 1);
        world.run(2 * SECOND);
        assert_eq!(world.nodes[1].snapshots, 2);
        assert!(world.same_logs());
        world.write(0, 3);
        assert!(world.same_logs());
    }
}

#[test]
fn an_order_that_ended_a_conflict_stands_until_a_snapshot_succeeds() {
    let mut world = refused(other_last_record);
    world.nodes[1].failing = 2;
    order(&mut world, 1);
    world.run(20 * SECOND);
    assert_eq!(world.nodes[1].snapshots, 2);
    assert!(world.same_logs());
}

#[test]
fn who_asks_for_a_snapshot_in_a_conflict_without_an_order_is_refused() {
    let mut world = refused(other_epoch_of_the_same_number);
    let asked = world.sent.iter().rev().find_map(|(from, _, message)| match message {
        Message::Follow(follow) if *from == 1 => Some(follow.clone()),
        _ => None,
    });
    let asked = asked.expect("it asks all the time");
    let attempt = asked.attempt + 1;
    world.send_again(1, 0, Message::Follow(Follow { attempt, snapshot: true, ..asked }));
    let verdict = Verdict::Refused { why: RefusedWhy::SameNumber };
    assert!(world.sent.contains(&(0, 1, Message::Verdict { attempt, verdict })));
}
