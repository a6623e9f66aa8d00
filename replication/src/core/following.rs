//! What a slave knows: whom it follows, how far it has come, and what stands in its way.

use larder_types::{Epoch, LogId, Position, SequenceNumber};

use super::{Link, Session, Tail, Time, heartbeat::Freshness, rewind::Rewind};

/// What a slave knows.
#[derive(Debug, Default)]
pub(super) struct Following {
    pub(super) upstream: Upstream,
    /// Whether records that this node appended as a master may still be on their way to the disk.
    pub(super) settling: bool,
    /// The tail that the log has once everything asked for is durable.
    pub(super) appending: Option<Tail>,
    /// Whether the driver was asked to give that up where it waits for room.
    pub(super) giving_up: bool,
    /// What the master of the session said is committed.
    pub(super) committed: Option<Position>,
    pub(super) freshness: Freshness,
    /// Whether this node was the master, and has not joined another one's log since.
    pub(super) fenced: bool,
    pub(super) rewind: Option<Rewind>,
    /// Whether it needs a snapshot in place of what it has: a rewind takes back everything.
    pub(super) needs_snapshot: bool,
    /// Whether the master ordered a snapshot in place of what is whole.
    pub(super) wants_snapshot: bool,
    /// Where the log that a snapshot is needed for parted from the master's, if it did.
    pub(super) parted_at: Option<SequenceNumber>,
    /// The link over which the driver takes a snapshot, until it says what came of it.
    pub(super) snapshot_over: Option<Link>,
    /// When the session last brought anything, or began.
    pub(super) last_records: Time,
    pub(super) attempts: u64,
}

/// Where a slave gets its records from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Upstream {
    #[default]
    None,
    Waiting {
        until: Time,
    },
    Asking {
        link: Link,
        epoch: Epoch,
        attempt: u64,
        at: Time,
    },
    Streaming {
        link: Link,
        session: Session,
        epoch: Epoch,
        received: Tail,
    },
    Snapshot {
        link: Link,
        session: Session,
        epoch: Epoch,
        log: LogId,
    },
}

impl Upstream {
    pub(super) const fn link(&self) -> Option<Link> {
        match self {
            Self::None | Self::Waiting { .. } => None,
            Self::Asking { link, .. }
            | Self::Streaming { link, .. }
            | Self::Snapshot { link, .. } => Some(*link),
        }
    }

    pub(super) const fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::None | Self::Waiting { .. } => None,
            Self::Asking { epoch, .. }
            | Self::Streaming { epoch, .. }
            | Self::Snapshot { epoch, .. } => Some(*epoch),
        }
    }
}

impl Following {
    pub(super) fn after_leading() -> Self {
        Self { fenced: true, ..Self::default() }
    }

    /// Whom it follows, if records come from there.
    pub(super) const fn source(&self) -> Option<(Link, Epoch)> {
        match self.upstream {
            Upstream::Streaming { link, epoch, .. } => Some((link, epoch)),
            _ => None,
        }
    }

    /// Whether nothing is on its way into the log.
    pub(super) const fn is_at_rest(&self) -> bool {
        self.appending.is_none() && !self.settling
    }

    /// Whether keys are being fetched, so that nothing may be appended.
    pub(super) fn fetches(&self) -> bool {
        self.rewind.as_ref().is_some_and(Rewind::is_unsettled)
    }

    /// Leaves whom it follows; it looks for a master again.
    pub(super) fn leave(&mut self) {
        self.upstream = Upstream::None;
        self.committed = None;
        self.freshness.restart();
    }
}
