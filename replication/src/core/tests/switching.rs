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

/// Whether a node answered that another is unfit, and that this is in the way.
fn says_unfit(world: &World, at: usize, request: u64, unfit: usize, what: &str) -> bool {
    matches!(world.answer(at, request), Some(Err(Refusal::Unfit { node, why }))
        if *node == world.name(unfit) && why.contains(what))
}

#[test]
fn a_switchover_takes_far_less_than_a_lease_and_loses_nothing() {
    for level in levels() {
        let mut world = written(level);
        world.switch(0, 2, 1);
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
    world.switch(0, 2, 1);
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
    world.switch(0, 2, 1);
    assert!(!world.nodes[0].paused, "it may not take over yet");
    world.write(0, 3);
    world.run(SECOND + Duration::from_millis(100));
    assert!(says_unfit(&world, 0, 1, 2, "has just started"));
    assert_eq!((world.masters(), world.nodes[0].paused), (vec![0], false));
    world.run(2 * SECOND);
    world.switch(0, 2, 2);
    world.run(Duration::from_millis(100));
    assert_eq!(world.masters(), [2], "one lease has passed since its start");
}

#[test]
fn a_slave_that_rewinds_is_not_switched_to() {
    let mut world = World::rewinding();
    world.switch(1, 0, 2);
    world.run(2 * SECOND);
    assert!(says_unfit(&world, 1, 2, 0, "does not serve readers yet"));
    assert_eq!(world.masters(), [1]);
}

#[test]
fn the_mastership_may_be_handed_on_and_back_at_once() {
    let mut world = written(AckLevel::Majority);
    for (step, (from, next)) in [(0, 2), (2, 1), (1, 0)].into_iter().enumerate() {
        world.switch(from, next, step as u64 + 1);
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
    world.switch(0, 2, 1);
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
        world.switch(0, 2, 1);
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
    world.switch(0, 2, 1);
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
    world.switch(0, 2, 1);
    assert!(says_unfit(&world, 0, 1, 2, "no voter that streams"));
    world.switch(1, 1, 1);
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
    world.switch(0, 2, 1);
    let unmet = Refusal::LevelUnmet { level: AckLevel::Near };
    assert_eq!(world.answer(0, 1), Some(&Err(unmet)));
    world.switch(0, 1, 2);
    world.run(2 * SECOND);
    let promoted = Outcome::Promoted { master: world.name(1), term: 2 };
    assert_eq!(world.answer(0, 2), Some(&Ok(promoted)), "the other region has two nodes");
    assert_eq!(world.masters(), [1]);
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
