//! Leases: granted by slaves to their master, on monotonic clocks that drift but do not jump,
//! nor stand still while a machine is suspended.
//!
//! A slave's grant runs from when it answered a ping; the master counts it from when it sent that
//! ping, less a margin for drift. So the master's lease ends before any grant it rests on does.

use std::time::Duration;

use larder_types::{AckLevel, NodeId};

use super::{Config, Core, Part, Session, Time, planted::planted};

/// What a lease is shortened by: clocks may drift apart by a fortieth.
fn margin(config: &Config) -> Duration {
    config.lease / 20
}

/// What this replica has granted, and what it may have granted before its start.
#[derive(Debug)]
pub(super) struct Grants {
    /// The grant ends.
    until: Time,
    /// The term of the epoch it was granted to.
    term: u32,
    /// Whose epoch that is: a term that was forced may have two masters.
    to: Option<NodeId>,
    /// A grant from before the start may last until here.
    unknown_until: Time,
}

impl Grants {
    /// Those of a start. A blank disk has granted nothing, and is of no replica set.
    pub(super) fn at_start(config: &Config, blank: bool, now: Time) -> Self {
        let nothing = blank || planted!(config, GrantForgotten);
        let unknown_until = if nothing { now } else { now + config.lease };
        Self { until: Time::ZERO, term: 0, to: None, unknown_until }
    }

    /// Whether nothing granted, or perhaps granted before the start, still runs.
    pub(super) fn over(&self, now: Time) -> bool {
        self.until <= now && self.unknown_until <= now
    }

    /// Whether this master of this term may be followed: it is the one granted to, or nothing runs.
    /// `logged` is the term of the log's last record: what was granted before the start went to
    /// that term at the latest, if the promise is not newer.
    pub(super) fn allow(&self, master: &NodeId, term: u32, logged: u32, now: Time) -> bool {
        let known = self.until <= now || self.term == term && self.to.as_ref() == Some(master);
        let unknown = self.unknown_until <= now || term <= logged;
        known && unknown
    }

    /// Whether anything may be granted: not for one lease after a start.
    fn open(&self, now: Time) -> bool {
        self.unknown_until <= now
    }

    /// This master of this term has stepped down, on its disk.
    pub(super) fn free(&mut self, master: &NodeId, term: u32) {
        if self.term == term && self.to.as_ref() == Some(master) {
            self.until = Time::ZERO;
        }
    }

    /// This replica is the master itself: what it granted is over.
    pub(super) fn release(&mut self) {
        self.until = Time::ZERO;
    }
}

impl Core {
    /// At a slave, on its master's ping: the session in which the lease is granted, if it is. Also
    /// while it rewinds: it keeps what it grants, and counts for no promotion meanwhile.
    pub(super) fn grant(&mut self, link: super::Link) -> Option<Session> {
        let (session, epoch) = self.streaming_on(link)?;
        let master = self.links.get(&link)?.peer.clone();
        let may = self.grants.open(self.now)
            && self.is_admitted()
            && self.standing.promised <= epoch.term
            && (self.grants.term <= epoch.term);
        if !may {
            return None;
        }
        (self.grants.term, self.grants.to) = (epoch.term, Some(master));
        self.grants.until = self.now + self.config.lease;
        Some(session)
    }

    /// At a master: counts anew until when its lease holds. The set of grants meets every set of
    /// answers with which a promotion may go on: at `majority` the level's own rule, else a
    /// majority.
    pub(super) fn recount_lease(&mut self) {
        let (Some(log), Part::Leading(leading)) = (&self.log, &self.part) else { return };
        let lease = self.config.lease - margin(&self.config);
        let ends = |slave: &super::sender::Slave| slave.granted.map_or(0, |from| (from + lease).0);
        let grants = leading.each(&self.config, log, u64::MAX, ends);
        let regions_min = if self.config.level == AckLevel::Majority { 2 } else { 1 };
        let until = Time(grants.majority(regions_min));
        if let Some((_, leading)) = self.leading_mut() {
            leading.lease_until = until;
        }
    }
}
