//! Snapshots, and the way they take from a master to a slave.

use std::collections::BTreeMap;

use larder_replication::core::{Event, Link, Session};
use larder_types::LogId;

use crate::{
    cluster::{Cluster, Local},
    disk::{Log, State},
    history::Fact,
    marks::Mark,
    network::{ConnectionId, NodeIndex},
    queue::{MS, SECOND},
    steps::Step,
};

/// A snapshot that a master has made for a slave.
#[derive(Clone, Debug)]
struct Offer {
    state: State,
    log: LogId,
    master: NodeIndex,
}

/// What is offered and wanted, by connection and session.
#[derive(Default)]
pub(crate) struct Snapshots {
    offers: BTreeMap<(ConnectionId, Session), Offer>,
    wanted: BTreeMap<(ConnectionId, Session), (NodeIndex, LogId)>,
}

impl Cluster {
    /// Flushes the state and offers it to the slave at the other end.
    pub(crate) fn serve_snapshot(&mut self, node: NodeIndex, link: Link, session: Session) {
        let this = &mut self.nodes[node];
        let (Some(process), Some(log)) = (&this.process, this.disk.log_id) else { return };
        if !process.links.contains_key(&link) {
            let why = "the connection is gone".to_owned();
            self.tell(node, Event::SnapshotFailed { link, why });
            return;
        }
        this.disk.flushed = process.state;
        let state = process.state;
        let at = state.applied.map(|id| self.book.position(id));
        self.snapshots.offers.insert((link.0, session), Offer { state, log, master: node });
        self.begin_transfer(link, session);
        self.tell(node, Event::SnapshotServed { link, session, at });
    }

    /// A slave opens its side of the transfer.
    pub(crate) fn want_snapshot(
        &mut self,
        node: NodeIndex,
        link: Link,
        session: Session,
        log: LogId,
    ) {
        let running = self.nodes[node].process.as_ref();
        if running.is_none_or(|process| !process.links.contains_key(&link)) {
            let why = "the connection is gone".to_owned();
            self.tell(node, Event::SnapshotFailed { link, why });
            return;
        }
        self.snapshots.wanted.insert((link.0, session), (node, log));
        self.begin_transfer(link, session);
    }

    fn begin_transfer(&mut self, link: Link, session: Session) {
        let key = (link.0, session);
        let wanted = self.snapshots.wanted.get(&key);
        if let (Some(&(slave, _)), true) = (wanted, self.snapshots.offers.contains_key(&key)) {
            let time = self.random.between(20 * MS, 2 * SECOND);
            self.later(slave, time, Local::Step(Step::Install { link, session }));
        }
    }

    /// The last file has arrived: verify it all and put it in place by one rename.
    pub(crate) fn install_snapshot(&mut self, node: NodeIndex, link: Link, session: Session) {
        let key = (link.0, session);
        let (Some(offer), Some(&(_, log))) =
            (self.snapshots.offers.get(&key), self.snapshots.wanted.get(&key))
        else {
            return;
        };
        if self.network.is_cut(offer.master, node) {
            self.later(node, 200 * MS, Local::Step(Step::Install { link, session }));
            return;
        }
        let offer = offer.clone();
        self.snapshots.offers.remove(&key);
        self.snapshots.wanted.remove(&key);
        if offer.log != log {
            let why = "it is of another log".to_owned();
            self.tell(node, Event::SnapshotFailed { link, why });
            return;
        }
        let this = &mut self.nodes[node];
        let Some(process) = &mut this.process else { return };
        let records = this.disk.log.durable_records().to_vec();
        this.disk.former_ends.extend(this.disk.log.last_durable());
        this.disk.log = Log::behind(offer.state.applied);
        this.disk.log_id = Some(log);
        this.disk.flushed = offer.state;
        this.disk.rewind = None;
        process.state = offer.state;
        process.reported = offer.state.applied;
        process.committed = None;
        let kept = offer.state.applied;
        self.facts.push(Fact::Removed { node, records, kept, cut: false });
        self.marks.reach(Mark::Snapshot);
        let state = self.log_state(node);
        self.tell(node, Event::SnapshotInstalled(state));
    }

    /// What a master has made for a slave is not fetched any more.
    pub(crate) fn end_snapshot(&mut self, node: NodeIndex, link: Link) {
        let offers = &mut self.snapshots.offers;
        offers.retain(|&(over, _), offer| over != link.0 || offer.master != node);
    }

    /// A connection is gone, and with it what was being transferred over it.
    pub(crate) fn break_snapshot(&mut self, node: NodeIndex, connection: ConnectionId) {
        let over = |&&(over, _): &&(ConnectionId, Session)| over == connection;
        let wanted: Vec<_> = self.snapshots.wanted.keys().filter(over).copied().collect();
        for key in wanted {
            if self.snapshots.wanted[&key].0 != node {
                continue;
            }
            self.snapshots.wanted.remove(&key);
            self.marks.reach(Mark::SnapshotInterrupted);
            let why = "the connection broke".to_owned();
            let event = Event::SnapshotFailed { link: Link(connection), why };
            self.later(node, 0, Local::Event(event));
        }
        let offers = &mut self.snapshots.offers;
        offers.retain(|&(over, _), offer| over != connection || offer.master != node);
    }

    /// Whether a node is being given a snapshot.
    pub(crate) fn wants_snapshot(&self, node: NodeIndex) -> bool {
        self.snapshots.wanted.values().any(|&(slave, _)| slave == node)
    }

    /// The first record that a snapshot under way at this master needs behind it.
    pub(crate) fn pinned(&self, node: NodeIndex) -> u64 {
        let mine = self.snapshots.offers.values().filter(|offer| offer.master == node);
        mine.map(|offer| self.book.number(offer.state.applied) + 1).min().unwrap_or(u64::MAX)
    }
}
