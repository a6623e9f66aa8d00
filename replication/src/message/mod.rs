//! What replicas say to each other. `docs/format/wire-replication.md` has the bytes.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod codec;
mod read;
#[cfg(test)]
mod tests;
mod write;

use bytes::Bytes;
pub use codec::{
    DecodeError, EPOCHS_MAX, MESSAGE_BYTES_MAX, decode, decode_set, encode, encode_set,
};
use larder_types::{DiskId, Epoch, EpochStart, LogId, Position, SequenceNumber};

use crate::core::{Chunk, PlacedSet, Session, Tail, Time};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first on every connection, both ways.
    Hello(Hello),
    /// Both ways, five times a second.
    Ping(Ping),
    /// Answers each ping at once.
    Pong(Pong),
    /// A slave asks the master for records.
    Follow(Follow),
    /// The master's answer; also sent unasked to end a session in another way.
    Verdict {
        /// The asking's number; 0 where nothing was asked.
        attempt: u64,
        /// What the slave has to do.
        verdict: Verdict,
    },
    /// Records, on the log stream.
    Records(Records),
    /// What a slave has made durable.
    Ack {
        /// The session it counts in.
        session: Session,
        /// The last durable record.
        durable: Position,
        /// Whether it counts for anything but the flow of records: not while the slave is set
        /// aside.
        counts: bool,
    },
    /// Take nothing older than this term, and say what you have.
    Fence(Fence),
    /// Answers a fence.
    Fenced(Fenced),
    /// You reach furthest: lead this term.
    Elect {
        /// The term.
        term: u32,
        /// The last record that you answered with.
        at: Option<Position>,
    },
    /// The term has begun.
    Elected {
        /// Its first epoch.
        epoch: Epoch,
    },
    /// The master of this epoch has stepped down, which is on its disk: what was granted to it is
    /// free.
    SteppedDown {
        /// The epoch.
        epoch: Epoch,
        /// Its last acknowledged record.
        at: Option<Position>,
    },
    /// The master has stepped down in your favour: promote.
    TakeOver {
        /// The epoch that has ended.
        epoch: Epoch,
    },
    /// A slave that rewinds asks for keys.
    Fetch {
        /// The master's epoch; the keys of two epochs are not mixed.
        epoch: Epoch,
        /// Which keys, in the driver's coding.
        request: Bytes,
    },
    /// The keys.
    Fetched {
        /// The epoch that was asked for.
        epoch: Epoch,
        /// The last record that was visible when the last of them was read.
        at: Option<Position>,
        /// The keys, whole, in the driver's coding; empty where they cannot be given.
        reply: Bytes,
    },
    /// The digest of the sender's state.
    Digest {
        /// Where.
        at: Position,
        /// Of logical content only.
        digest: [u8; 32],
    },
}

/// The stream of a connection that a message travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Small messages that must not wait behind records.
    Control,
    /// Records, and what has to keep its order with them.
    Log,
}

impl Message {
    /// The stream to send it on. Verdicts begin and end sessions of records, so that neither may
    /// overtake the other.
    pub const fn stream(&self) -> Stream {
        match self {
            Self::Records(_) | Self::Verdict { .. } | Self::Fetch { .. } | Self::Fetched { .. } => {
                Stream::Log
            }
            _ => Stream::Control,
        }
    }
}

/// Who speaks, and what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The speaker's disk.
    pub disk: DiskId,
    /// The log it has, if any.
    pub log: Option<LogId>,
    /// What it knows of terms, and whether it leads one.
    pub view: View,
}

/// What a node knows about who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The newest term it knows to be taken.
    pub term: u32,
    /// The epoch in which it is the master itself.
    pub leads: Option<Epoch>,
}

/// A probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The sender's clock, given back by the pong.
    pub stamp: Time,
    /// Who leads.
    pub view: View,
    /// At a master: the first record that it keeps for its slaves.
    pub retain: Option<SequenceNumber>,
}

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The ping's stamp.
    pub echo: Time,
    /// Who leads.
    pub view: View,
    /// The sender's durable tail.
    pub durable: Option<Position>,
    /// What the sender knows to be committed.
    pub committed: Option<Position>,
    /// From a slave to its master: the session in which it grants its lease, counted from the ping.
    pub grant: Option<Session>,
    /// From a master: whether it is sure to be the only one, so that a slave which shows all that
    /// it names as committed is as fresh as the ping.
    pub current: bool,
    /// From a slave: how far it is behind by its own probes, in microseconds.
    pub lag_micros: Option<u64>,
}

/// Where a slave stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Numbers the askings of one connection, from 1.
    pub attempt: u64,
    /// The slave's disk.
    pub disk: DiskId,
    /// Its log; `None` where it has none.
    pub log: Option<LogId>,
    /// The log's durable end.
    pub tail: Tail,
    /// The log's epochs, oldest first.
    pub epochs: Vec<EpochStart>,
    /// Whether it needs a snapshot whatever its log says.
    pub snapshot: bool,
    /// Whether its state was found to differ from a master's.
    pub aside: bool,
}

/// What a slave has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Records follow, from the slave's tail on.
    Continue {
        /// The session.
        session: Session,
        /// The master's epoch.
        epoch: Epoch,
    },
    /// The logs parted: take back what is from here on, and ask again.
    Parted {
        /// The first parted record.
        at: SequenceNumber,
        /// The master's epoch.
        epoch: Epoch,
    },
    /// The master has less of the same epoch than the slave, or, unasked, no longer keeps the record
    /// that the slave needs next: wait, and ask again.
    Wait,
    /// Take a snapshot, and ask again.
    Snapshot {
        /// The session.
        session: Session,
        /// The master's epoch.
        epoch: Epoch,
        /// The log it is of.
        log: LogId,
    },
    /// The slave lost records that it had acknowledged: draw a new disk id, and ask again.
    NewDisk,
    /// The slave's state differs from the master's: serve nothing until a snapshot is installed.
    SetAside,
    /// Not here.
    Refused {
        /// Why.
        why: RefusedWhy,
    },
}

/// Why a master does not take a slave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedWhy {
    /// It is no master.
    NotMaster,
    /// The slave knows a newer epoch.
    Stale,
    /// The slave's log is another log.
    OtherLog,
    /// Both have an epoch of the same number that is not the same: parted history without order.
    SameNumber,
    /// The joint has another checksum at the master.
    Differs,
}

/// Records, and how far the log is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The session.
    pub session: Session,
    /// What is committed at the master; never beyond the master's own durable tail.
    pub committed: Option<Position>,
    /// How `chunk.frames` are packed.
    pub packing: Packing,
    /// The records; none of them where only `committed` has moved.
    pub chunk: Option<Chunk>,
}

/// How frames are packed on the way. The core speaks [`Packing::Raw`] only; the driver packs and
/// unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As they are in the log.
    Raw,
    /// One Zstandard frame.
    ZstdFrame {
        /// Bytes when unpacked.
        raw_bytes: u32,
    },
    /// The next part of the Zstandard frame that runs through all of a connection, flushed.
    ZstdStream {
        /// Bytes when unpacked.
        raw_bytes: u32,
    },
}

/// Asks a replica to take nothing older than a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The term.
    pub term: u32,
    /// Only say what you would answer: nothing is promised.
    pub trial: bool,
}

/// What a replica has, and may be counted on for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The fence's term.
    pub term: u32,
    /// Whether it answers a trial.
    pub trial: bool,
    /// Whether it takes nothing older from now on, for this asker alone (of a trial: would).
    pub promised: bool,
    /// The newest term it knew to be taken before.
    pub known: u32,
    /// Its disk.
    pub disk: DiskId,
    /// Whether it may count: admitted, its state whole, not set aside.
    pub fit: bool,
    /// Its last durable record.
    pub durable: Option<Position>,
    /// Whether it wrote the epoch of that record.
    pub writer: bool,
    /// The newest replica set that its log holds.
    pub set: Option<PlacedSet>,
    /// The greatest tail that it has heard of a master, to tell what could be lost.
    pub heard: Option<Position>,
}
