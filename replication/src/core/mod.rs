//! The pure core: one for each replica of one log on one node.
//!
//! [`Core::handle`] takes what happened and gives what is to be done. There is no I/O, no clock and
//! no randomness in here: time is passed in, ids come from [`Boot::entropy`]. The same events give
//! the same actions, which is what the simulator rests on.

mod action;
mod boot;
mod event;
#[cfg(feature = "planted-bugs")]
mod planted;
mod replica_set;
mod time;

pub use action::{Action, Alert, Outcome, ReadGate, Refusal, Role};
pub use boot::{Boot, Config, LogState, Marker, Peer, RewindScope, Standing, Tail};
use bytes::Bytes;
pub use event::{Durable, Event, Need, Request};
use larder_types::{NodeId, Position};
#[cfg(feature = "planted-bugs")]
pub use planted::Planted;
pub use replica_set::{Member, PlacedSet, ReplicaSet};
use std::time::Duration;
pub use time::Time;

/// The longest time between two [`Event::Tick`]s.
pub const TICK: Duration = Duration::from_millis(50);

/// A connection between two nodes, as the driver numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// One stretch of a slave following a master: drawn by the master, named in all that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64);

/// Joins a question of the driver with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Joins an [`Action::Persist`] with its [`Event::Stored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Whole records in a row, as their frames are in the log. The core never looks into them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The record before the first: the joint to compare.
    pub prev: Tail,
    /// The last record.
    pub last: Position,
    /// The last record's checksum.
    pub last_crc: u32,
    /// The frames.
    pub frames: Bytes,
}

/// One replica's part in one log. [`Core::handle`] is all there is to drive it.
#[derive(Debug)]
pub struct Core {
    config: Config,
    role: Role,
    committed: Option<Position>,
    gate: ReadGate,
    fresh_as_of: Option<Time>,
}

impl Core {
    /// A core at a start of its node, and the first things to do.
    pub fn new(config: Config, boot: Boot, now: Time, out: &mut Vec<Action>) -> Self {
        let _ = (boot, now, out);
        Self {
            config,
            role: Role::Joining,
            committed: None,
            gate: ReadGate::Closed,
            fresh_as_of: None,
        }
    }

    /// Takes in what happened at `now`, and appends to `out` what is to be done.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        let _ = (now, event, out);
    }

    /// This node's part.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The master, as far as this node knows: itself, or whom it follows.
    pub fn master(&self) -> Option<&NodeId> {
        match &self.role {
            Role::Master { .. } => Some(&self.config.node),
            Role::Slave { master } => master.as_ref(),
            Role::Joining | Role::Fenced => None,
        }
    }

    /// What this node knows to be committed; never beyond its own durable tail.
    pub fn committed(&self) -> Option<Position> {
        self.committed
    }

    /// When reads may be answered.
    pub fn reads(&self) -> ReadGate {
        self.gate
    }

    /// At a slave: its readers see everything that the master showed at this time of the slave's
    /// clock. `None` before the first probe, and at a master, which is never late.
    pub fn fresh_as_of(&self) -> Option<Time> {
        self.fresh_as_of
    }
}
