//! Clients: they write where somebody takes writes, read anywhere, and remember what they were
//! told.

use std::time::Duration;

use larder_replication::core::{Event, Need, ReadGate, RequestId};
use larder_types::{AckLevel, SequenceNumber};

use crate::{
    book::{Body, KEYS, RecordId},
    cluster::{Cluster, Happening},
    history::{Fact, Reply, Write},
    marks::Mark,
    network::NodeIndex,
    node::Process,
    queue::SECOND,
    world::Turn,
};

/// Writes at one node that wait for an answer, at most.
const WAITING_MAX: usize = 100;

/// All clients together.
#[derive(Default)]
pub(crate) struct Clients {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: u64,
    /// No more is written.
    pub(crate) resting: bool,
    next_request: u64,
    /// Level that was asked for, and when an answer is due, of what was not answered yet.
    pub(crate) awaited: std::collections::BTreeMap<RequestId, u64>,
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
            self.await_level(node, number, record, Need::Level(level));
        }
    }

    fn await_level(&mut self, node: NodeIndex, write: usize, record: RecordId, need: Need) {
        self.clients.next_request += 1;
        let request = RequestId(self.clients.next_request);
        let due = self.now() + self.options.ack_timeout;
        self.clients.awaited.insert(request, due);
        let timeout = Duration::from_micros(self.options.ack_timeout);
        let deadline = self.nodes[node].clock.read(self.now()) + timeout;
        let number = self.book.number(Some(record));
        let seq = SequenceNumber::new(number).expect("records are numbered from 1");
        self.with(node, |process| {
            process.raised.insert(request, write);
        });
        self.tell(node, Event::Await { request, seq, need, deadline });
    }

    /// The core says whether a raised level was reached.
    pub(crate) fn reached(&mut self, node: NodeIndex, request: RequestId, reached: bool) {
        self.clients.awaited.remove(&request);
        let mut write = None;
        self.with(node, |process| write = process.raised.remove(&request));
        let Some(write) = write else { return };
        if reached {
            self.marks.reach(Mark::RaisedLevelReached);
            self.clients.writes[write].reached = true;
            self.facts.push(Fact::Reached { write });
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
        let raised = std::mem::take(&mut process.raised);
        for request in raised.keys() {
            self.clients.awaited.remove(request);
        }
        for write in waiting.into_iter().chain(raised.into_values()) {
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
        let late = |&&due: &&u64| due + 2 * SECOND < self.now();
        self.clients.awaited.values().filter(late).count()
    }
}
