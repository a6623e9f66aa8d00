//! How the digests of a slave's state are compared with the master's.

use std::time::Duration;

use larder_types::{AckLevel, Position, SequenceNumber};

use super::world::World;
use crate::{
    core::{Alert, Event, Request},
    message::Message,
};

/// Tells a node's core of a digest, whose bytes are all the same.
fn digested(world: &mut World, node: usize, seq: u64, of: u8) -> Position {
    let committed = world.core(0).committed().unwrap();
    let at = Position { seq: SequenceNumber::new(seq).unwrap(), ..committed };
    world.tell(node, Event::Digested { at, digest: [of; 32] });
    at
}

fn alerts(world: &World) -> Vec<Position> {
    let position = |alert: &Alert| match alert {
        Alert::DigestDiffers { at, .. } => Some(*at),
        _ => None,
    };
    world.nodes[0].alerts.iter().filter_map(position).collect()
}

#[test]
fn of_several_digests_each_is_compared_whoever_tells_first() {
    for slave_first in [true, false] {
        let mut world = World::running(2, AckLevel::Local);
        let order = if slave_first { [1, 0] } else { [0, 1] };
        for node in order {
            for seq in [10, 20, 30] {
                // The slave differs in the middle one alone.
                digested(&mut world, node, seq, u8::from(seq == 20 && node == 1));
            }
        }
        let differing = alerts(&world);
        assert_eq!(differing.iter().map(|at| at.seq.as_u64()).collect::<Vec<_>>(), [20]);
        assert!(!world.reads(1), "slave first: {slave_first}");
    }
}

#[test]
fn a_slave_is_set_aside_once_and_not_again_for_a_state_that_was_replaced() {
    let mut world = World::running(2, AckLevel::Local);
    for seq in [10, 20, 30] {
        digested(&mut world, 1, seq, 1);
    }
    let first = digested(&mut world, 0, 10, 0);
    digested(&mut world, 0, 20, 0);
    assert_eq!(alerts(&world), [first]);
    let node = world.name(1);
    world.ask(0, 1, Request::Resync { node });
    world.run(Duration::from_secs(1));
    assert!(world.reads(1));
    digested(&mut world, 0, 30, 0);
    assert_eq!(alerts(&world), [first]);
    assert!(world.reads(1), "what it had told of its former state counts for nothing");
}

#[test]
fn a_digest_that_was_on_its_way_when_its_state_was_to_be_replaced_counts_for_nothing() {
    let mut world = World::running(2, AckLevel::Local);
    digested(&mut world, 0, 10, 0);
    world.nodes[1].snapshot_hangs = true;
    let node = world.name(1);
    world.ask(0, 1, Request::Resync { node });
    for seq in [10, 20] {
        let at = Position {
            seq: SequenceNumber::new(seq).unwrap(),
            ..world.core(0).committed().unwrap()
        };
        world.send_again(1, 0, Message::Digest { at, digest: [1; 32] });
    }
    digested(&mut world, 0, 20, 0);
    world.nodes[1].snapshot_hangs = false;
    // It has broken off, and the slave comes again.
    world.kill(1);
    world.start(1);
    world.run(Duration::from_secs(2));
    assert_eq!(alerts(&world), []);
    assert!(world.reads(1));
}
