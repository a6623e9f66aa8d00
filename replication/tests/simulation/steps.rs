//! What the storage of a node does in its own time, and tells the core when it is done.

use bytes::Bytes;
use larder_replication::core::{
    Action, Chunk, Durable, Event, Link, LogState, PlacedSet, Planted, Session, Token,
};
use larder_types::{EpochStart, LogId, SequenceNumber};

use crate::{
    book::{Body, Book, FRAME_BYTES, RecordId},
    cluster::{Cluster, Local},
    history::Fact,
    marks::Mark,
    network::NodeIndex,
    node::fold,
    queue::MS,
};

/// Something that the storage does at once when its time has come.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Everything up to this record has been synced.
    Synced(RecordId),
    /// The oldest standing under way is on the disk.
    Stored(Token),
    /// Fold what is visible.
    Fold,
    /// Flush the state, and remove old records.
    Trim,
    /// What the core asked for.
    Asked(Action),
    /// A snapshot has been transferred.
    Install { link: Link, session: Session },
}

/// Records that one turn of the fold takes.
const FOLD_MAX: usize = 40;

impl Cluster {
    /// Begins what the core asked for.
    pub(crate) fn begin_step(&mut self, node: NodeIndex, action: Action) {
        let rewinds = is_of_rewind(&action);
        if rewinds || matches!(action, Action::StartSnapshot { .. }) {
            self.with(node, |process| {
                assert!(!process.rewinding, "node {node} is at work with its directory already");
                process.rewinding = rewinds;
            });
        }
        let time = match action {
            Action::Read { .. } | Action::ReadKeys { .. } => self.random.between(10, 500),
            Action::StartRewind { .. } | Action::CutLog { .. } | Action::ServeSnapshot { .. } => {
                self.random.between(MS, 200 * MS)
            }
            _ => self.random.around(self.options.fsync),
        };
        self.later(node, time, Local::Step(Step::Asked(action)));
    }

    pub(crate) fn storage_step(&mut self, node: NodeIndex, step: Step) {
        match step {
            Step::Synced(id) => self.synced(node, id),
            Step::Stored(token) => {
                let disk = &mut self.nodes[node].disk;
                disk.standing.sync();
                let name = disk.standing.read().map_or(disk.ids[0], |standing| standing.disk);
                if !disk.ids.contains(&name) {
                    disk.ids.push(name);
                }
                self.tell(node, Event::Stored { token });
            }
            Step::Fold => self.fold(node),
            Step::Trim => self.trim(node),
            Step::Install { link, session } => self.install_snapshot(node, link, session),
            Step::Asked(action) => self.asked(node, action),
        }
    }

    fn asked(&mut self, node: NodeIndex, action: Action) {
        if is_of_rewind(&action) {
            self.with(node, |process| process.rewinding = false);
        }
        match action {
            Action::Read { link, session, from, bytes_max } => {
                self.read_records(node, link, session, from, bytes_max);
            }
            Action::CreateLog => {
                let half = self.random.bits().to_le_bytes();
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&half);
                let log = LogId::from_bytes(bytes);
                self.nodes[node].disk.log_id = Some(log);
                self.tell(node, Event::LogCreated { log });
            }
            Action::StartRewind { parting } => self.start_rewind(node, parting),
            Action::CutLog { parting } => self.cut_log(node, parting),
            Action::ListKeys { restart } => self.list_keys(node, restart),
            Action::ReadKeys { link, request } => self.read_keys(node, link, &request),
            Action::ApplyKeys { reply } => self.apply_keys(node, &reply),
            Action::ServeSnapshot { link, session } => self.serve_snapshot(node, link, session),
            Action::StartSnapshot { link, session, log } => {
                self.want_snapshot(node, link, session, log);
            }
            other => unreachable!("{other:?} is done at once"),
        }
    }

    /// Begins an fsync, unless one is under way.
    pub(crate) fn sync(&mut self, node: NodeIndex) {
        let time = self.random.around(self.options.fsync);
        let this = &mut self.nodes[node];
        let (Some(process), Some(last)) = (&mut this.process, this.disk.log.last()) else { return };
        if process.syncing || this.disk.log.last_durable() == Some(last) {
            return;
        }
        process.syncing = true;
        self.later(node, time, Local::Step(Step::Synced(last)));
    }

    fn synced(&mut self, node: NodeIndex, id: RecordId) {
        let this = &mut self.nodes[node];
        this.disk.log.synced(id);
        let end = this.disk.log.last_durable();
        let Some(process) = &mut this.process else { return };
        process.syncing = false;
        let reported = std::mem::replace(&mut process.reported, end);
        let epoch = process.epoch;
        self.sync(node);
        if reported != end {
            let durable = self.news(reported, end);
            let own = durable.epochs.iter().find(|start| Some(start.epoch) == epoch);
            self.facts.extend(own.map(|start| Fact::Began { node, epoch: start.epoch }));
            self.tell(node, Event::Durable(durable));
            self.fold_later(node);
        }
        self.told_when_quiet(node);
    }

    /// What a log has behind `reported`.
    fn news(&self, reported: Option<RecordId>, end: Option<RecordId>) -> Durable {
        let mut new: Vec<_> = self.book.path(end).take_while(|&id| Some(id) != reported).collect();
        new.reverse();
        let mut durable =
            Durable { tail: self.book.tail(end), epochs: Vec::new(), sets: Vec::new() };
        for id in new {
            let record = self.book.get(id);
            let seq = record.position.seq;
            match &record.body {
                Body::Epoch => {
                    let start = EpochStart { epoch: record.position.epoch, first: seq };
                    durable.epochs.push(start);
                }
                Body::Replicas(set) => durable.sets.push(PlacedSet { seq, set: set.clone() }),
                Body::Put { .. } | Body::Clear => {}
            }
        }
        durable
    }

    /// Tells a core that has paused writes when nothing is under way any more.
    pub(crate) fn told_when_quiet(&mut self, node: NodeIndex) {
        let this = &mut self.nodes[node];
        let Some(process) = &mut this.process else { return };
        if process.pausing && this.disk.log.last() == process.reported {
            process.pausing = false;
            self.later(node, 0, Local::Event(Event::WritesPaused));
        }
    }

    fn read_records(
        &mut self,
        node: NodeIndex,
        link: Link,
        session: Session,
        from: SequenceNumber,
        bytes_max: usize,
    ) {
        let log = &self.nodes[node].disk.log;
        let first = log.first(&self.book);
        if from.as_u64() < first {
            self.marks.reach(Mark::ReadTrimmed);
            let first = SequenceNumber::new(first).expect("records are numbered from 1");
            self.tell(node, Event::ReadTrimmed { link, session, first });
            return;
        }
        let skip = (from.as_u64() - first) as usize;
        let count = (bytes_max / FRAME_BYTES).max(1);
        let records: Vec<_> =
            log.durable_records().iter().skip(skip).take(count).copied().collect();
        let (Some(&start), Some(&last)) = (records.first(), records.last()) else { return };
        let (prev, end) = (self.book.get(start).previous, self.book.get(last));
        let chunk = Chunk {
            prev: self.book.tail(prev),
            last: end.position,
            last_crc: end.crc,
            frames: Bytes::from(Book::encode(&records)),
        };
        self.tell(node, Event::Records { link, session, chunk });
    }

    /// Folds soon what has become visible, unless a rewind holds the state.
    pub(crate) fn fold_later(&mut self, node: NodeIndex) {
        let visible = self.nodes[node].visible(&self.book);
        let held = self.nodes[node].disk.rewind.as_ref().is_some_and(|rewind| !rewind.settled);
        let time = self.random.between(100, 20 * MS);
        let Some(process) = &mut self.nodes[node].process else { return };
        let behind = self.book.number(visible) > self.book.number(process.state.applied);
        if behind && !held && !process.folding {
            process.folding = true;
            self.later(node, time, Local::Step(Step::Fold));
        }
    }

    /// Folds by number, as a store does that looks only whether the next record is the next one.
    fn fold(&mut self, node: NodeIndex) {
        let visible = self.nodes[node].visible(&self.book);
        let this = &mut self.nodes[node];
        let Some(process) = &mut this.process else { return };
        process.folding = false;
        if this.disk.rewind.as_ref().is_some_and(|rewind| !rewind.settled) {
            return;
        }
        let end = self.book.number(visible);
        let mut next = self.book.number(process.state.applied) + 1;
        if self.planted == Some(Planted::TrimmedSkipped) {
            next = next.max(this.disk.log.first(&self.book));
        }
        for seq in (next..=end).take(FOLD_MAX) {
            let Some(record) = this.disk.log.get(&self.book, seq) else { break };
            fold(&mut process.state.values, &self.book.get(record).body);
            let before = process.state.applied.replace(record);
            self.facts.push(Fact::Applied { node, before, record });
        }
        let applied = SequenceNumber::new(self.book.number(process.state.applied));
        let visible = SequenceNumber::new(end);
        self.fold_later(node);
        self.tell(node, Event::Progress { visible, applied });
    }

    /// Flushes the state, and removes what neither it nor another replica needs, or what is more
    /// than the cap allows to keep.
    fn trim(&mut self, node: NodeIndex) {
        let next = self.random.around(self.options.trim_every);
        self.later(node, next, Local::Step(Step::Trim));
        let pinned = self.pinned(node);
        let this = &mut self.nodes[node];
        let Some(process) = &this.process else { return };
        if this.disk.rewind.as_ref().is_some_and(|rewind| !rewind.settled || !rewind.marker.cut) {
            return;
        }
        if self.random.chance(700) {
            this.disk.flushed = process.state;
        }
        let flushed = self.book.number(this.disk.flushed.applied) + 1;
        let tail = self.book.number(this.disk.log.last_durable());
        let asked = process.retain.map(|seq| seq.map_or(flushed, SequenceNumber::as_u64));
        let kept = asked.unwrap_or(0);
        let cap = (tail + 1).saturating_sub(self.options.retain);
        let floor = flushed.min(kept.min(pinned).max(cap));
        let first = this.disk.log.first(&self.book);
        if floor <= first {
            return;
        }
        let trimmed = this.disk.log.trim(&self.book, floor);
        this.disk.trimmed.extend(&trimmed);
        if cap <= kept {
            self.facts.push(Fact::Trimmed { node, records: trimmed });
        }
        let first = this.disk.log.first(&self.book);
        let first = SequenceNumber::new(first).expect("records are numbered from 1");
        self.tell(node, Event::Trimmed { first });
    }

    pub(crate) fn log_state(&self, node: NodeIndex) -> LogState {
        self.nodes[node].log_state(&self.book).expect("it has a log")
    }
}

/// Whether storage works with the directory of a closed store at it.
fn is_of_rewind(action: &Action) -> bool {
    matches!(
        action,
        Action::StartRewind { .. }
            | Action::CutLog { .. }
            | Action::ListKeys { .. }
            | Action::ApplyKeys { .. }
    )
}
