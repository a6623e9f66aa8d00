//! Connections: who dials whom, who is at the other end, and what it knows of terms.

use std::time::Duration;

use larder_types::{Epoch, LogId, NodeId};

use super::{Action, Core, Link, Part, Time};
use crate::message::{Hello, Message, View};

/// The first pause after a node could not be dialled; it doubles up to [`DIAL_PAUSE_MAX`].
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(2);

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) peer: NodeId,
    /// The log that the other end said it has, once it has said so.
    pub(super) log: Option<Option<LogId>>,
    pub(super) view: View,
    pub(super) last_heard: Time,
    pub(super) last_ping: Option<Time>,
}

/// A peer that this node dials.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) peer: NodeId,
    /// Whether an answer to the last try is still to come.
    trying: bool,
    again_at: Time,
    pause: Duration,
}

impl Dial {
    pub(super) const fn new(peer: NodeId) -> Self {
        Self { peer, trying: false, again_at: Time::ZERO, pause: DIAL_PAUSE_MIN }
    }
}

impl Core {
    pub(super) fn send(&mut self, link: Link, message: Message) {
        self.out.push(Action::Send { link, message });
    }

    /// Closes a connection, and takes it for gone at once.
    pub(super) fn close(&mut self, link: Link, why: &'static str) {
        if self.links.contains_key(&link) {
            self.out.push(Action::Close { link, why });
            self.on_disconnected(link);
        }
    }

    /// The connection with a node.
    pub(super) fn link_of(&self, peer: &NodeId) -> Option<Link> {
        self.links.iter().rev().find(|(_, conn)| conn.peer == *peer).map(|(link, _)| *link)
    }

    pub(super) fn on_connected(&mut self, link: Link, peer: NodeId) {
        if !self.config.peers.iter().any(|known| known.node == peer) {
            self.out.push(Action::Close { link, why: "it is no node of this cluster" });
            return;
        }
        if let Some(old) = self.link_of(&peer) {
            self.close(old, "there is a newer connection");
        }
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.peer == peer) {
            dial.trying = false;
            dial.pause = DIAL_PAUSE_MIN;
        }
        let (view, now) = (View::default(), self.now);
        let conn = Conn { peer, log: None, view, last_heard: now, last_ping: None };
        self.links.insert(link, conn);
        let hello = Hello {
            disk: self.standing.disk,
            log: self.log.as_ref().map(|log| log.id),
            view: self.view(),
        };
        self.send(link, Message::Hello(hello));
    }

    pub(super) fn on_connect_failed(&mut self, peer: &NodeId) {
        let now = self.now;
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.peer == *peer) {
            dial.trying = false;
            dial.again_at = now + dial.pause;
            dial.pause = (dial.pause * 2).min(DIAL_PAUSE_MAX);
        }
    }

    pub(super) fn on_disconnected(&mut self, link: Link) {
        let Some(conn) = self.links.remove(&link) else { return };
        self.lose_slave(link);
        self.lose_upstream(link);
        self.lose_voter(&conn.peer);
        let now = self.now;
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.peer == conn.peer) {
            dial.again_at = now + DIAL_PAUSE_MIN;
        }
    }

    /// Dials whom this node dials and has no connection with.
    pub(super) fn dial(&mut self) {
        let now = self.now;
        let links = &self.links;
        let connected = |peer: &NodeId| links.values().any(|conn| conn.peer == *peer);
        for dial in &mut self.dials {
            if !dial.trying && dial.again_at <= now && !connected(&dial.peer) {
                dial.trying = true;
                self.out.push(Action::Connect { peer: dial.peer.clone() });
            }
        }
    }

    pub(super) fn on_hello(&mut self, link: Link, hello: &Hello) {
        if let Some(conn) = self.links.get_mut(&link) {
            conn.log = Some(hello.log);
        }
        self.on_view(link, hello.view);
    }

    /// The other end of a connection said what it knows of terms.
    pub(super) fn on_view(&mut self, link: Link, view: View) {
        let Some(conn) = self.links.get_mut(&link) else { return };
        conn.view = view;
        // Also where it is nothing new: this node may have begun to lead since.
        self.learn(view.term.max(view.leads.map_or(0, |epoch| epoch.term)));
        self.yield_to_twin(view.leads);
        self.watch_successor(link, view.leads);
    }

    /// Two masters of one term: an operator has forced it on both sides of a cut. The epoch that
    /// comes first by run and id gives way; what only it has is exported as any parted record.
    fn yield_to_twin(&mut self, leads: Option<Epoch>) {
        let (Some(own), Some(twin)) = (self.leads(), leads) else { return };
        if own.term == twin.term && (own.run, own.id) < (twin.run, twin.id) {
            self.stop_leading();
            self.persist(super::standing::After::Nothing);
        }
    }

    /// There is a term as new as this. A master of an older one steps down.
    pub(super) fn learn(&mut self, term: u32) {
        self.heard_term = self.heard_term.max(term);
        let own = match &self.part {
            Part::Leading(leading) => leading.epoch.term,
            Part::Beginning { epoch, .. } => epoch.term,
            Part::Resuming { .. } => self.standing.leads.unwrap_or(0),
            Part::Following(_) => return,
        };
        if term > own {
            self.stop_leading();
            self.persist(super::standing::After::Nothing);
        }
    }

    /// What this node knows of terms.
    pub(super) fn view(&self) -> View {
        View { term: self.newest_term(), leads: self.leads() }
    }

    /// The epoch in which this node is the master.
    pub(super) fn leads(&self) -> Option<Epoch> {
        match &self.part {
            Part::Leading(leading) => Some(leading.epoch),
            _ => None,
        }
    }

    /// The newest term that this node knows to be taken, or promised to somebody.
    pub(super) fn newest_term(&self) -> u32 {
        let logged = self.log.as_ref().map_or(0, super::log_view::LogView::last_term);
        self.heard_term.max(self.standing.promised).max(logged)
    }

    /// Tells every node at once that this one leads, or no longer does.
    pub(super) fn announce(&mut self) {
        let links: Vec<Link> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.ping(link));
    }
}
