//! Clients: they write where somebody takes writes, read anywhere, and remember what they were
//! told.

use std::{collections::BTreeMap, time::Duration};

use larder_replication::core::{Event, Need, ReadGate, RequestId};
use larder_types::AckLevel;

use crate::{
    book::{Body, KEYS, RecordId},
    cluster::{Cluster, Happening},
    history::{Fact, Reply, Write},
    marks::Mark,
    network::NodeIndex,
    node::Process,
    queue::{SECOND, Time},
    random::Random,
    world::Turn,
};

/// Writes at one node that wait for an answer, at most.
const WAITING_MAX: usize = 100;

/// All clients together.
pub(crate) struct Clients {
    /// For what they ask beside: a run is what it would be without.
    asking: Random,
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: u64,
    /// No more is written.
    pub(crate) resting: bool,
    next_request: u64,
    /// What was asked and not answered yet.
    pub(crate) awaited: BTreeMap<RequestId, Awaited>,
}

/// A client waits until a record has got far enough.
pub(crate) struct Awaited {
    record: RecordId,
    need: Need,
    /// When an answer is due.
    due: Time,
    /// The write that is acknowledged by the answer, if any.
    write: Option<usize>,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            asking: Random::new(!seed),
            writes: Vec::new(),
            reads: 0,
            resting: false,
            next_request: 0,
            awaited: BTreeMap::new(),
        }
    }
}

impl Cluster {
    /// A client writes, at one of the nodes that take writes.
    pub(crate) fn write(&mut self) {
        let takes = |&node: &NodeIndex| {
            let this = &self.nodes[node];
            let takes = |it: &Process| it.writable() && it.waiting.len() < WAITING_MAX;
            this.paused_until <= self.now() && this.running().is_some_and(takes)
        };
        let masters: Vec<_> = (0..self.nodes.len()).filter(takes).collect();
        if masters.is_empty() {
            return;
        }
        let node = self.random.pick(&masters);
        let raised = self.random.chance(self.options.raised);
        let level = if raised { self.random.pick(&AckLevel::EACH) } else { self.options.level };
        let number = self.clients.writes.len();
        let body = if self.random.chance(self.options.clears) {
            Body::Clear
        } else {
            let key = self.random.below(KEYS as u64) as usize;
            Body::Put { key, value: number as u64 + 1 }
        };
        let record = self.append(node, body);
        self.clients.writes.push(Write {
            record,
            node,
            level: level.max(self.options.level),
            reply: Reply::Pending,
            committed: false,
            reached: level <= self.options.level,
        });
        self.with(node, |process| process.waiting.push_back(number));
        self.queue.after(self.options.ack_timeout, Happening::World(Turn::GiveUp(number)));
        if level > self.options.level {
            self.ask(node, record, Need::Level(level), Some(number));
        }
    }

    /// A client asks a master how far a write of any time, written at any node, has got.
    pub(crate) fn wait(&mut self) {
        let masters = self.masters();
        if masters.is_empty() || self.clients.writes.is_empty() {
            return;
        }
        let Clients { asking, writes, .. } = &mut self.clients;
        let node = asking.pick(&masters);
        let record = writes[asking.below(writes.len() as u64) as usize].record;
        let count = asking.between(1, self.nodes.len() as u64 - 1) as u32;
        let level = asking.pick(&AckLevel::EACH);
        let need = asking.pick(&[Need::Replicas(count), Need::Level(level)]);
        if self.nodes[node].paused_until > self.now() {
            return;
        }
        if !self.book.holds(self.nodes[node].disk.log.last(), record) {
            self.marks.reach(Mark::WaitedForLost);
        }
        self.ask(node, record, need, None);
    }

    fn ask(&mut self, node: NodeIndex, record: RecordId, need: Need, write: Option<usize>) {
        self.clients.next_request += 1;
        let request = RequestId(self.clients.next_request);
        let due = self.now() + self.options.ack_timeout;
        self.clients.awaited.insert(request, Awaited { record, need, due, write });
        let timeout = Duration::from_micros(self.options.ack_timeout);
        let deadline = self.nodes[node].clock.read(self.now()) + timeout;
        let written = Some(self.book.position(record));
        self.with(node, |process| {
            process.asked.insert(request);
        });
        self.tell(node, Event::Await { request, written, need, deadline });
    }

    /// The core says whether a record has got far enough.
    pub(crate) fn reached(
        &mut self,
        node: NodeIndex,
        request: RequestId,
        reached: bool,
        replicas: u32,
    ) {
        self.with(node, |process| {
            process.asked.remove(&request);
        });
        let Some(asked) = self.clients.awaited.remove(&request) else { return };
        let Awaited { record, need, write, .. } = asked;
        self.facts.push(Fact::Reached { node, record, need, reached, replicas });
        let Some(write) = write else {
            if reached {
                self.marks.reach(Mark::WaitedFor);
            }
            return;
        };
        if reached {
            self.marks.reach(Mark::RaisedLevelReached);
            self.clients.writes[write].reached = true;
            self.acknowledge(write);
        } else {
            self.marks.reach(Mark::RaisedLevelMissed);
            self.leave_unknown(write);
        }
    }

    /// Replies of writes up to `record` may leave.
    pub(crate) fn release_replies(&mut self, node: NodeIndex, record: RecordId) {
        let end = self.book.number(Some(record));
        loop {
            let Some(process) = &mut self.nodes[node].process else { return };
            let Some(&write) = process.waiting.front() else { return };
            if self.book.number(Some(self.clients.writes[write].record)) > end {
                return;
            }
            process.waiting.pop_front();
            self.clients.writes[write].committed = true;
            self.acknowledge(write);
        }
    }

    fn acknowledge(&mut self, number: usize) {
        let write = &mut self.clients.writes[number];
        if write.reply == Reply::Pending && write.committed && write.reached {
            write.reply = Reply::Acknowledged;
            self.marks.reach(match write.level {
                AckLevel::Local => Mark::AcknowledgedAtLocal,
                AckLevel::Near => Mark::AcknowledgedAtNear,
                AckLevel::Majority => Mark::AcknowledgedAtMajority,
                AckLevel::All => Mark::AcknowledgedAtAll,
            });
            self.facts.push(Fact::Acknowledged { write: number });
        }
    }

    fn leave_unknown(&mut self, number: usize) {
        let write = &mut self.clients.writes[number];
        if write.reply == Reply::Pending {
            write.reply = Reply::Unknown;
        }
    }

    /// The time for an answer is over.
    pub(crate) fn give_up(&mut self, number: usize) {
        if self.clients.writes[number].reply == Reply::Pending {
            self.marks.reach(Mark::WriteTimedOut);
            self.leave_unknown(number);
        }
    }

    /// Whoever waits at this node is told that the write may yet be applied, or hears nothing.
    pub(crate) fn unanswer(&mut self, node: NodeIndex, mark: Mark) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let waiting = std::mem::take(&mut process.waiting);
        let asked = std::mem::take(&mut process.asked);
        let asked = asked.iter().filter_map(|request| self.clients.awaited.remove(request)?.write);
        let unanswered: Vec<_> = waiting.into_iter().chain(asked).collect();
        for write in unanswered {
            self.marks.reach(mark);
            self.leave_unknown(write);
        }
    }

    /// A client reads, at any node.
    pub(crate) fn read(&mut self) {
        let node = self.random.below(self.nodes.len() as u64) as usize;
        let this = &self.nodes[node];
        let Some(process) = this.running() else { return };
        if this.paused_until > self.now() {
            return;
        }
        let open = match process.gate {
            ReadGate::Closed => false,
            ReadGate::Until(end) => this.clock.read(self.now()) < end,
            ReadGate::Open => true,
        };
        if !open {
            self.marks.reach(Mark::ReadRefused);
            return;
        }
        if let Some((visible, values)) = this.read(&self.book) {
            self.clients.reads += 1;
            self.facts.push(Fact::Read { node, visible, values });
        }
    }

    /// Questions that should have been answered long ago.
    pub(crate) fn overdue(&self) -> usize {
        let late = |asked: &&Awaited| asked.due + 2 * SECOND < self.now();
        self.clients.awaited.values().filter(late).count()
    }
}
