//! The operator: promotes, switches over, changes the replica set.

use std::collections::BTreeMap;

use larder_replication::core::{Event, Outcome, PlacedSet, Refusal, Request, RequestId, Role};

use crate::{
    cluster::Cluster,
    marks::Mark,
    network::NodeIndex,
    node::{Node, newest_set},
    queue::Time,
};

/// What was asked and not yet answered.
#[derive(Default)]
pub(crate) struct Operator {
    asked: BTreeMap<RequestId, (NodeIndex, u64, Request, Time)>,
    next: u64,
    /// An alert said that two logs claim the same records.
    pub(crate) conflict: bool,
    /// The term that the newest refusal said could be forced, and where.
    pub(crate) could_force: Option<(NodeIndex, u32)>,
}

/// Numbers of requests begin here, above those of clients.
const REQUESTS: u64 = 1 << 32;

impl Cluster {
    /// Asks a node for something.
    pub(crate) fn request(&mut self, node: NodeIndex, what: Request) {
        if self.nodes[node].process.is_none() || self.nodes[node].paused_until > self.now() {
            return;
        }
        self.operator.next += 1;
        let request = RequestId(REQUESTS + self.operator.next);
        if let Request::Promote { force_term: Some(term) } = what {
            self.forced_terms.insert(term);
        }
        let life = self.nodes[node].life;
        self.operator.asked.insert(request, (node, life, what.clone(), self.now()));
        self.tell(node, Event::Request { request, what });
    }

    /// An answer.
    pub(crate) fn answered(&mut self, request: RequestId, outcome: Result<Outcome, Refusal>) {
        let Some((node, _, what, _)) = self.operator.asked.remove(&request) else { return };
        match (what, outcome) {
            (Request::Promote { force_term: Some(_) }, Ok(_)) => {
                self.marks.reach(Mark::ForcedPromotion);
            }
            (Request::Promote { .. }, Ok(_)) => self.marks.reach(Mark::Promotion),
            (Request::Promote { .. }, Err(Refusal::Unsafe { term, .. })) => {
                self.marks.reach(Mark::PromotionRefused);
                self.operator.could_force = Some((node, term));
            }
            (Request::Switchover { .. }, Ok(_)) => self.marks.reach(Mark::Switchover),
            (Request::Switchover { .. }, Err(Refusal::TimedOut { .. })) => {
                self.marks.reach(Mark::SwitchoverUndone);
            }
            (Request::StepDown, Ok(_)) => self.marks.reach(Mark::SteppedDown),
            (Request::RemoveReplica { .. }, Ok(_)) => self.marks.reach(Mark::MemberRemoved),
            _ => {}
        }
    }

    /// What was asked of a node that has not died since, and not been answered for so long.
    pub(crate) fn unanswered(&self, longer_than: Time) -> Vec<String> {
        let open = self.operator.asked.values().filter(|&&(node, life, _, at)| {
            self.nodes[node].life == life && at + longer_than < self.now()
        });
        open.map(|(node, _, what, at)| format!("{what:?} asked of {node} at {at}")).collect()
    }

    /// The nodes that think themselves master.
    pub(crate) fn masters(&self) -> Vec<NodeIndex> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].leads().is_some()).collect()
    }

    fn any_running(&mut self) -> Option<NodeIndex> {
        let running = |&node: &NodeIndex| self.nodes[node].process.is_some();
        let running: Vec<_> = (0..self.nodes.len()).filter(running).collect();
        (!running.is_empty()).then(|| self.random.pick(&running))
    }

    pub(crate) fn ask_promotion(&mut self) {
        let slaves = |&node: &NodeIndex| {
            let process = self.nodes[node].running();
            process.is_some_and(|process| !matches!(process.role, Role::Master { .. }))
        };
        let slaves: Vec<_> = (0..self.nodes.len()).filter(slaves).collect();
        let forced = self.operator.could_force.take();
        match forced.filter(|_| self.random.chance(self.options.faults.force)) {
            Some((node, term)) => self.request(node, Request::Promote { force_term: Some(term) }),
            None if slaves.is_empty() => {}
            None => {
                // Now and then two operators do not know of each other.
                for _ in 0..self.random.pick(&[1, 1, 2]) {
                    let node = self.random.pick(&slaves);
                    self.request(node, Request::Promote { force_term: None });
                }
            }
        }
    }

    pub(crate) fn ask_switchover(&mut self) {
        let masters = self.masters();
        let Some(to) = self.any_running().filter(|_| !masters.is_empty()) else { return };
        let node = self.random.pick(&masters);
        if node == to {
            self.request(node, Request::StepDown);
        } else {
            let to = self.nodes[to].name.clone();
            self.request(node, Request::Switchover { to });
        }
    }

    pub(crate) fn ask_membership(&mut self) {
        let masters = self.masters();
        if masters.is_empty() {
            return;
        }
        let master = self.random.pick(&masters);
        let index = self.random.below(self.nodes.len() as u64) as usize;
        let node = self.nodes[index].name.clone();
        let voter = index < self.nodes.len() - self.options.learners;
        let what = if self.random.chance(500) || !self.all_are_members(master) {
            Request::AddReplica { node, voter }
        } else {
            Request::RemoveReplica { node }
        };
        self.request(master, what);
    }

    /// Whether every node runs on the disk that the set of this master names.
    fn all_are_members(&self, master: NodeIndex) -> bool {
        let end = self.nodes[master].disk.log.last_durable();
        let member = |node: &Node, placed: &PlacedSet| {
            node.process.is_some() && placed.set.member(&node.replica()).is_some()
        };
        newest_set(&self.book, end)
            .is_some_and(|placed| self.nodes.iter().all(|node| member(node, &placed)))
    }

    pub(crate) fn ask_resync(&mut self) {
        let masters = self.masters();
        if masters.is_empty() {
            return;
        }
        let master = self.random.pick(&masters);
        let index = self.random.below(self.nodes.len() as u64) as usize;
        let node = self.nodes[index].name.clone();
        self.request(master, Request::Resync { node });
    }
}
