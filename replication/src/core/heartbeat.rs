//! Heartbeats both ways: they find dead paths, carry the lease and its grants, and measure how
//! late a slave is.

use std::{collections::VecDeque, time::Duration};

use larder_types::{AckLevel, Position};

use super::{Core, Link, Part, Time};
use crate::message::{Message, Ping, Pong};

/// How often each end of a connection pings.
pub const PING_EVERY: Duration = Duration::from_millis(200);
/// A connection that has been silent for so long is dead.
pub const SILENT_MAX: Duration = Duration::from_millis(2_500);
/// Probes of a slave that wait until its readers see what the master had, at most. Further ones
/// are passed over until there is room: the oldest decide how late it is.
const PROBES_MAX: usize = 128;

/// How late a slave is, on its own clock.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// What readers here have to see, before this node is as fresh as the time beside it.
    waiting: VecDeque<(u64, Time)>,
    as_of: Option<Time>,
}

impl Freshness {
    /// The master has answered the probe sent at `sent`, and showed `committed` then.
    fn answered(&mut self, sent: Time, committed: u64, visible: u64) {
        if self.waiting.len() < PROBES_MAX {
            self.waiting.push_back((committed, sent));
        }
        self.see(visible);
    }

    /// Readers here see so much now.
    pub(super) fn see(&mut self, visible: u64) {
        while let Some(&(needed, sent)) = self.waiting.front()
            && needed <= visible
        {
            self.as_of = self.as_of.max(Some(sent));
            self.waiting.pop_front();
        }
    }

    /// Another master answers from now on: what it has not answered says nothing.
    pub(super) fn restart(&mut self) {
        self.waiting.clear();
    }

    pub(super) const fn as_of(&self) -> Option<Time> {
        self.as_of
    }
}

impl Core {
    /// Pings whom it is time to, and gives up whoever has been silent for too long.
    pub(super) fn heartbeat(&mut self) {
        let now = self.now;
        let links: Vec<Link> = self.links.keys().copied().collect();
        for link in links {
            let Some(conn) = self.links.get(&link) else { continue };
            if now.since(conn.last_heard) >= SILENT_MAX {
                self.close(link, "nothing was heard for 2.5 s");
            } else if conn.last_ping.is_none_or(|last| now.since(last) >= PING_EVERY) {
                self.ping(link);
            }
        }
    }

    pub(super) fn ping(&mut self, link: Link) {
        let (now, view) = (self.now, self.view());
        let retain = match &self.part {
            Part::Leading(_) => self.retained.floor(),
            _ => None,
        };
        if let Some(conn) = self.links.get_mut(&link) {
            conn.last_ping = Some(now);
            self.send(link, Message::Ping(Ping { stamp: now, view, retain }));
        }
    }

    pub(super) fn on_ping(&mut self, link: Link, ping: &Ping) {
        self.on_view(link, ping.view);
        let grant = self.grant(link);
        // Whoever leads no more keeps nothing for others, and says so in its last pings.
        let leads = |(_, epoch)| ping.view.leads == Some(epoch);
        if self.streaming_on(link).is_some_and(leads) {
            self.retain_for_others(ping.retain);
        }
        let pong = Pong {
            echo: ping.stamp,
            view: self.view(),
            durable: self.log.as_ref().and_then(|log| log.tail.last),
            committed: self.committed,
            grant,
            current: self.is_current(),
            lag_micros: self.lag().filter(|_| self.is_whole()).map(|lag| lag.as_micros() as u64),
        };
        self.send(link, Message::Pong(pong));
    }

    pub(super) fn on_pong(&mut self, link: Link, pong: &Pong) {
        self.on_view(link, pong.view);
        self.hear_tail(pong);
        if let Some((_, epoch)) = self.streaming_on(link)
            && pong.current
            && pong.view.leads == Some(epoch)
        {
            let committed = pong.committed.map_or(0, |committed| committed.seq.as_u64());
            let sent = pong.echo.min(self.now);
            let visible = self.visible();
            if let Part::Following(following) = &mut self.part {
                following.freshness.answered(sent, committed, visible);
            }
            self.hear_committed(pong.committed);
        }
        if self.streaming_on(link).is_some() {
            self.check_flow(pong.durable.map_or(0, |durable| durable.seq.as_u64()));
        }
        self.on_grant(link, pong);
    }

    /// At a master: a slave's pong, perhaps with a grant.
    fn on_grant(&mut self, link: Link, pong: &Pong) {
        let now = self.now;
        let Some((_, leading)) = self.leading_mut() else { return };
        let mut slaves = leading.slaves.values_mut();
        let Some(slave) = slaves.find(|slave| slave.link == Some(link)) else { return };
        slave.lag_micros = pong.lag_micros;
        if pong.grant == Some(slave.session) {
            slave.granted = slave.granted.max(Some(pong.echo.min(now)));
            self.recount_lease();
            self.advance_commit();
            self.go_on_switching();
            self.feed_all();
        }
    }

    /// The greatest tail heard of a master: what could be lost is told by it.
    fn hear_tail(&mut self, pong: &Pong) {
        let Some(durable) = pong.durable else { return };
        let newer = |heard: Position| {
            (durable.epoch.term, durable.epoch.run, durable.seq)
                > (heard.epoch.term, heard.epoch.run, heard.seq)
        };
        if pong.view.leads.is_some() && self.heard_tail.is_none_or(newer) {
            self.heard_tail = Some(durable);
        }
    }

    /// Whether this node is the master, and sure to be the only one where the level lets it know.
    fn is_current(&self) -> bool {
        match &self.part {
            Part::Leading(leading) => {
                let is_sure = || match self.config.level {
                    AckLevel::Majority => leading.lease_until > self.now,
                    _ => true,
                };
                self.config.level == AckLevel::Local || (leading.committed.is_some() && is_sure())
            }
            _ => false,
        }
    }

    /// The number of the last record that readers here see.
    pub(super) fn visible(&self) -> u64 {
        let visible = self.log.as_ref().and_then(|log| log.visible);
        visible.map_or(0, |visible| visible.as_u64())
    }

    /// How late readers here are; `None` where nothing tells, and at a master.
    pub(super) fn lag(&self) -> Option<Duration> {
        self.fresh_as_of().map(|as_of| self.now.since(as_of))
    }
}
