//! The storage's part in a rewind: marker and export, cut, whole keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use larder_replication::core::{Event, Link, Marker, RewindScope};
use larder_types::SequenceNumber;

use crate::{
    book::{Body, RecordId},
    cluster::{Cluster, Happening},
    disk::Rewind,
    history::{Fact, Reply},
    marks::Mark,
    network::NodeIndex,
    node::Node,
    queue::MS,
    world::Turn,
};

/// Keys that are fetched at a time.
const BATCH: usize = 2;

impl Cluster {
    /// Exports the parted records, and marks what has to be taken back.
    pub(crate) fn start_rewind(&mut self, node: NodeIndex, parting: SequenceNumber) {
        let this = &mut self.nodes[node];
        let Some(process) = &mut this.process else { return };
        let from = parting.as_u64();
        let log = &this.disk.log;
        let parted: Vec<RecordId> =
            log.kept().iter().copied().filter(|&id| self.book.get(id).seq() >= from).collect();
        let trimmed = from < log.first(&self.book);
        let applied = self.book.number(process.state.applied);
        let book = &self.book;
        let bodies =
            || parted.iter().map(|&id| book.get(id)).filter(|record| record.seq() <= applied);
        let mut scope = if trimmed || bodies().any(|record| record.body == Body::Clear) {
            RewindScope::Everything
        } else if applied < from {
            RewindScope::Log
        } else {
            RewindScope::Keys
        };
        let mut keys: BTreeMap<usize, bool> = bodies()
            .filter_map(|record| match record.body {
                Body::Put { key, .. } => Some((key, false)),
                _ => None,
            })
            .collect();
        let mut back_to = applied.min(from - 1);
        if let Some(before) = &this.disk.rewind {
            keys.extend(before.keys.keys().map(|&key| (key, false)));
            if !before.settled {
                back_to = back_to.min(before.back_to);
            }
            scope = wider(scope, before.marker.scope);
        }
        if self
            .clients
            .writes
            .iter()
            .any(|write| write.reply == Reply::Acknowledged && parted.contains(&write.record))
        {
            self.marks.reach(Mark::AcknowledgedThenParted);
        }
        this.disk.exported.extend(&parted);
        this.disk.flushed = process.state;
        let marker = Marker { parting, scope, cut: false };
        this.disk.rewind =
            Some(Rewind { marker, back_to, keys, settled: scope == RewindScope::Log });
        self.marks.reach(match scope {
            RewindScope::Log => Mark::RewindOfLog,
            RewindScope::Keys => Mark::RewindOfKeys,
            RewindScope::Everything => Mark::RewindOfEverything,
        });
        if self.random.chance(if scope == RewindScope::Keys { 800 } else { 100 }) {
            let soon = self.random.between(0, 400 * MS);
            self.queue.after(soon, Happening::World(Turn::Strike(node)));
        }
        self.tell(node, Event::RewindMarked { scope });
    }

    /// Removes the parted records.
    pub(crate) fn cut_log(&mut self, node: NodeIndex, parting: SequenceNumber) {
        let this = &mut self.nodes[node];
        let Some(process) = &mut this.process else { return };
        let scope = this.disk.rewind.as_ref().map(|rewind| rewind.marker.scope);
        assert_ne!(scope, Some(RewindScope::Everything), "such a log is never cut");
        let durable = this.disk.log.durable_records().to_vec();
        this.disk.former_ends.extend(this.disk.log.last_durable());
        this.disk.log.cut_behind(&self.book, parting.as_u64() - 1);
        let end = this.disk.log.last();
        process.reported = end;
        process.committed = process.committed.filter(|&id| self.book.holds(end, id));
        if let Some(rewind) = &mut this.disk.rewind {
            rewind.marker.cut = true;
        }
        self.facts.push(Fact::Removed { node, records: durable, kept: end, cut: true });
        let log = self.log_state(node);
        self.tell(node, Event::LogCut(log));
    }

    /// Flushes the state, which has passed all that was fetched, and only then takes the marker away.
    pub(crate) fn end_rewind(&mut self, node: NodeIndex) {
        let Node { process, disk, .. } = &mut self.nodes[node];
        if let (Some(process), Some(rewind)) = (process, disk.rewind.take())
            && rewind.marker.scope != RewindScope::Log
        {
            disk.flushed = process.state;
        }
    }

    /// Names the next keys to fetch. Once there are none the state stands at the parting point, or
    /// where it had got from there before they were fetched again: closing the store flushes it.
    pub(crate) fn list_keys(&mut self, node: NodeIndex, restart: bool) {
        let this = &mut self.nodes[node];
        let (Some(process), Some(rewind)) = (&mut this.process, &mut this.disk.rewind) else {
            return;
        };
        if restart {
            if rewind.settled {
                this.disk.flushed = process.state;
                rewind.back_to = self.book.number(process.state.applied);
            }
            rewind.settled = false;
            rewind.keys.values_mut().for_each(|fetched| *fetched = false);
        }
        let missing = rewind.keys.iter().filter(|&(_, &fetched)| !fetched);
        let request: Vec<u8> = missing.map(|(&key, _)| key as u8).take(BATCH).collect();
        if !request.is_empty() {
            let (request, settles_at) = (Bytes::from(request), SequenceNumber::new(rewind.back_to));
            self.tell(node, Event::KeysListed { request, settles_at });
            return;
        }
        if !rewind.settled {
            let before = rewind.back_to;
            let tip = this.disk.log.last_durable();
            process.state.applied = tip.and_then(|tip| self.book.ancestor(tip, before));
            this.disk.flushed = process.state;
            rewind.settled = true;
            let applied = SequenceNumber::new(before);
            self.tell(node, Event::Progress { visible: applied, applied });
        }
        self.tell(node, Event::KeysInPlace);
        self.fold_later(node);
    }

    /// At the master: reads keys whole, as readers see them.
    pub(crate) fn read_keys(&mut self, node: NodeIndex, link: Link, request: &[u8]) {
        let Some((visible, values)) = self.nodes[node].read(&self.book) else { return };
        let mut reply = Vec::new();
        for &key in request {
            reply.push(key);
            reply.extend_from_slice(&values[usize::from(key)].to_le_bytes());
        }
        let at = visible.map(|id| self.book.position(id));
        self.tell(node, Event::KeysRead { link, reply: Bytes::from(reply), at });
    }

    /// Puts fetched keys in place of what the state has of them.
    pub(crate) fn apply_keys(&mut self, node: NodeIndex, reply: &[u8]) {
        let this = &mut self.nodes[node];
        let (Some(process), Some(rewind)) = (&mut this.process, &mut this.disk.rewind) else {
            return;
        };
        let mut missing = rewind.keys.iter().filter(|&(_, &fetched)| !fetched).map(|(&key, _)| key);
        if !reply.chunks_exact(9).all(|entry| missing.next() == Some(usize::from(entry[0]))) {
            // The answer to an older request.
            self.tell(node, Event::KeysUseless);
            return;
        }
        for entry in reply.chunks_exact(9) {
            let key = usize::from(entry[0]);
            let mut value = [0; 8];
            value.copy_from_slice(&entry[1..]);
            process.state.values[key] = u64::from_le_bytes(value);
            rewind.keys.insert(key, true);
        }
        this.disk.flushed = process.state;
        self.tell(node, Event::KeysApplied);
    }
}

fn wider(one: RewindScope, other: RewindScope) -> RewindScope {
    let rank = |scope| match scope {
        RewindScope::Log => 0,
        RewindScope::Keys => 1,
        RewindScope::Everything => 2,
    };
    if rank(one) >= rank(other) { one } else { other }
}
