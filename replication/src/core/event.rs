//! What happened: everything a core is ever told.

use bytes::Bytes;
use larder_types::{AckLevel, EpochStart, LogId, NodeId, Position, SequenceNumber};

use super::{Chunk, Link, LogState, PlacedSet, RequestId, RewindScope, Session, Tail, Time, Token};
use crate::message::Message;

/// One thing that happened. The driver hands them in one at a time, in the order in which they
/// happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed. At least every [`TICK`](super::TICK).
    Tick,
    /// A connection to `peer` stands, whichever side dialled. `link` is new: never used before by
    /// this process.
    Connected {
        /// The connection.
        link: Link,
        /// Who is at its other end, proven by its certificate.
        peer: NodeId,
    },
    /// An [`Action::Connect`](super::Action::Connect) came to nothing.
    ConnectFailed {
        /// Who was dialled.
        peer: NodeId,
    },
    /// A connection is gone, also after an [`Action::Close`](super::Action::Close).
    Disconnected {
        /// The connection.
        link: Link,
    },
    /// The other end of a connection said something.
    Message {
        /// The connection.
        link: Link,
        /// What was said.
        message: Message,
    },
    /// The log's durable tail moved: at a master after each batch, at a slave after what an
    /// [`Action::Append`](super::Action::Append) asked for was synced.
    Durable(Durable),
    /// Answers an [`Action::Read`](super::Action::Read).
    Records {
        /// The connection it was read for.
        link: Link,
        /// The session it was read for.
        session: Session,
        /// Whole records, the first one right behind `chunk.prev`.
        chunk: Chunk,
    },
    /// Answers an [`Action::Read`](super::Action::Read) whose first record is no longer kept.
    ReadTrimmed {
        /// The connection it was to be read for.
        link: Link,
        /// The session it was to be read for.
        session: Session,
        /// The first record that is kept.
        first: SequenceNumber,
    },
    /// Records from the master were not appended, and those before them are durable.
    AppendRefused {
        /// What is wrong with them, for the operator: a checksum, the chain or an epoch. `None` where they
        /// were given up.
        why: Option<String>,
    },
    /// What readers of this node see has moved. After a rewind's keys are applied, right before
    /// the [`Event::KeysInPlace`] that says so, back to where the state stands.
    Progress {
        /// The last record that readers see.
        visible: Option<SequenceNumber>,
        /// The last record folded into the state.
        applied: Option<SequenceNumber>,
    },
    /// The log now begins at `first`; at a master also past what a registered replica needs, where
    /// the cap on retained bytes forced it.
    Trimmed {
        /// The first record that is kept.
        first: SequenceNumber,
    },
    /// An [`Action::Persist`](super::Action::Persist) is on disk.
    Stored {
        /// The action's token.
        token: Token,
    },
    /// Answers [`Action::CreateLog`](super::Action::CreateLog): an empty log is on disk.
    LogCreated {
        /// Its random identity.
        log: LogId,
    },
    /// Answers [`Action::PauseWrites`](super::Action::PauseWrites): nothing is being appended, and
    /// everything appended is durable and was reported so.
    WritesPaused,
    /// Answers [`Action::StartRewind`](super::Action::StartRewind): marker and export are on disk.
    RewindMarked {
        /// What has to be taken back.
        scope: RewindScope,
    },
    /// Answers [`Action::CutLog`](super::Action::CutLog): the log as it is after the cut.
    LogCut(LogState),
    /// Answers [`Action::ListKeys`](super::Action::ListKeys).
    KeysListed {
        /// The next keys to fetch, in the driver's coding.
        request: Bytes,
        /// The record that the state will stand at: the parting point, or, where keys are fetched
        /// again, what the state had got to by then. Keys from before it are not to be taken.
        settles_at: Option<SequenceNumber>,
    },
    /// Answers [`Action::ListKeys`](super::Action::ListKeys) once all keys are fetched and applied:
    /// the state stands at a record of the log.
    KeysInPlace,
    /// Answers [`Action::ReadKeys`](super::Action::ReadKeys) at the master.
    KeysRead {
        /// The connection that asked.
        link: Link,
        /// The keys as they are at `at`, in the driver's coding; empty where they cannot be given.
        reply: Bytes,
        /// The last record that was visible when the last of them was read.
        at: Option<Position>,
    },
    /// Answers [`Action::ApplyKeys`](super::Action::ApplyKeys).
    KeysApplied,
    /// Answers [`Action::ListKeys`](super::Action::ListKeys) or
    /// [`Action::ApplyKeys`](super::Action::ApplyKeys): the keys that came are not those that were asked
    /// for, or malformed, or do not suffice. Nothing of this node has failed.
    KeysUseless,
    /// A snapshot for a slave has been made, or an earlier one is shared.
    SnapshotServed {
        /// The connection it is for.
        link: Link,
        /// The session it is for.
        session: Session,
        /// The last record it holds.
        at: Option<Position>,
    },
    /// A snapshot was installed in place of log and state, which are set aside.
    SnapshotInstalled(LogState),
    /// A snapshot could not be made, fetched or installed.
    SnapshotFailed {
        /// The connection.
        link: Link,
        /// Why, for the operator.
        why: String,
    },
    /// Somebody waits until a record has been acknowledged further than the namespace's level
    /// asks. Answered by [`Action::Reached`](super::Action::Reached), by `deadline` at the latest; at
    /// once where the record is not in this node's log, or this node is not the master.
    Await {
        /// Named in the answer.
        request: RequestId,
        /// The record; any at all for `None`.
        written: Option<Position>,
        /// How far it has to get.
        need: Need,
        /// When to give up.
        deadline: Time,
    },
    /// An operator asks for something. Answered by [`Action::Answer`](super::Action::Answer).
    Request {
        /// Named in the answer.
        request: RequestId,
        /// What is asked for.
        what: Request,
    },
    /// The digest of this node's state at a position.
    Digested {
        /// The position.
        at: Position,
        /// The digest, of logical content only.
        digest: [u8; 32],
    },
}

/// The durable tail of a log, and what is new in the log since the event before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The last durable record.
    pub tail: Tail,
    /// Epochs that begin in the newly durable records.
    pub epochs: Vec<EpochStart>,
    /// Replica sets in the newly durable records.
    pub sets: Vec<PlacedSet>,
}

/// How far a record has to get before somebody is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// `KV.ACK`: as this level says.
    Level(AckLevel),
    /// `WAIT`: durable on so many replicas beside the master.
    Replicas(u32),
}

/// What an operator can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make a new master, with this node's fence: the replica whose log reaches furthest, this one
    /// where several do.
    Promote {
        /// The new term, typed by the operator, to go on although acknowledged writes may be lost.
        force_term: Option<u32>,
    },
    /// Hand the log to this slave in order. Asked at the master.
    Switchover {
        /// The slave.
        to: NodeId,
    },
    /// Step down, and leave the log without a master. Asked at the master.
    StepDown,
    /// Take a node into the replica set. Asked at the master.
    AddReplica {
        /// The node.
        node: NodeId,
        /// Whether it counts in majorities.
        voter: bool,
    },
    /// Take a node out of the replica set. Asked at the master.
    RemoveReplica {
        /// The node.
        node: NodeId,
    },
    /// Have a slave take a snapshot in place of what it has. Asked at the master.
    Resync {
        /// The slave.
        node: NodeId,
    },
}
