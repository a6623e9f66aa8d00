//! Promotions: refused where something could be lost, safe where nothing can.

use std::time::Duration;

use larder_types::{AckLevel, Epoch};

use super::world::World;
use crate::core::{Outcome, Refusal, Request};

const SECOND: Duration = Duration::from_secs(1);
const PROMOTE: Request = Request::Promote { force_term: None };

#[test]
fn at_majority_two_of_three_elect_the_one_that_reaches_furthest() {
    let mut world = World::running(3, AckLevel::Majority);
    world.cut(0, 2);
    world.run(3 * SECOND);
    world.write(0, 5);
    let acknowledged = world.nodes[0].committed;
    assert_eq!(acknowledged, world.tail(0));
    world.kill(0);
    world.heal();
    world.ask(2, 1, PROMOTE);
    world.run(8 * SECOND);
    let promoted = Outcome::Promoted { master: world.name(1), term: 2 };
    assert_eq!(world.answer(2, 1), Some(&Ok(promoted)));
    assert_eq!(world.masters(), [1]);
    assert!(world.tail(2) > acknowledged);
    world.start(0);
    world.run(5 * SECOND);
    assert!(world.same_logs());
    assert_eq!(world.masters(), [1]);
}

#[test]
fn a_slave_that_waits_for_room_on_its_disk_keeps_nobody_from_being_promoted() {
    let mut world = World::running(3, AckLevel::Majority);
    world.nodes[2].lacks_room = true;
    world.write(0, 5);
    world.run(SECOND);
    let acknowledged = world.nodes[0].committed;
    assert!(acknowledged == world.tail(0) && acknowledged > world.tail(2));
    world.kill(0);
    world.ask(1, 1, PROMOTE);
    world.run(8 * SECOND);
    let promoted = Outcome::Promoted { master: world.name(1), term: 2 };
    assert_eq!(world.answer(1, 1), Some(&Ok(promoted)));
    assert!(world.nodes[2].alerts.is_empty(), "nothing is wrong with the records");
    world.make_room(2);
    world.run(5 * SECOND);
    assert!(world.nodes[1].log == world.nodes[2].log && world.tail(2) > acknowledged);
}

#[test]
fn at_local_a_dead_master_is_not_replaced_without_force_and_nobody_is_disturbed() {
    let mut world = World::running(3, AckLevel::Local);
    world.nodes[1].disk_hangs = true;
    world.nodes[2].disk_hangs = true;
    world.write(0, 7);
    world.run(SECOND);
    world.cut(0, 1);
    world.cut(0, 2);
    world.run(4 * SECOND);
    world.ask(1, 1, PROMOTE);
    world.run(6 * SECOND);
    let Some(Err(Refusal::Unsafe { at_risk, unanswered, term })) = world.answer(1, 1) else {
        panic!("{:?}", world.answer(1, 1))
    };
    assert_eq!((*at_risk, unanswered.as_str(), *term), (7, "n0", 2));
    for at in [1, 2] {
        world.nodes[at].disk_hangs = false;
        world.sync(at);
    }
    world.heal();
    world.run(5 * SECOND);
    assert_eq!(world.masters(), [0], "the trial promised nothing");
    assert!(world.same_logs());
}

#[test]
fn with_force_the_term_has_to_be_typed_in() {
    let mut world = World::running(3, AckLevel::Local);
    world.kill(0);
    world.run(SECOND);
    world.ask(1, 1, Request::Promote { force_term: Some(9) });
    assert_eq!(world.answer(1, 1), Some(&Err(Refusal::WrongTerm { expected: 2 })));
    world.ask(1, 2, Request::Promote { force_term: Some(2) });
    world.run(8 * SECOND);
    assert_eq!(world.masters(), [1]);
    world.write(1, 3);
    world.run(SECOND);
    assert_eq!(world.tail(2), world.tail(1));
}

#[test]
fn at_local_the_master_itself_can_hand_over_by_answering_the_fence() {
    let mut world = World::running(2, AckLevel::Local);
    world.write(0, 3);
    world.run(SECOND);
    world.ask(1, 1, PROMOTE);
    world.run(8 * SECOND);
    assert_eq!(world.masters(), [1]);
    assert!(world.same_logs());
}

#[test]
fn a_blank_node_neither_votes_nor_is_elected() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(0);
    world.replace_disk(2);
    world.run(SECOND);
    world.ask(1, 1, PROMOTE);
    world.run(8 * SECOND);
    assert!(matches!(world.answer(1, 1), Some(Err(Refusal::Unsafe { .. }))));
    world.ask(2, 1, PROMOTE);
    assert!(matches!(world.answer(2, 1), Some(Err(Refusal::NotEligible { .. }))));
    assert_eq!(world.masters(), [] as [usize; 0]);
}

#[test]
fn a_master_that_starts_again_raises_its_run_and_goes_on() {
    let mut world = World::running(3, AckLevel::Majority);
    world.write(0, 3);
    world.kill(0);
    world.start(0);
    world.run(6 * SECOND);
    assert_eq!(world.masters(), [0]);
    let epoch = world.core(0).status(world.now).epoch.unwrap();
    assert_eq!((epoch.term, epoch.run), (1, 1));
    assert_eq!(world.nodes[0].committed, world.tail(0));
}

#[test]
fn a_master_that_starts_again_after_a_promotion_finds_out_and_follows() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(0);
    world.ask(1, 1, PROMOTE);
    world.run(8 * SECOND);
    world.start(0);
    world.run(3 * SECOND);
    assert_eq!(world.masters(), [1]);
    assert!(world.same_logs());
}

#[test]
fn a_term_is_promised_to_one_node_only() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(0);
    world.run(4 * SECOND);
    world.ask(1, 1, PROMOTE);
    world.ask(2, 1, PROMOTE);
    world.run(10 * SECOND);
    let masters = world.masters();
    assert!(masters.len() <= 1, "{masters:?}");
    let retry = if masters.is_empty() { 1 } else { masters[0] };
    world.ask(retry, 2, PROMOTE);
    world.run(8 * SECOND);
    assert_eq!(world.masters().len(), 1);
}

#[test]
fn behind_the_greatest_term_there_is_a_promotion_is_refused_and_nobody_ends() {
    let mut world = World::running(3, AckLevel::Majority);
    world.kill(2);
    world.nodes[2].standing.promised = Epoch::REACHABLE_MAX;
    world.start(2);
    world.run(SECOND);
    assert_eq!(world.masters(), [] as [usize; 0], "there is a newer term");
    for (request, force_term) in [(1, None), (2, Some(Epoch::REACHABLE_MAX + 1))] {
        world.ask(1, request, Request::Promote { force_term });
        let refused = world.answer(1, request);
        assert!(matches!(refused, Some(Err(Refusal::NotEligible { .. }))), "{refused:?}");
    }
    world.run(8 * SECOND);
    assert_eq!(world.masters(), [] as [usize; 0]);
}
