//! What is to be done: everything a core ever asks for.

use bytes::Bytes;
use larder_types::{Epoch, LogId, NodeId, Position, SequenceNumber};

use super::{Chunk, Link, ReplicaSet, RequestId, Session, Standing, Time, Token};
use crate::message::Message;

/// One thing to do. The driver begins actions in the order in which they are given; those that are
/// answered by an event may take their time, and nothing that depends on the answer is asked for
/// before it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial this node, once. [`Event::Connected`](super::Event::Connected) or
    /// [`Event::ConnectFailed`](super::Event::ConnectFailed) follows.
    Connect {
        /// The node.
        peer: NodeId,
    },
    /// Say something. Messages of one link on one stream arrive in order or not at all.
    Send {
        /// The connection.
        link: Link,
        /// What to say.
        message: Message,
    },
    /// Close a connection. [`Event::Disconnected`](super::Event::Disconnected) follows.
    Close {
        /// The connection.
        link: Link,
        /// Why, for both ends' logs.
        why: &'static str,
    },
    /// Read whole durable records from `from` on for a slave: at least one, and no more than
    /// `bytes_max` unless the first alone is larger.
    Read {
        /// The connection they are for.
        link: Link,
        /// The session they are for.
        session: Session,
        /// The first record.
        from: SequenceNumber,
        /// Bytes of frames at most.
        bytes_max: usize,
    },
    /// Verify and append a master's records, and sync them.
    /// [`Event::Durable`](super::Event::Durable) follows, for several of these at once if need be,
    /// or [`Event::AppendRefused`](super::Event::AppendRefused).
    Append {
        /// The records.
        chunk: Chunk,
    },
    /// Give up what is to be appended and waits for room: [`Event::AppendRefused`](super::Event::AppendRefused)
    /// follows, or [`Event::Durable`](super::Event::Durable) where it was appended after all.
    GiveUpAppending,
    /// Append the record that opens this epoch.
    BeginEpoch {
        /// The epoch.
        epoch: Epoch,
    },
    /// Append a record of the replica set.
    AppendReplicaSet {
        /// The set.
        set: ReplicaSet,
    },
    /// Make records visible up to and with this one; replies that wait for it leave.
    Commit {
        /// The record.
        position: Position,
    },
    /// Put this on disk, atomically and synced, in place of what is there.
    /// [`Event::Stored`](super::Event::Stored) follows.
    Persist {
        /// What a replica must remember beside its log.
        standing: Standing,
        /// Named in the event.
        token: Token,
    },
    /// Keep the log from this record on for other replicas, as far as the cap on retained bytes
    /// allows; `None`: nothing is kept for others. Before the first of these after a start,
    /// everything is kept.
    RetainFrom {
        /// The first record to keep.
        seq: Option<SequenceNumber>,
    },
    /// Take no new writes, and see to it that those under way become durable. Comes also with
    /// every end of a mastership: what is still on its way to the disk belongs to the log.
    /// [`Event::WritesPaused`](super::Event::WritesPaused) follows.
    PauseWrites,
    /// Take writes again, if this node is the master.
    ResumeWrites,
    /// This node's part has changed. On leaving [`Role::Master`]: writes that wait for their
    /// commit are answered that they may yet be applied, and no new ones are taken.
    Become(Role),
    /// When reads may be answered has changed.
    Reads(ReadGate),
    /// Make an empty log with a random identity.
    /// [`Event::LogCreated`](super::Event::LogCreated) follows.
    CreateLog,
    /// The log parted from the master's: serve nothing, export the records from `parting` on to a
    /// readable file, and sync a marker with the keys they touch. Where a marker stands already,
    /// its keys and a wider scope are taken over, and the log is to be cut at the new point.
    /// [`Event::RewindMarked`](super::Event::RewindMarked) follows.
    StartRewind {
        /// The first parted record.
        parting: SequenceNumber,
    },
    /// Remove the records from `parting` on, and note the cut in the marker.
    /// [`Event::LogCut`](super::Event::LogCut) follows, and after it no
    /// [`Event::Durable`](super::Event::Durable) that knows of them.
    CutLog {
        /// The first record to remove.
        parting: SequenceNumber,
    },
    /// Name the next touched keys to fetch; from the marker's first on where `restart`. Nothing
    /// is appended before all are applied, so that log and state may be closed meanwhile.
    /// [`Event::KeysListed`](super::Event::KeysListed) or
    /// [`Event::KeysInPlace`](super::Event::KeysInPlace) follows, or
    /// [`Event::KeysUseless`](super::Event::KeysUseless).
    ListKeys {
        /// What was fetched so far counts for nothing: the master has changed.
        restart: bool,
    },
    /// At the master: read these keys whole, absence included.
    /// [`Event::KeysRead`](super::Event::KeysRead) follows.
    ReadKeys {
        /// The connection that asks.
        link: Link,
        /// The keys, in the driver's coding.
        request: Bytes,
    },
    /// Put fetched keys in place of what the state has of them.
    /// [`Event::KeysApplied`](super::Event::KeysApplied) or
    /// [`Event::KeysUseless`](super::Event::KeysUseless) follows.
    ApplyKeys {
        /// The keys, in the driver's coding.
        reply: Bytes,
    },
    /// The rewind is over: flush the state, and only when it has persisted all that was applied so
    /// far remove the marker. A state from before would be a mixture without it.
    EndRewind,
    /// At the master: send a snapshot on a stream of its own.
    /// [`Event::SnapshotServed`](super::Event::SnapshotServed) follows.
    ServeSnapshot {
        /// The connection.
        link: Link,
        /// The session it is for.
        session: Session,
    },
    /// At the master: the slave goes on with the log, and needs no snapshot any more, if it had one.
    EndSnapshot {
        /// The connection.
        link: Link,
    },
    /// At a slave: take a snapshot, going on with what is there of it already, verify and install
    /// it, and remove a rewind's marker with the state it was for.
    /// Either [`Event::SnapshotInstalled`](super::Event::SnapshotInstalled) or
    /// [`Event::SnapshotFailed`](super::Event::SnapshotFailed) follows, also where the connection
    /// is lost.
    StartSnapshot {
        /// The connection.
        link: Link,
        /// The session it comes in.
        session: Session,
        /// The identity of the log it belongs to.
        log: LogId,
    },
    /// Answers [`Event::Await`](super::Event::Await).
    Reached {
        /// The waiter.
        request: RequestId,
        /// Whether the need was met before the deadline, in this epoch. If not, the record may be
        /// lost, or get there yet.
        reached: bool,
        /// Replicas beside the master that are known to have the record.
        replicas: u32,
    },
    /// Answers [`Event::Request`](super::Event::Request).
    Answer {
        /// The request.
        request: RequestId,
        /// Its outcome.
        outcome: Result<Outcome, Refusal>,
    },
    /// A human must know.
    Alert(Alert),
}

/// This node's part in the replication of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has no log to serve yet, or is being given a snapshot in place of one that parted.
    Joining,
    /// Writes the log.
    Master {
        /// In this epoch.
        epoch: Epoch,
    },
    /// Copies the log.
    Slave {
        /// From this node; `None` while it looks for one.
        master: Option<NodeId>,
    },
    /// Was the master, and is no longer.
    Fenced,
}

/// Until when this node may answer reads, on its monotonic clock. To be checked before and after
/// a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadGate {
    /// Not at all.
    Closed,
    /// Before this time: the master's lease.
    Until(Time),
    /// Without end: a slave's, or a master's whose level needs no lease.
    Open,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This node is the master now.
    Promoted {
        /// The new master.
        master: NodeId,
        /// Its term.
        term: u32,
    },
    /// The master has stepped down.
    SteppedDown,
    /// The replica set changes, or already was so.
    Accepted,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only the master can do it.
    #[error("this node is not the master{}", of(master))]
    NotMaster {
        /// Who is, as far as is known.
        master: Option<NodeId>,
    },
    /// This node may not start a promotion.
    #[error("this replica cannot start a promotion: {why}")]
    NotEligible {
        /// What is in the way.
        why: &'static str,
    },
    /// Something of the kind is under way.
    #[error("{what} is under way: try again when it is over")]
    Busy {
        /// What is under way.
        what: &'static str,
    },
    /// The promotion could lose acknowledged writes.
    #[error(
        "refused: writes acknowledged at this level could be lost, {at_risk} records that are \
         known of and any that are not; {unanswered} gave no answer (force with term {term})"
    )]
    Unsafe {
        /// Records known to exist that no replica which answered has.
        at_risk: u64,
        /// The replicas that gave no answer, separated by commas.
        unanswered: String,
        /// The term to type in to go on regardless.
        term: u32,
    },
    /// The term typed in is not the one that would begin.
    #[error("the term to force is {expected}")]
    WrongTerm {
        /// The term that would begin.
        expected: u32,
    },
    /// It was not done in time.
    #[error("not done in time: {why}")]
    TimedOut {
        /// What was not reached, and how things stand now.
        why: &'static str,
    },
    /// No such node is known, or it is in no state for it.
    #[error("{node}: {why}")]
    Unfit {
        /// The node.
        node: NodeId,
        /// What is in the way.
        why: &'static str,
    },
    /// The change would leave a replica set, or a master in a region, that cannot meet the level.
    #[error("no write could reach the level {level} then")]
    LevelUnmet {
        /// The level.
        level: larder_types::AckLevel,
    },
}

/// What a human must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// This node's log parted from the master's; the parted records are exported.
    Parted {
        /// The first parted record.
        from: SequenceNumber,
        /// The last one.
        to: SequenceNumber,
    },
    /// The master no longer knows the epochs of this node's log, so that nobody can tell whether it
    /// parted. Its records are exported, and it is replaced.
    NothingInCommon {
        /// The first exported record.
        from: SequenceNumber,
        /// The last one.
        to: SequenceNumber,
    },
    /// A registered replica is further behind than the log is kept.
    Detached {
        /// The replica's node.
        node: NodeId,
    },
    /// Two logs claim the same records with different content. Nothing is cut; a human decides.
    Conflict {
        /// The other node.
        node: NodeId,
        /// What was found.
        what: &'static str,
    },
    /// A replica's state differs from the master's at the same position. It is set aside.
    DigestDiffers {
        /// The replica's node.
        node: NodeId,
        /// Where they differ.
        at: Position,
    },
    /// A replica lost records that it had acknowledged. It joins again as a new one.
    LostAcknowledged {
        /// The replica's node.
        node: NodeId,
    },
    /// Records from the master were refused.
    AppendRefused {
        /// What is wrong with them.
        why: String,
    },
    /// A snapshot failed.
    SnapshotFailed {
        /// Why.
        why: String,
    },
}

fn of(master: &Option<NodeId>) -> String {
    master.as_ref().map_or_else(String::new, |node| format!("; {node} is"))
}
