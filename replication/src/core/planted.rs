//! Faults that the simulator must find, each a one-line condition at its place.
//!
//! They exist only under the feature `planted-bugs`. Some have a half in what the simulator models
//! of the storage: with [`Planted::RewindWithoutMarker`] it keeps no marker (the core does as
//! ever); with [`Planted::PositionWithoutEpoch`] and [`Planted::TrimmedSkipped`] it appends without
//! looking at the chain. [`Planted::ClockStandsStill`] is committed by its clocks alone.

/// Whether a fault is to be committed here; `false` in every build that is not for finding faults.
macro_rules! planted {
    ($config:expr, $fault:ident) => {{
        #[cfg(feature = "planted-bugs")]
        let chosen = $config.planted == Some(crate::core::Planted::$fault);
        #[cfg(not(feature = "planted-bugs"))]
        let chosen = {
            let _ = &$config;
            false
        };
        chosen
    }};
}
pub(super) use planted;

/// A fault to commit.
#[cfg(feature = "planted-bugs")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Planted {
    /// A slave's log is joined to the master's by number, whatever the epochs say.
    PositionWithoutEpoch,
    /// A slave acknowledges what it has received.
    AckBeforeFsync,
    /// A slave that finds its master again first cuts what it does not know to be committed, as if
    /// its master could have no more.
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
    /// After a trimmed record the next one that is kept is sent, and taken.
    TrimmedSkipped,
    /// A detached or disconnected replica leaves the denominator.
    DetachedLeavesDenominator,
    /// A log is cut without a marker on the disk.
    RewindWithoutMarker,
    /// The clock stands still with the process.
    ClockStandsStill,
    /// Whoever waits for a record is told of the one with its number.
    AwaitedByNumber,
}

#[cfg(feature = "planted-bugs")]
impl Planted {
    /// Every fault.
    pub const EACH: [Self; 15] = [
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
        Self::ClockStandsStill,
        Self::AwaitedByNumber,
    ];
}
