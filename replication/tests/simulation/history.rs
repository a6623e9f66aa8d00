//! What has been promised, seen and done in a run: what the invariants judge.

use larder_replication::core::{Alert, Need};
use larder_types::{AckLevel, Epoch, Position};

use crate::{
    book::{RecordId, Values},
    network::NodeIndex,
};

/// Something that happened just now.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// A node began an epoch: its first record is on the disk.
    Began { node: NodeIndex, epoch: Epoch },
    /// A node made records visible up to this one.
    Committed { node: NodeIndex, record: RecordId, master: bool },
    /// A node was told to make visible what it does not hold.
    CommittedWithoutRecord { node: NodeIndex, position: Position },
    /// A client was told whether a record has got as far as it had asked, and who has it.
    Reached { node: NodeIndex, record: RecordId, need: Need, reached: bool, replicas: u32 },
    /// A client was told that its write is acknowledged at a level.
    Acknowledged { write: usize },
    /// A client read.
    Read { node: NodeIndex, visible: Option<RecordId>, values: Values },
    /// A record was folded into a node's state.
    Applied { node: NodeIndex, before: Option<RecordId>, record: RecordId },
    /// Durable records were removed, but for those on the path to `kept`: the log was cut, or a
    /// snapshot took its place.
    Removed { node: NodeIndex, records: Vec<RecordId>, kept: Option<RecordId>, cut: bool },
    /// Old records were removed, and not because more were kept than is allowed.
    Trimmed { node: NodeIndex, records: Vec<RecordId> },
    /// Records that a master had sent were refused by the log.
    AppendRefused { node: NodeIndex, why: String },
    /// When a node may answer reads has changed.
    Gate,
    /// A human was told.
    Alert { node: NodeIndex, alert: Alert },
    /// Some time has passed.
    Swept,
    /// All faults are over, and all nodes have agreed.
    Settled,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nothing was said yet.
    Pending,
    /// It is there, as far as its level promises.
    Acknowledged,
    /// It may yet be applied, or not.
    Unknown,
}

/// A client's write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) record: RecordId,
    pub(crate) node: NodeIndex,
    /// The level it was promised.
    pub(crate) level: AckLevel,
    pub(crate) reply: Reply,
    /// Whether the namespace's level was reached; it may have asked for more.
    pub(crate) committed: bool,
    /// Whether what was asked for beyond that was reached.
    pub(crate) reached: bool,
}
