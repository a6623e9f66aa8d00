//! A master's side of each slave: sessions, reading for them, and what they acknowledge.
//!
//! Only records that are durable here are sent, and no more than a window of bytes that is not
//! acknowledged. A slave near the tail is fed from memory by the driver, one far behind from disk:
//! to the core it is the same question.

use std::{collections::VecDeque, time::Duration};

use larder_types::{DiskId, NodeId, Position, ReplicaId, SequenceNumber};

use super::{
    Action, Alert, Chunk, Core, Link, Part, Session, Time,
    handshake::{Joint, judge},
    log_view::LogView,
    planted::planted,
};
use crate::message::{Follow, Message, Packing, Records, RefusedWhy, Verdict};

/// Bytes of records in one message, at most, unless one record alone is larger.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// What a master knows of a node that follows it, or has.
#[derive(Debug)]
pub(super) struct Slave {
    pub(super) disk: DiskId,
    pub(super) link: Option<Link>,
    pub(super) session: Session,
    pub(super) stage: Stage,
    /// The last record that it acknowledged, and that counts; in the master's own history.
    pub(super) acked: Option<Position>,
    /// When the ping was sent that its latest grant answers.
    pub(super) granted: Option<Time>,
    /// The last asking that was answered.
    attempt: u64,
    flow: Flow,
    /// Whether its acknowledgements count: not before the first, nor while it is set aside.
    pub(super) counts: bool,
    /// Whether its state was found to differ.
    pub(super) aside: bool,
    /// Whether an operator ordered a snapshot for it, until it follows again. Only then is it given
    /// one in place of a log that contradicts this one.
    pub(super) ordered: bool,
    /// Further behind than the log is kept.
    pub(super) detached: bool,
    /// The first record to keep for it since it was sent a snapshot, also while it is away: the one
    /// behind that, then behind what it has acknowledged, until it is a member.
    pub(super) pin: Option<SequenceNumber>,
    /// The record with which it goes on behind the snapshot that it was sent.
    pub(super) behind_snapshot: Option<SequenceNumber>,
    pub(super) full_syncs: u64,
    /// When the session began, or the link was lost.
    pub(super) since: Time,
    pub(super) lag_micros: Option<u64>,
}

/// What a slave is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Away,
    Waiting,
    Rewinding,
    Snapshot,
    Streaming,
}

/// What is on its way to a slave.
#[derive(Debug)]
struct Flow {
    /// The next record to read.
    next: SequenceNumber,
    /// Whether a read is under way.
    reading: bool,
    /// The last record of each chunk that was sent, and its bytes.
    sent: VecDeque<(SequenceNumber, usize)>,
    bytes: usize,
    /// The last record that the slave has made durable, counted or not.
    reached: u64,
    /// What the slave was last told is committed.
    told: u64,
}

impl Flow {
    const fn from(next: SequenceNumber) -> Self {
        let reached = next.as_u64() - 1;
        Self { next, reading: false, sent: VecDeque::new(), bytes: 0, reached, told: 0 }
    }

    fn acknowledged(&mut self, seq: u64) {
        self.reached = self.reached.max(seq);
        while let Some(&(last, bytes)) = self.sent.front() {
            if last.as_u64() > seq {
                return;
            }
            self.bytes -= bytes;
            self.sent.pop_front();
        }
    }
}

impl Slave {
    fn new(disk: DiskId, now: Time) -> Self {
        Self {
            disk,
            link: None,
            session: Session(0),
            stage: Stage::Away,
            acked: None,
            granted: None,
            attempt: 0,
            flow: Flow::from(SequenceNumber::FIRST),
            counts: false,
            aside: false,
            ordered: false,
            detached: false,
            pin: None,
            behind_snapshot: None,
            full_syncs: 0,
            since: now,
            lag_micros: None,
        }
    }

    /// Whether it has all but so many of the log's records.
    pub(super) fn is_within(&self, log: &LogView, records: u64) -> bool {
        self.stage == Stage::Streaming
            && self.counts
            && self.flow.reached + records >= log.tail.number()
    }

    /// Whether it could take over now: it serves readers, and has granted in this session, so that
    /// one lease has passed since its start.
    pub(super) fn may_succeed(&self, now: Time, lease: Duration) -> bool {
        let granted =
            self.granted.is_some_and(|from| from >= self.since && now.since(from) < lease);
        self.lag_micros.is_some() && granted
    }

    /// Reads what its window has room for; where there is nothing to read, tells what is committed.
    fn feed(
        &mut self,
        log: &LogView,
        committed: Option<Position>,
        window: usize,
        out: &mut Vec<Action>,
    ) {
        let (Some(link), Stage::Streaming) = (self.link, self.stage) else { return };
        let (session, flow) = (self.session, &mut self.flow);
        if flow.reading {
            return;
        }
        let upto = committed.map_or(0, |committed| committed.seq.as_u64());
        if flow.next.as_u64() <= log.tail.number() && flow.bytes < window {
            flow.reading = true;
            let bytes_max = CHUNK_BYTES_MAX.min(window - flow.bytes);
            out.push(Action::Read { link, session, from: flow.next, bytes_max });
        } else if upto > flow.told && flow.told < flow.next.as_u64() - 1 {
            // It was sent records that it does not know to be committed.
            flow.told = upto;
            let records = Records { session, committed, packing: Packing::Raw, chunk: None };
            out.push(Action::Send { link, message: Message::Records(records) });
        }
    }

    /// The last record that it has, counted or not; 0 for none.
    pub(super) fn reached(&self) -> u64 {
        self.flow.reached
    }
}

impl Core {
    /// A slave asks to follow.
    pub(super) fn on_follow(&mut self, link: Link, peer: NodeId, follow: &Follow) {
        let now = self.now;
        let (Some(log), Part::Leading(leading)) = (&mut self.log, &mut self.part) else {
            let verdict = Verdict::Refused { why: RefusedWhy::NotMaster };
            return self.send(link, Message::Verdict { attempt: follow.attempt, verdict });
        };
        let fresh = || Slave::new(follow.disk, now);
        let slave = leading.slaves.entry(peer.clone()).or_insert_with(fresh);
        if slave.link == Some(link) && follow.attempt <= slave.attempt {
            return;
        }
        if slave.disk != follow.disk {
            *slave = Slave::new(follow.disk, now);
        }
        slave.link = Some(link);
        slave.attempt = follow.attempt;
        slave.since = now;
        slave.lag_micros = None;
        slave.counts = false;
        slave.aside = follow.aside;
        let lost = slave.acked.is_some_and(|acked| follow.tail.number() < acked.seq.as_u64());
        let epoch = leading.epoch;
        let joint = match judge(&self.config, log, epoch, follow) {
            Joint::Continue | Joint::Parted(_) | Joint::Wait if follow.snapshot => Joint::Snapshot,
            Joint::Refused(RefusedWhy::SameNumber | RefusedWhy::Differs) if slave.ordered => {
                Joint::Snapshot
            }
            joint => joint,
        };
        let verdict = match joint {
            Joint::Continue | Joint::Wait if lost && follow.log.is_some() => {
                slave.stage = Stage::Waiting;
                self.out.push(Action::Alert(Alert::LostAcknowledged { node: peer }));
                Verdict::NewDisk
            }
            Joint::Continue => {
                slave.session = Session(self.ids.draw());
                slave.stage = Stage::Streaming;
                (slave.detached, slave.ordered) = (false, false);
                slave.flow = Flow::from(follow.tail.next());
                self.out.push(Action::EndSnapshot { link });
                Verdict::Continue { session: slave.session, epoch }
            }
            Joint::Parted(at) => {
                slave.stage = Stage::Rewinding;
                Verdict::Parted { at, epoch }
            }
            Joint::Wait => {
                slave.stage = Stage::Waiting;
                Verdict::Wait
            }
            Joint::Snapshot => return self.give_snapshot(link, peer, follow.attempt),
            Joint::Refused(why) => {
                slave.stage = Stage::Waiting;
                Verdict::Refused { why }
            }
        };
        if let Verdict::Refused { why: RefusedWhy::Stale } = verdict
            && let Some(last) = follow.tail.last
        {
            self.learn(last.epoch.term);
        }
        self.send(link, Message::Verdict { attempt: follow.attempt, verdict });
        self.feed_all();
    }

    /// Has a slave take a snapshot.
    pub(super) fn give_snapshot(&mut self, link: Link, peer: NodeId, attempt: u64) {
        let (Some(log), Part::Leading(leading)) = (&mut self.log, &mut self.part) else { return };
        leading.digests.forget(&peer);
        let Some(slave) = leading.slaves.get_mut(&peer) else { return };
        let session = Session(self.ids.draw());
        slave.session = session;
        slave.stage = Stage::Snapshot;
        // Its log is about to be another one, which may begin before what it has acknowledged.
        slave.acked = None;
        slave.full_syncs += 1;
        slave.counts = false;
        slave.pin = Some(log.first);
        slave.behind_snapshot = None;
        let (epoch, log) = (leading.epoch, log.id);
        let verdict = Verdict::Snapshot { session, epoch, log };
        self.send(link, Message::Verdict { attempt, verdict });
        self.out.push(Action::ServeSnapshot { link, session });
    }

    /// A snapshot for a slave is made: the log is kept from its position on.
    pub(super) fn on_snapshot_served(
        &mut self,
        link: Link,
        session: Session,
        at: Option<Position>,
    ) {
        let Some((_, leading)) = self.leading_mut() else { return };
        let mut slaves = leading.slaves.values_mut();
        let of = |slave: &&mut Slave| slave.link == Some(link) && slave.session == session;
        if let Some(slave) = slaves.find(of) {
            let next = at.map_or(SequenceNumber::FIRST, |at| at.seq.next());
            (slave.pin, slave.behind_snapshot) = (Some(next), Some(next));
            self.close_stale_snapshots();
        }
    }

    /// A snapshot behind which the log is trimmed is of no use: the slave comes again for another.
    pub(super) fn close_stale_snapshots(&mut self) {
        let Some((log, leading)) = self.leading() else { return };
        let stale = |slave: &&Slave| {
            let trimmed = slave.behind_snapshot.is_some_and(|next| next < log.first);
            slave.stage == Stage::Snapshot && trimmed
        };
        let links: Vec<Link> =
            leading.slaves.values().filter(stale).filter_map(|slave| slave.link).collect();
        for link in links {
            self.close(link, "the log behind the snapshot for it was trimmed");
        }
    }

    /// Reads for each slave what its window has room for, and tells it what is committed.
    pub(super) fn feed_all(&mut self) {
        let (window, committed) = (self.config.window_bytes, self.committed);
        let (Some(log), Part::Leading(leading)) = (&self.log, &mut self.part) else { return };
        for slave in leading.slaves.values_mut() {
            slave.feed(log, committed, window, &mut self.out);
        }
    }

    /// Records were read for a slave.
    pub(super) fn on_read(&mut self, link: Link, session: Session, chunk: Chunk) {
        let Part::Leading(leading) = &mut self.part else { return };
        // Also what was before this epoch: a slave that is far behind folds it, and so has room for the
        // epoch's first record, without which nothing more is committed.
        let committed = self.committed;
        let of = |slave: &&mut Slave| {
            slave.link == Some(link) && slave.session == session && slave.stage == Stage::Streaming
        };
        let Some(slave) = leading.slaves.values_mut().find(of) else { return };
        slave.flow.reading = false;
        slave.flow.next = chunk.last.seq.next();
        slave.flow.sent.push_back((chunk.last.seq, chunk.frames.len()));
        slave.flow.bytes += chunk.frames.len();
        slave.flow.told = committed.map_or(0, |committed| committed.seq.as_u64());
        let packing = Packing::Raw;
        let records = Records { session, committed, packing, chunk: Some(chunk) };
        self.send(link, Message::Records(records));
        self.feed_all();
    }

    /// What a slave needs next is no longer kept: it is to ask again, and is given a snapshot if no
    /// other master keeps it by then. Nothing is skipped.
    pub(super) fn on_read_trimmed(&mut self, link: Link, session: Session, first: SequenceNumber) {
        let Part::Leading(leading) = &mut self.part else { return };
        let of = |slave: &&mut Slave| slave.link == Some(link) && slave.session == session;
        let Some(slave) = leading.slaves.values_mut().find(of) else { return };
        if planted!(self.config, TrimmedSkipped) {
            slave.flow.reading = false;
            slave.flow.next = first;
            return self.feed_all();
        }
        slave.stage = Stage::Waiting;
        self.send(link, Message::Verdict { attempt: 0, verdict: Verdict::Wait });
        self.on_trimmed(first);
    }

    /// A slave has made records durable.
    pub(super) fn on_ack(
        &mut self,
        link: Link,
        peer: &NodeId,
        session: Session,
        durable: Position,
        counts: bool,
    ) {
        let stale_counts = planted!(self.config, StaleSessionAck);
        let (Some(log), Part::Leading(leading)) = (&self.log, &mut self.part) else { return };
        let Some(slave) = leading.slaves.get_mut(peer) else { return };
        let current =
            slave.link == Some(link) && slave.session == session && slave.stage == Stage::Streaming;
        if !current && !stale_counts {
            return;
        }
        // What storage has made durable may be read, sent and acknowledged before the core is
        // told of it; only what it was told of counts.
        let durable = match log.tail.last {
            Some(last) if durable.seq > last.seq && durable.epoch == last.epoch => last,
            _ => durable,
        };
        let durable = if stale_counts {
            let upto = durable.seq.as_u64().min(log.tail.number());
            log.position_at_number(upto).unwrap_or(durable)
        } else {
            durable
        };
        if !log.holds(durable) {
            return self.close(link, "it acknowledges what is not in the log");
        }
        slave.counts = counts;
        slave.flow.acknowledged(durable.seq.as_u64());
        if counts {
            if slave.acked.is_none_or(|acked| acked.seq < durable.seq) {
                slave.acked = Some(durable);
            }
            let id = ReplicaId { node: peer.clone(), disk: slave.disk };
            let is_member = log.set().is_some_and(|placed| placed.set.member(&id).is_some());
            let behind = |pin: SequenceNumber| pin.max(durable.seq.next());
            slave.pin = slave.pin.filter(|_| !is_member).map(behind);
        }
        self.advance_commit();
        self.change_replica_set();
        self.go_on_switching();
        self.feed_all();
    }

    /// A link is gone: what its slave acknowledged and granted stays so.
    pub(super) fn lose_slave(&mut self, link: Link) {
        let now = self.now;
        let Some((_, leading)) = self.leading_mut() else { return };
        let mut slaves = leading.slaves.values_mut();
        if let Some(slave) = slaves.find(|slave| slave.link == Some(link)) {
            slave.link = None;
            slave.stage = Stage::Away;
            slave.attempt = 0;
            slave.counts = false;
            slave.since = now;
            slave.lag_micros = None;
        }
    }
}
