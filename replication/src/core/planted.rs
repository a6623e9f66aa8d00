//! Faults that the simulator must find, each a one-line condition at its place.
//!
//! Only under the feature `planted-bugs`. Two more faults of the same list lie in what the
//! simulator models of the storage: a rewind without its marker, and one that is half here:
//! [`Planted::TrimmedSkipped`] needs a log that appends over a gap.

/// A fault to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Planted {
    /// A master joins a slave's log to its own by number, whatever the epochs say.
    PositionWithoutEpoch,
    /// A slave acknowledges what it has received.
    AckBeforeFsync,
    /// A slave is told to cut where the master's log of the same epoch ends.
    CutToShorterUpstream,
    /// A replica promises the same term to several, and begins a term that began before.
    SameTermTwice,
    /// A replica counts by its node, whatever its disk.
    EmptyDiskVotes,
    /// A replica takes a newer epoch at once after a start.
    GrantForgotten,
    /// An acknowledgement counts whatever its session, by number alone.
    StaleSessionAck,
    /// The log is kept for no slave.
    TrimPastSlave,
    /// What is durable is visible.
    VisibleBeforeCommitted,
    /// A record of an older epoch counts as committed once enough replicas have it.
    OldEpochCommitted,
    /// After a trimmed record the next one that is kept is sent and taken.
    TrimmedSkipped,
    /// A detached or disconnected replica leaves the denominator.
    DetachedLeavesDenominator,
    /// A log is cut without marking the rewind first; the cut at least is left to the simulator's
    /// storage, which keeps no marker.
    RewindWithoutMarker,
}

impl Planted {
    /// Every fault.
    pub const EACH: [Self; 13] = [
        Self::PositionWithoutEpoch,
        Self::AckBeforeFsync,
        Self::CutToShorterUpstream,
        Self::SameTermTwice,
        Self::EmptyDiskVotes,
        Self::GrantForgotten,
        Self::StaleSessionAck,
        Self::TrimPastSlave,
        Self::VisibleBeforeCommitted,
        Self::OldEpochCommitted,
        Self::TrimmedSkipped,
        Self::DetachedLeavesDenominator,
        Self::RewindWithoutMarker,
    ];
}
