//! What a core starts from: configuration, and what is on the disk.

use std::time::Duration;

use larder_types::{AckLevel, DiskId, EpochStart, LogId, NodeId, Position, SequenceNumber};
use serde::{Deserialize, Serialize};

use super::PlacedSet;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its region's name.
    pub region: String,
    /// Every other node of the cluster.
    pub peers: Vec<Peer>,
    /// Who makes the log of a new cluster.
    pub first_master: NodeId,
    /// The namespace's level.
    pub level: AckLevel,
    /// How long a slave's grant lasts.
    pub lease: Duration,
    /// Bytes of records sent to one slave and not acknowledged, at most.
    pub window_bytes: usize,
    /// The fault to commit.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<super::Planted>,
}

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its region's name.
    pub region: String,
    /// Whether it counts in majorities, once it has been admitted.
    pub voter: bool,
}

/// What is on the disk at a start.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What was last persisted; [`Standing::fresh`] in a new data directory.
    pub standing: Standing,
    /// The log; `None` in a new data directory.
    pub log: Option<LogState>,
    /// The marker of a rewind that is not over.
    pub marker: Option<Marker>,
    /// Random bits: the source of every id that the core draws until the next start.
    pub entropy: u64,
}

/// What a replica must remember beside its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The disk's random id.
    pub disk: DiskId,
    /// The newest term it knows to be taken: nothing of an older term is taken any more. 0 for
    /// none.
    pub promised: u32,
    /// To whose promotion it gave that term; `None` where it learnt of the term otherwise.
    pub promised_to: Option<NodeId>,
    /// The term that this node leads, or is about to; `None` after a step-down.
    pub leads: Option<u32>,
    /// The newest term that it led; 0 for none.
    pub led: u32,
    /// What it may have acknowledged before a snapshot took the place of its log: before the log
    /// reaches so far again the replica is not counted on. 0 for none.
    #[serde(default)]
    pub acknowledged: u64,
    /// Whether its state was found to differ from the master's.
    pub set_aside: bool,
}

impl Standing {
    /// That of a new data directory.
    pub const fn fresh(disk: DiskId) -> Self {
        Self {
            disk,
            promised: 0,
            promised_to: None,
            leads: None,
            led: 0,
            acknowledged: 0,
            set_aside: false,
        }
    }
}

/// A log as the core needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Its identity.
    pub id: LogId,
    /// The first record that is kept; the number after the tail where none is.
    pub first: SequenceNumber,
    /// Its durable end.
    pub tail: Tail,
    /// Where its epochs began, oldest first: at least the one in effect at the record before
    /// `first`, which a slave may end with, and all after.
    pub epochs: Vec<EpochStart>,
    /// Its replica sets, oldest first: at least the newest, also where its record was trimmed or
    /// lies under a snapshot.
    pub sets: Vec<PlacedSet>,
    /// The last record folded into the state.
    pub applied: Option<SequenceNumber>,
}

/// The end of a log, or a joint in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last record; `None` in an empty log.
    pub last: Option<Position>,
    /// The last record's checksum, which covers the chain before it; 0 in an empty log.
    pub crc: u32,
}

impl Tail {
    /// The end of an empty log.
    pub const EMPTY: Self = Self { last: None, crc: 0 };

    /// The first number behind it.
    pub fn next(&self) -> SequenceNumber {
        self.last.map_or(SequenceNumber::FIRST, |last| last.seq.next())
    }

    /// The last number; 0 in an empty log.
    pub fn number(&self) -> u64 {
        self.last.map_or(0, |last| last.seq.as_u64())
    }
}

/// A rewind that has begun, as its marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The first parted record.
    pub parting: SequenceNumber,
    /// What has to be taken back.
    pub scope: RewindScope,
    /// Whether the log has been cut already.
    pub cut: bool,
}

/// What of a parted history has to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RewindScope {
    /// Only the log: nothing of it was applied.
    Log,
    /// The log, and every touched key.
    Keys,
    /// Everything: a range was touched, or the parted records are no longer there to tell.
    Everything,
}
