//! The replica set, at a master: who is admitted, one change at a time.
//!
//! A change is a record of the log. The next one waits until the one before, and a record of the
//! master's own epoch, are with a majority. A voter whose disk is new is first taken out as what it
//! was, and only then admitted as what it is: were both one change, two majorities need not meet.
//! Of who has no vote the disk is changed at once, so that the set goes on knowing that it has none.

use larder_types::{AckLevel, DiskId, NodeId, ReplicaId};

use super::{
    Action, Core, Member, Outcome, Part, Refusal, ReplicaSet, RequestId, commit::can_meet,
    log_view::LogView, master::Leading, sender::Stage,
};

/// A replica is admitted when it lacks no more records than this.
const ADMIT_WITHIN_RECORDS: u64 = 1_024;

/// Changes of the replica set.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Whether a set is being appended.
    appending: bool,
    /// What an operator asked for, and has not been answered.
    asked: Option<(RequestId, Ask)>,
}

/// A change that an operator asked for.
#[derive(Clone, Debug)]
enum Ask {
    Add(Member),
    Remove(NodeId),
}

impl Core {
    /// Appends the next change of the replica set, if there is one and its time has come.
    pub(super) fn change_replica_set(&mut self) {
        let Some((log, leading)) = self.leading() else { return };
        let is_settled = leading.set_is_settled(log);
        if leading.changes.appending || !is_settled || leading.switching.is_some() {
            return;
        }
        let Some(set) = self.next_set(log, leading) else { return };
        if let Some((_, leading)) = self.leading_mut() {
            leading.changes.appending = true;
            self.out.push(Action::AppendReplicaSet { set });
        }
    }

    fn next_set(&self, log: &LogView, leading: &Leading) -> Option<ReplicaSet> {
        let empty = ReplicaSet::default();
        let set = log.set().map_or(&empty, |placed| &placed.set);
        let me = Member { id: leading.me.clone(), region: self.config.region.clone(), voter: true };
        if let Some(next) = admit(set, &me) {
            return Some(next);
        }
        if let Some((_, ask)) = &leading.changes.asked {
            let next = match ask {
                Ask::Add(member) => admit(&set.without_removed(&member.id.node), member),
                Ask::Remove(node) => Some(set.removing(node)),
            };
            if let Some(next) = next.filter(|next| next != set) {
                return Some(next);
            }
        }
        self.config.peers.iter().find_map(|peer| {
            let slave = leading.slaves.get(&peer.node)?;
            let removed = set.removed.contains(&peer.node);
            let id = ReplicaId { node: peer.node.clone(), disk: slave.disk };
            if removed || !slave.is_within(log, ADMIT_WITHIN_RECORDS) || set.member(&id).is_some() {
                return None;
            }
            let voter = set.on_node(&peer.node).map_or(peer.voter, |known| known.voter);
            admit(set, &Member { id, region: peer.region.clone(), voter })
        })
    }

    /// A replica set is durable here: it counts from now on.
    pub(super) fn replica_set_changed(&mut self) {
        let (Some(log), Part::Leading(leading)) = (&self.log, &mut self.part) else { return };
        leading.changes.appending = false;
        let Some(placed) = log.set() else { return };
        let done = leading.changes.asked.take_if(|(_, ask)| match ask {
            Ask::Add(member) => placed.set.members.contains(member),
            Ask::Remove(node) => placed.set.on_node(node).is_none(),
        });
        if let Some((request, _)) = done {
            self.answer(request, Ok(Outcome::Accepted));
        }
        self.recount_lease();
    }

    pub(super) fn add_replica(&mut self, request: RequestId, node: NodeId, voter: bool) {
        let Some((log, leading)) = self.leading() else { return self.refuse(request) };
        let peer = self.config.peers.iter().find(|peer| peer.node == node);
        let disk = leading.slaves.get(&node).filter(|it| it.is_within(log, ADMIT_WITHIN_RECORDS));
        let (Some(peer), Some(slave)) = (peer, disk) else {
            let why = "it is not caught up: it has to be configured, running and streaming";
            return self.answer(request, Err(Refusal::Unfit { node, why }));
        };
        let set = log.set().map(|placed| &placed.set);
        let is_voter = |set: &&ReplicaSet| set.on_node(&node).is_some_and(|member| member.voter);
        let loses = set.filter(is_voter).filter(|_| !voter);
        let refusal =
            loses.and_then(|set| self.hinders_change(&node, set, &set.without_vote(&node)));
        let id = ReplicaId { node, disk: slave.disk };
        let member = Member { id, region: peer.region.clone(), voter };
        match refusal {
            Some(refusal) => self.answer(request, Err(refusal)),
            None => self.ask_change(request, Ask::Add(member)),
        }
    }

    pub(super) fn remove_replica(&mut self, request: RequestId, node: NodeId) {
        let Some((log, _)) = self.leading() else { return self.refuse(request) };
        let set = log.set().map(|placed| &placed.set);
        let Some(set) = set.filter(|set| set.on_node(&node).is_some()) else {
            let why = "it is not in the replica set";
            return self.answer(request, Err(Refusal::Unfit { node, why }));
        };
        if node == self.config.node {
            let why = "it is the master: switch over first";
            return self.answer(request, Err(Refusal::Unfit { node, why }));
        }
        match self.hinders_change(&node, set, &set.removing(&node)) {
            Some(refusal) => self.answer(request, Err(refusal)),
            None => self.ask_change(request, Ask::Remove(node)),
        }
    }

    /// What hinders a change that takes a node, or its vote, out of the set.
    fn hinders_change(
        &self,
        node: &NodeId,
        set: &ReplicaSet,
        next: &ReplicaSet,
    ) -> Option<Refusal> {
        let (level, region) = (self.config.level, &self.config.region);
        if can_meet(set, level, region) && !can_meet(next, level, region) {
            return Some(Refusal::LevelUnmet { level });
        }
        let why = "of the voters that would remain, no majority streams: nothing could follow";
        let stuck = level != AckLevel::Local && !self.majority_streams(next);
        stuck.then(|| Refusal::Unfit { node: node.clone(), why })
    }

    /// Whether the next change could be settled by the voters of a set that stream now.
    fn majority_streams(&self, set: &ReplicaSet) -> bool {
        let Some((log, leading)) = self.leading() else { return false };
        let streams = |member: &&Member| {
            let slave = leading.slave_of(&self.config, member);
            member.id == leading.me
                || slave.is_some_and(|slave| slave.is_within(log, ADMIT_WITHIN_RECORDS))
        };
        set.voters().filter(streams).count() > set.voters().count() / 2
    }

    fn ask_change(&mut self, request: RequestId, ask: Ask) {
        let Part::Leading(leading) = &mut self.part else { return };
        if leading.changes.asked.is_some() {
            let what = "another change of the replica set";
            return self.answer(request, Err(Refusal::Busy { what }));
        }
        let placed = self.log.as_ref().and_then(LogView::set);
        let already = matches!((&ask, placed), (Ask::Add(member), Some(placed))
            if placed.set.members.contains(member));
        if already {
            return self.answer(request, Ok(Outcome::Accepted));
        }
        leading.changes.asked = Some((request, ask));
        self.change_replica_set();
    }

    /// Has a slave take a snapshot in place of what it has.
    pub(super) fn resync(&mut self, request: RequestId, node: NodeId) {
        let Some((_, leading)) = self.leading_mut() else { return self.refuse(request) };
        let slave = leading.slaves.get_mut(&node).filter(|slave| slave.stage != Stage::Snapshot);
        match slave.and_then(|slave| Some((slave.link?, slave))) {
            Some((link, slave)) => {
                slave.ordered = true;
                self.give_snapshot(link, node, 0);
                self.answer(request, Ok(Outcome::Accepted));
            }
            None => {
                let why = "it is not connected, or is being given a snapshot";
                self.answer(request, Err(Refusal::Unfit { node, why }));
            }
        }
    }

    /// Answers what waits for a change: this node is the master no more.
    pub(super) fn end_changes(&mut self, changes: Changes) {
        if let Some((request, _)) = changes.asked {
            self.refuse(request);
        }
    }
}

/// The next step toward having `member` in the set; `None` if it is in it, or there is no room.
fn admit(set: &ReplicaSet, member: &Member) -> Option<ReplicaSet> {
    let mut next = set.clone();
    match next.members.binary_search_by(|other| other.id.node.cmp(&member.id.node)) {
        Ok(at) if next.members[at].id.disk != member.id.disk => {
            if next.members[at].voter {
                next.members.remove(at);
            } else {
                next.members[at] = Member { voter: false, ..member.clone() };
            }
        }
        Ok(at) if next.members[at].voter != member.voter => next.members[at].voter = member.voter,
        Ok(_) => return None,
        Err(_) if next.members.len() == ReplicaSet::MEMBERS_MAX => return None,
        Err(at) => next.members.insert(at, member.clone()),
    }
    Some(next)
}

impl ReplicaSet {
    /// Without this node, which is remembered as removed.
    fn removing(&self, node: &NodeId) -> Self {
        let mut next = self.without_removed(node);
        next.members.retain(|member| member.id.node != *node);
        if next.removed.len() == Self::REMOVED_MAX {
            next.removed.remove(0);
        }
        next.removed.push(node.clone());
        next
    }

    /// With this node counting in no majority.
    fn without_vote(&self, node: &NodeId) -> Self {
        let mut next = self.clone();
        let of_node = next.members.iter_mut().filter(|member| member.id.node == *node);
        of_node.for_each(|member| member.voter = false);
        next
    }

    /// With this node no longer remembered as removed.
    fn without_removed(&self, node: &NodeId) -> Self {
        let mut next = self.clone();
        next.removed.retain(|removed| removed != node);
        next
    }
}

/// Where a member may be: on this disk of this node.
impl Core {
    /// This replica's identity.
    pub(super) fn me(&self) -> ReplicaId {
        ReplicaId { node: self.config.node.clone(), disk: self.standing.disk }
    }

    /// Whether a member of this node counts although its disk is another. It never does.
    pub(super) fn counts(&self, set: &ReplicaSet, node: &NodeId, disk: DiskId) -> bool {
        set.on_node(node).is_some_and(|member| {
            member.id.disk == disk || super::planted::planted!(self.config, EmptyDiskVotes)
        })
    }
}
