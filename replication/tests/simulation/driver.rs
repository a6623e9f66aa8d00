//! What a core asks for is done: the driver, as far as it matters here.

use larder_replication::core::{Action, Alert, Chunk, Event, ReadGate, ReplicaSet, Role};
use larder_types::{Epoch, Position};

use crate::{
    book::{Body, Book, RecordId},
    cluster::{Cluster, Local},
    history::Fact,
    marks::Mark,
    network::NodeIndex,
    steps::Step,
};

impl Cluster {
    /// Does, or begins to do, one thing that the core of a node asked for.
    pub(crate) fn perform(&mut self, node: NodeIndex, action: Action) {
        match action {
            Action::Connect { peer } => self.dial(node, self.node_named(&peer)),
            Action::Send { link, message } => self.send(node, link, message),
            Action::Close { link, .. } => self.leave(node, link.0),
            Action::Append { chunk } => self.append_chunk(node, &chunk),
            Action::BeginEpoch { epoch } => self.begin_epoch(node, epoch),
            Action::AppendReplicaSet { set } => {
                if self.lost_disks.iter().any(|&(lost, _)| self.is_new_member(lost, &set)) {
                    self.marks.reach(Mark::NewDiskAdmitted);
                }
                self.append(node, Body::Replicas(set));
            }
            Action::Commit { position } => self.commit(node, position),
            Action::Persist { standing, token } => {
                self.nodes[node].disk.standing.write(standing);
                self.later(node, self.options.fsync, Local::Step(Step::Stored(token)));
            }
            Action::RetainFrom { seq } => self.with(node, |process| process.retain = Some(seq)),
            Action::PauseWrites => {
                self.with(node, |process| {
                    process.writes_paused = true;
                    process.pausing = true;
                });
                self.told_when_quiet(node);
            }
            Action::ResumeWrites => self.with(node, |process| process.writes_paused = false),
            Action::Become(role) => self.become_role(node, role),
            Action::Reads(gate) => self.open_gate(node, gate),
            Action::EndRewind => self.end_rewind(node),
            Action::Reached { request, reached, replicas } => {
                self.reached(node, request, reached, replicas);
            }
            Action::Answer { request, outcome } => self.answered(request, outcome),
            Action::Alert(alert) => self.alert(node, alert),
            Action::EndSnapshot { link } => self.end_snapshot(node, link),
            // No log here waits for room.
            Action::GiveUpAppending => {}
            Action::Read { .. }
            | Action::CreateLog
            | Action::StartRewind { .. }
            | Action::CutLog { .. }
            | Action::ListKeys { .. }
            | Action::ReadKeys { .. }
            | Action::ApplyKeys { .. }
            | Action::ServeSnapshot { .. }
            | Action::StartSnapshot { .. } => self.begin_step(node, action),
        }
    }

    /// Changes a node's process, which runs, because its core has just asked for it.
    pub(crate) fn with(&mut self, node: NodeIndex, change: impl FnOnce(&mut crate::node::Process)) {
        if let Some(process) = self.nodes[node].process.as_mut() {
            change(process);
        }
    }

    /// Whether a node that lost a disk is a member with the one that it has now.
    fn is_new_member(&self, node: NodeIndex, set: &ReplicaSet) -> bool {
        set.member(&self.nodes[node].replica()).is_some()
    }

    fn begin_epoch(&mut self, node: NodeIndex, epoch: Epoch) {
        self.with(node, |process| process.epoch = Some(epoch));
        self.append(node, Body::Epoch);
    }

    /// Appends a record of the node's own.
    pub(crate) fn append(&mut self, node: NodeIndex, body: Body) -> RecordId {
        let this = &mut self.nodes[node];
        let epoch = this.process.as_ref().and_then(|process| process.epoch);
        let epoch = epoch.expect("only a master that has begun its epoch appends");
        let id = self.book.write(this.disk.log.last(), epoch, body);
        this.disk.log.append(id);
        self.sync(node);
        id
    }

    fn append_chunk(&mut self, node: NodeIndex, chunk: &Chunk) {
        let held = self.nodes[node].disk.rewind.as_ref().is_some_and(|rewind| !rewind.settled);
        assert!(!held, "node {node} appends while its log is closed for a rewind");
        let log = &mut self.nodes[node].disk.log;
        let records = Book::decode(&chunk.frames);
        let before = self.book.get(records[0]).previous;
        let gap = self.book.number(before) > self.book.number(log.last());
        if gap && self.planted == Some(larder_replication::core::Planted::TrimmedSkipped) {
            *log = crate::disk::Log::behind(before);
        }
        if before != log.last() {
            let (book, last) = (&self.book, log.last());
            let why = format!(
                "record {} continues {:?}, the log ends with {:?}",
                book.position(records[0]),
                before.map(|id| book.position(id)),
                last.map(|id| book.position(id)),
            );
            self.facts.push(Fact::AppendRefused { node, why: why.clone() });
            self.later(node, 0, Local::Event(Event::AppendRefused { why: Some(why) }));
            return;
        }
        records.into_iter().for_each(|id| log.append(id));
        self.with(node, |process| process.epoch = None);
        self.sync(node);
    }

    /// Makes records visible, and answers who waits for that.
    fn commit(&mut self, node: NodeIndex, position: Position) {
        let this = &self.nodes[node];
        let epoch = this.running().and_then(|process| process.epoch);
        let master = epoch == Some(position.epoch);
        let tip = this.disk.log.last_durable();
        let record = tip.and_then(|tip| self.book.ancestor(tip, position.seq.as_u64()));
        let record = record.filter(|&id| self.book.position(id) == position);
        let Some(record) = record else {
            self.facts.push(Fact::CommittedWithoutRecord { node, position });
            return;
        };
        self.with(node, |process| process.committed = Some(record));
        self.facts.push(Fact::Committed { node, record, master });
        self.release_replies(node, record);
        self.fold_later(node);
    }

    fn become_role(&mut self, node: NodeIndex, role: Role) {
        let led = self.nodes[node].leads().is_some();
        let leads = matches!(role, Role::Master { .. });
        if led && !leads {
            self.unanswer(node, Mark::WriteUnknown);
        }
        if role == Role::Fenced {
            self.marks.reach(Mark::OldMasterFenced);
        }
        self.with(node, |process| {
            if !leads {
                process.epoch = None;
                process.writes_paused = false;
            }
            process.role = role;
        });
    }

    fn open_gate(&mut self, node: NodeIndex, gate: ReadGate) {
        let before = self.nodes[node].running().map(|process| process.gate);
        if matches!(before, Some(ReadGate::Until(_))) && gate == ReadGate::Closed {
            self.marks.reach(Mark::LeaseLost);
        }
        self.with(node, |process| process.gate = gate);
        self.facts.push(Fact::Gate);
    }

    fn alert(&mut self, node: NodeIndex, alert: Alert) {
        match &alert {
            Alert::Detached { .. } => self.marks.reach(Mark::Detached),
            Alert::Conflict { .. } => self.operator.conflict = true,
            Alert::LostAcknowledged { .. } => self.marks.reach(Mark::LostAcknowledged),
            _ => {}
        }
        self.facts.push(Fact::Alert { node, alert });
    }
}
