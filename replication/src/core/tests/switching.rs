//! Switchovers: in order, undone, or mended.

use std::time::Duration;

use larder_types::AckLevel;

use super::world::World;
use crate::core::{Outcome, Refusal, Request};

const SECOND: Duration = Duration::from_secs(1);

/// Three nodes that have the same ten records.
fn written(level: AckLevel) -> World {
    let mut world = World::running(3, level);
    world.write(0, 10);
    world.run(SECOND);
    world
}

/// Levels that three regions with a node each can meet.
fn levels() -> impl Iterator<Item = AckLevel> {
    AckLevel::EACH.into_iter().filter(|level| *level != AckLevel::Near)
}

fn to(world: &World, at: usize) -> Request {
    Request::Switchover { to: world.name(at) }
}

#[test]
fn a_switchover_takes_far_less_than_a_lease_and_loses_nothing() {
    for level in levels() {
        let mut world = written(level);
        let request = to(&world, 2);
        world.ask(0, 1, request);
        let took = world.run_until(SECOND, |world| world.masters() == [2]);
        assert!(took <= Duration::from_millis(100), "{level}: {took:?}");
        world.run(2 * SECOND);
        let promoted = Outcome::Promoted { master: world.name(2), term: 2 };
        assert_eq!(world.answer(0, 1), Some(&Ok(promoted)), "{level}");
        assert!(world.same_logs());
        world.write(2, 3);
        world.run(2 * SECOND);
        assert_eq!(world.nodes[2].committed, world.tail(2), "{level}");
    }
}

#[test]
fn a_switchover_to_a_slave_that_does_not_catch_up_is_undone() {
    let mut world = World::running(3, AckLevel::Local);
    world.nodes[2].disk_hangs = true;
    world.write(0, 10);
    let request = to(&world, 2);
    world.ask(0, 1, request);
    assert!(world.nodes[0].paused);
    let took = world.run_until(SECOND, |world| !world.nodes[0].paused);
    assert!(took <= Duration::from_millis(510), "{took:?}");
    assert!(matches!(world.answer(0, 1), Some(Err(Refusal::TimedOut { .. }))));
    assert_eq!(world.masters(), [0]);
    world.write(0, 1);
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn a_slave_that_has_just_started_is_waited_for_while_writes_are_taken_and_then_refused() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(2);
    world.start(2);
    world.run(SECOND);
    let request = to(&world, 2);
    world.ask(0, 1, request);
    assert!(!world.nodes[0].paused, "it may not take over yet");
    world.write(0, 3);
    world.run(SECOND + Duration::from_millis(100));
    assert!(matches!(world.answer(0, 1), Some(Err(Refusal::Unfit { .. }))));
    assert_eq!((world.masters(), world.nodes[0].paused), (vec![0], false));
    world.run(2 * SECOND);
    let request = to(&world, 2);
    world.ask(0, 2, request);
    world.run(Duration::from_millis(100));
    assert_eq!(world.masters(), [2], "one lease has passed since its start");
}

#[test]
fn a_slave_that_rewinds_is_not_switched_to() {
    let mut world = World::parted();
    world.nodes[0].disk_hangs = true;
    world.heal();
    world.run_until(5 * SECOND, |world| world.nodes[0].fetches == 1);
    let request = to(&world, 0);
    world.ask(1, 2, request);
    world.run(2 * SECOND);
    assert!(matches!(world.answer(1, 2), Some(Err(Refusal::Unfit { .. }))));
    assert_eq!(world.masters(), [1]);
}

#[test]
fn the_mastership_may_be_handed_on_and_back_at_once() {
    let mut world = written(AckLevel::Majority);
    for (step, (from, next)) in [(0, 2), (2, 1), (1, 0)].into_iter().enumerate() {
        let request = to(&world, next);
        world.ask(from, step as u64 + 1, request);
        world.run_until(2 * SECOND, |world| world.masters() == [next]);
        world.run_until(2 * SECOND, |world| {
            world.set_at(next).members.len() == 3 && world.same_logs()
        });
    }
}

#[test]
fn a_successor_that_disappears_is_replaced_by_a_promotion() {
    let mut world = written(AckLevel::Majority);
    world.cut_back(0, 2);
    let request = to(&world, 2);
    world.ask(0, 1, request);
    world.run(10 * SECOND);
    assert_eq!(world.masters(), [0]);
    let promoted = Outcome::Promoted { master: world.name(0), term: world.term(0) };
    assert_eq!(world.answer(0, 1), Some(&Ok(promoted)));
    world.write(0, 1);
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn a_successor_whose_disk_answers_last_takes_over_all_the_same() {
    for level in levels() {
        let mut world = written(level);
        world.nodes[2].persist_hangs = true;
        let request = to(&world, 2);
        world.ask(0, 1, request);
        world.run(Duration::from_millis(100));
        assert_eq!(world.masters(), [] as [usize; 0], "{level}: its own promise is not stored");
        world.release_persist(2);
        assert_eq!(world.masters(), [2], "{level}");
        world.run(2 * SECOND);
        let promoted = Outcome::Promoted { master: world.name(2), term: 2 };
        assert_eq!(world.answer(0, 1), Some(&Ok(promoted)), "{level}");
    }
}

#[test]
fn a_master_that_is_elected_again_while_it_hands_over_says_so() {
    let mut world = World::running(3, AckLevel::Majority);
    world.cut_back(0, 1);
    world.write(0, 3);
    world.heal();
    world.nodes[2].persist_hangs = true;
    let request = to(&world, 2);
    world.ask(0, 1, request);
    world.kill(2);
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run(SECOND);
    assert_eq!(world.masters(), [0], "it reaches furthest");
    assert!(
        matches!(world.answer(0, 1), Some(Err(Refusal::TimedOut { why })) if why.contains("elected again"))
    );
}

#[test]
fn only_a_voter_that_streams_is_switched_to() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(2);
    let request = to(&world, 2);
    world.ask(0, 1, request);
    assert!(matches!(world.answer(0, 1), Some(Err(Refusal::Unfit { .. }))));
    let request = to(&world, 1);
    world.ask(1, 1, request);
    let not_master = Refusal::NotMaster { master: Some(world.name(0)) };
    assert_eq!(world.answer(1, 1), Some(&Err(not_master)));
}

#[test]
fn a_region_in_which_no_write_could_reach_the_level_is_not_switched_to() {
    let region = |at: usize| if at == 2 { "far" } else { "here" };
    let mut world = World::blank(3, AckLevel::Near);
    let names: Vec<_> = (0..3).map(|at| world.name(at)).collect();
    for (at, node) in world.nodes.iter_mut().enumerate() {
        node.config.region = region(at).into();
        for peer in &mut node.config.peers {
            let at = names.iter().position(|name| *name == peer.node).unwrap();
            peer.region = region(at).into();
        }
    }
    let mut world = World::restarted_blank(world);
    world.run(8 * SECOND);
    let request = to(&world, 2);
    world.ask(0, 1, request);
    let unmet = Refusal::LevelUnmet { level: AckLevel::Near };
    assert_eq!(world.answer(0, 1), Some(&Err(unmet.clone())));
    let request = to(&world, 1);
    world.ask(0, 2, request);
    world.run(2 * SECOND);
    assert_ne!(world.answer(0, 2), Some(&Err(unmet)), "the other region has two nodes");
}

#[test]
fn a_step_down_leaves_no_master_until_one_is_promoted() {
    let mut world = World::running(2, AckLevel::Local);
    world.ask(0, 1, Request::StepDown);
    assert_eq!(world.answer(0, 1), Some(&Ok(Outcome::SteppedDown)));
    world.run(5 * SECOND);
    assert_eq!(world.masters(), [] as [usize; 0]);
    assert!(!world.reads(0), "its log may part from its successor's");
    world.ask(1, 1, Request::Promote { force_term: None });
    world.run(5 * SECOND);
    assert_eq!(world.masters(), [1]);
}
