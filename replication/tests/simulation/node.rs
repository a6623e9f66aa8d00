//! A node: a disk, a clock, and while it runs a process with a core in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use larder_replication::core::{
    Boot, Core, Link, LogState, PlacedSet, ReadGate, RequestId, Role, Time as Stamp,
};
use larder_types::{Epoch, EpochStart, NodeId, ReplicaId, SequenceNumber};

use crate::{
    book::{Body, Book, RecordId, Values},
    disk::{Disk, State},
    queue::Time,
};

/// A node's monotonic clock: it starts anywhere at each boot, and runs a little fast or slow. It does
/// not step: nobody can set CLOCK_BOOTTIME, corrections only slew it, and a core reads no other. It
/// goes on while a process, or its machine, stands still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) started: Time,
    pub(crate) origin: u64,
    /// Parts per million that it runs fast.
    pub(crate) fast: i64,
    /// For how long it stood still: the planted fault alone lets it.
    pub(crate) stood: Time,
}

impl Clock {
    pub(crate) fn read(self, now: Time) -> Stamp {
        let real = (now - self.started).saturating_sub(self.stood) as i64;
        Stamp(self.origin + (real + real * self.fast / 1_000_000) as u64)
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) region: &'static str,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    /// Counts its starts; what was meant for an earlier life does not reach it.
    pub(crate) life: u64,
    /// Until when its process stands still.
    pub(crate) paused_until: Time,
    pub(crate) process: Option<Process>,
}

/// What is in a running node's memory.
pub(crate) struct Process {
    pub(crate) core: Core,
    pub(crate) links: BTreeMap<Link, NodeId>,
    pub(crate) role: Role,
    pub(crate) gate: ReadGate,
    /// The epoch that it writes in.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) writes_paused: bool,
    /// The core waits for what is under way to become durable.
    pub(crate) pausing: bool,
    pub(crate) state: State,
    pub(crate) committed: Option<RecordId>,
    /// The durable end that the core was told of.
    pub(crate) reported: Option<RecordId>,
    pub(crate) syncing: bool,
    pub(crate) folding: bool,
    /// Storage works at a step of a rewind.
    pub(crate) rewinding: bool,
    /// The first record to keep for others, if any, as the core asked; all until it has asked.
    pub(crate) retain: Option<Option<SequenceNumber>>,
    /// Writes that wait for their commit, by their number among all writes.
    pub(crate) waiting: VecDeque<usize>,
    /// What clients wait for here.
    pub(crate) asked: BTreeSet<RequestId>,
}

impl Node {
    /// Who it is: its name, and what its disk is called now.
    pub(crate) fn replica(&self) -> ReplicaId {
        let disk = self.disk.standing.read().map_or(self.disk.ids[0], |standing| standing.disk);
        ReplicaId { node: self.name.clone(), disk }
    }

    pub(crate) fn running(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The epoch in which it is the master, if it thinks so.
    pub(crate) fn leads(&self) -> Option<Epoch> {
        let process = self.process.as_ref()?;
        if let Role::Master { epoch } = process.role { Some(epoch) } else { None }
    }

    /// What readers see: what has been folded, or is durable and committed.
    pub(crate) fn visible(&self, book: &Book) -> Option<RecordId> {
        let process = self.process.as_ref()?;
        let committed =
            process.committed.filter(|&id| book.holds(self.disk.log.last_durable(), id));
        if book.number(committed) > book.number(process.state.applied) {
            committed
        } else {
            process.state.applied
        }
    }

    /// What a reader finds: the state, and over it what is visible and not yet folded.
    pub(crate) fn read(&self, book: &Book) -> Option<(Option<RecordId>, Values)> {
        let process = self.process.as_ref()?;
        let visible = self.visible(book);
        let mut unfolded: Vec<_> =
            book.path(visible).take_while(|&id| Some(id) != process.state.applied).collect();
        let mut values = process.state.values;
        while let Some(id) = unfolded.pop() {
            fold(&mut values, &book.get(id).body);
        }
        Some((visible, values))
    }

    /// What is on the disk, as a start finds it.
    pub(crate) fn boot(&self, book: &Book, entropy: u64) -> Boot {
        Boot {
            standing: self.disk.standing.read().expect("it is made with the disk").clone(),
            log: self.log_state(book),
            marker: self.disk.rewind.as_ref().map(|rewind| rewind.marker),
            entropy,
        }
    }

    /// The log as the core needs to know it: as little of it as it is promised.
    pub(crate) fn log_state(&self, book: &Book) -> Option<LogState> {
        let tip = self.disk.log.last_durable();
        let first = self.disk.log.first(book);
        let applied = self.process.as_ref().map_or(self.disk.flushed, |process| process.state);
        Some(LogState {
            id: self.disk.log_id?,
            first: SequenceNumber::new(first)?,
            tail: book.tail(tip),
            epochs: epochs(book, tip, first),
            sets: newest_set(book, tip).into_iter().collect(),
            applied: SequenceNumber::new(book.number(applied.applied)),
        })
    }
}

/// Does to `values` what a record does.
pub(crate) fn fold(values: &mut Values, body: &Body) {
    match *body {
        Body::Put { key, value } => values[key] = value,
        Body::Clear => *values = Values::default(),
        Body::Epoch | Body::Replicas(_) => {}
    }
}

/// Where the epochs began that are in effect right before `first` or behind it, oldest first.
fn epochs(book: &Book, tip: Option<RecordId>, first: u64) -> Vec<EpochStart> {
    let begins = |&id: &RecordId| book.get(id).body == Body::Epoch;
    let mut starts = Vec::new();
    for id in book.path(tip).filter(begins) {
        let position = book.position(id);
        starts.push(EpochStart { epoch: position.epoch, first: position.seq });
        if position.seq.as_u64() < first {
            break;
        }
    }
    starts.reverse();
    starts
}

/// The replica set in effect behind `tip`.
pub(crate) fn newest_set(book: &Book, tip: Option<RecordId>) -> Option<PlacedSet> {
    book.path(tip).find_map(|id| match &book.get(id).body {
        Body::Replicas(set) => Some(PlacedSet { seq: book.position(id).seq, set: set.clone() }),
        _ => None,
    })
}
