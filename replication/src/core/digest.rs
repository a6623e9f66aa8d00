//! Digests of the state at equal positions: a replica whose state differs is set aside.

use std::collections::VecDeque;

use larder_types::{NodeId, Position};

use super::{
    Action, Alert, Core, Link, Part,
    sender::{Slave, Stage},
};
use crate::message::{Message, Verdict};

/// Digests that are remembered until their counterpart comes, at most: the oldest goes first.
const REMEMBERED_MAX: usize = 64;

/// A state's digest.
pub(super) type Digest = [u8; 32];

/// What a master remembers to compare.
#[derive(Debug, Default)]
pub(super) struct Digests {
    own: VecDeque<(Position, Digest)>,
    of_slaves: VecDeque<(NodeId, Position, Digest)>,
}

impl Digests {
    /// The state of this slave is replaced: what it has told is of another one.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.of_slaves.retain(|(of, ..)| of != node);
    }
}

impl Core {
    /// This node's own digest at a position.
    pub(super) fn on_digested(&mut self, at: Position, digest: Digest) {
        let Part::Leading(leading) = &mut self.part else {
            if let Part::Following(following) = &self.part
                && let Some(link) = following.upstream.link()
                && self.is_whole()
            {
                self.send(link, Message::Digest { at, digest });
            }
            return;
        };
        let digests = &mut leading.digests;
        digests.own.truncate(REMEMBERED_MAX - 1);
        digests.own.push_front((at, digest));
        let other = |(_, of, theirs): &&(NodeId, Position, Digest)| *of == at && *theirs != digest;
        let differing: Vec<NodeId> =
            digests.of_slaves.iter().filter(other).map(|(node, ..)| node.clone()).collect();
        digests.of_slaves.retain(|(_, of, _)| *of != at);
        differing.iter().for_each(|node| self.set_slave_aside(node, at));
    }

    /// At a master: a slave's digest at a position.
    pub(super) fn on_digest(&mut self, link: Link, at: Position, digest: Digest) {
        let Some(node) = self.links.get(&link).map(|conn| conn.peer.clone()) else { return };
        let Part::Leading(leading) = &mut self.part else { return };
        // Of a state that is being replaced some may still be on their way.
        let streams = |slave: &Slave| slave.link == Some(link) && slave.stage == Stage::Streaming;
        if !leading.slaves.get(&node).is_some_and(streams) {
            return;
        }
        let digests = &mut leading.digests;
        match digests.own.iter().find(|(of, _)| *of == at) {
            Some((_, own)) if *own != digest => self.set_slave_aside(&node, at),
            Some(_) => {}
            None => {
                digests.of_slaves.truncate(REMEMBERED_MAX - 1);
                digests.of_slaves.push_front((node, at, digest));
            }
        }
    }

    /// Sets a slave aside, once however many of its digests differ.
    fn set_slave_aside(&mut self, node: &NodeId, at: Position) {
        if let Part::Leading(leading) = &mut self.part
            && let Some(slave) = leading.slaves.get_mut(node)
            && std::mem::replace(&mut slave.aside, true)
        {
            return;
        }
        self.out.push(Action::Alert(Alert::DigestDiffers { node: node.clone(), at }));
        if let Some(link) = self.link_of(node) {
            self.send(link, Message::Verdict { attempt: 0, verdict: Verdict::SetAside });
        }
    }
}
