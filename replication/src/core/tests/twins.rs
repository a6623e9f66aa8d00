//! Two masters of one term: an operator has forced it on both sides of a cut.

use std::time::Duration;

use larder_types::AckLevel;

use super::world::World;
use crate::core::Request;

const SECOND: Duration = Duration::from_secs(1);
const FORCE: Request = Request::Promote { force_term: Some(2) };

/// Three nodes that do not hear one another, of which the first leads no more and the second was
/// forced to lead.
fn forced(level: AckLevel) -> World {
    let mut world = World::running(3, level);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        world.cut(one, other);
    }
    world.write(0, 3);
    world.run(4 * SECOND);
    world.ask(0, 1, Request::StepDown);
    world.ask(1, 1, FORCE);
    world.run(8 * SECOND);
    assert_eq!(world.masters(), [1]);
    world
}

/// The first was forced as well, and its epoch has the greater run.
fn twins(level: AckLevel) -> World {
    let mut world = forced(level);
    world.ask(0, 2, FORCE);
    world.run(8 * SECOND);
    for _ in 0..2 {
        world.kill(0);
        world.start(0);
        world.run(2 * SECOND);
    }
    assert_eq!(world.masters(), [0, 1]);
    world
}

fn heal_to_one_master(world: &mut World, master: usize) {
    world.heal();
    world.run(8 * SECOND);
    assert_eq!(world.masters(), [master]);
    assert!(world.same_logs());
}

#[test]
fn the_twin_whose_epoch_is_less_gives_way() {
    let mut world = twins(AckLevel::Local);
    heal_to_one_master(&mut world, 0);
}

#[test]
fn a_master_that_heard_of_its_twin_before_its_own_epoch_began_gives_way() {
    let mut world = twins(AckLevel::Local);
    world.kill(1);
    world.nodes[1].disk_hangs = true;
    world.start(1);
    world.run(2 * SECOND);
    world.mend(0, 1);
    world.run(3 * SECOND);
    assert_eq!(world.masters(), [0]);
    world.nodes[1].disk_hangs = false;
    world.sync(1);
    heal_to_one_master(&mut world, 0);
}

#[test]
fn a_replica_that_is_about_to_lead_takes_nothing_from_its_twin() {
    let mut world = forced(AckLevel::Local);
    for at in [1, 0] {
        world.kill(at);
        world.start(at);
    }
    world.ask(0, 2, FORCE);
    world.nodes[0].persist_hangs = true;
    world.mend(0, 1);
    world.run(4 * SECOND);
    assert_eq!(world.core(0).standing.leads, Some(2));
    assert_eq!((world.nodes[0].marker, world.masters().as_slice()), (None, &[1][..]));
    world.release_persist(0);
    // Its run is greater.
    heal_to_one_master(&mut world, 1);
}

#[test]
fn a_slave_takes_a_twin_only_after_what_it_granted_to_the_other_has_run_out() {
    let mut world = twins(AckLevel::Majority);
    world.mend(1, 2);
    world.run_until(12 * SECOND, |world| world.reads(1));
    world.mend(0, 2);
    world.run_until(12 * SECOND, |world| {
        assert!(!(world.reads(0) && world.reads(1)), "both have a lease");
        world.reads(0)
    });
    heal_to_one_master(&mut world, 0);
}
