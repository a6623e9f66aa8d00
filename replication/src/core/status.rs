//! How things stand, for tables and metrics.

use std::time::Duration;

use larder_types::{AckLevel, Epoch, LogId, NodeId, Position};

use super::{
    Core, Part, ReplicaSet, Role, Time, commit::voters_meet, log_view::LogView, sender::Stage,
};

/// How a log's replication stands, seen from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node's part.
    pub role: Role,
    /// The log, if there is one.
    pub log: Option<LogId>,
    /// The newest term known.
    pub term: u32,
    /// The epoch of the last durable record.
    pub epoch: Option<Epoch>,
    /// The last durable record.
    pub durable: Option<Position>,
    /// What is known to be committed.
    pub committed: Option<Position>,
    /// The namespace's level.
    pub level: AckLevel,
    /// What is left of a master's lease; `None` elsewhere, and where it needs no slave for it.
    pub lease_left: Option<Duration>,
    /// Who is the master, as far as this node knows.
    pub master: Option<NodeId>,
    /// How late readers here are; `None` at a master, and where nothing tells.
    pub lag: Option<Duration>,
    /// Every node known: of the replica set, and of the configuration.
    pub members: Vec<MemberStatus>,
}

impl Status {
    /// Whether a write at a master in `region` could reach this level, by the replicas that count
    /// and those that are yet to be admitted.
    pub fn can_meet(&self, level: AckLevel, region: &str) -> bool {
        let voters = self.members.iter().filter(|member| member.voter);
        voters_meet(voters.map(|member| member.region.as_str()), level, region)
    }
}

/// How one node stands, as far as the node that was asked knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The node.
    pub node: NodeId,
    /// Its region's name.
    pub region: String,
    /// Whether it counts in majorities, or will once it is admitted: not where an operator took it
    /// out.
    pub voter: bool,
    /// What it is doing.
    pub state: MemberState,
    /// The last record that it acknowledged.
    pub acked: Option<Position>,
    /// Records that it lacks.
    pub lag_records: Option<u64>,
    /// How late its readers are, by its own probes.
    pub lag: Option<Duration>,
    /// How long it has been in its session.
    pub session_age: Option<Duration>,
    /// Snapshots that it was given in this epoch.
    pub full_syncs: u64,
    /// Whether it is further behind than the log is kept.
    pub detached: bool,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It is the master.
    Master,
    /// It has, or is being sent, every record as it comes.
    Streaming,
    /// It is being sent what it lacks.
    CatchingUp,
    /// It is being given a snapshot.
    Snapshot,
    /// It takes back what parted.
    Rewinding,
    /// It is not connected.
    Disconnected,
    /// It is connected, and does not follow.
    Waiting,
    /// Its state was found to differ from the master's: it serves nothing.
    SetAside,
    /// It follows, and has not been admitted to the replica set.
    AwaitingAdmission,
}

/// A slave that lacks more records than this catches up.
const STREAMING_WITHIN_RECORDS: u64 = 1_024;

impl Core {
    /// How things stand.
    pub fn status(&self, now: Time) -> Status {
        let log = self.log.as_ref();
        let lease_left = match &self.part {
            Part::Leading(leading) if leading.lease_until != Time(u64::MAX) => {
                Some(leading.lease_until.since(now))
            }
            _ => None,
        };
        Status {
            role: self.role().clone(),
            log: log.map(|log| log.id),
            term: self.newest_term(),
            epoch: log.and_then(LogView::last_epoch),
            durable: log.and_then(|log| log.tail.last),
            committed: self.committed,
            level: self.config.level,
            lease_left,
            master: self.master().cloned(),
            lag: self.fresh_as_of().map(|as_of| now.since(as_of)),
            members: self.members(now),
        }
    }

    fn members(&self, now: Time) -> Vec<MemberStatus> {
        let empty = ReplicaSet::default();
        let set = self.log.as_ref().and_then(LogView::set).map_or(&empty, |placed| &placed.set);
        let own = (&self.config.node, &self.config.region, true);
        let peers = self.config.peers.iter().map(|peer| (&peer.node, &peer.region, peer.voter));
        let configured: Vec<_> = std::iter::once(own).chain(peers).collect();
        let known = |node: &NodeId| configured.iter().any(|(other, ..)| *other == node);
        let others = set.members.iter().filter(|member| !known(&member.id.node));
        let others = others.map(|member| (&member.id.node, &member.region, member.voter));
        let all = configured.iter().copied().chain(others);
        all.map(|(node, region, voter)| {
            let default = voter && !set.removed.contains(node);
            let voter = set.on_node(node).map_or(default, |member| member.voter);
            self.member(node, region, voter, set, now)
        })
        .collect()
    }

    fn member(
        &self,
        node: &NodeId,
        region: &str,
        voter: bool,
        set: &ReplicaSet,
        now: Time,
    ) -> MemberStatus {
        let mut status = MemberStatus {
            node: node.clone(),
            region: region.to_owned(),
            voter,
            state: MemberState::Waiting,
            acked: None,
            lag_records: None,
            lag: None,
            session_age: None,
            full_syncs: 0,
            detached: false,
        };
        let log = self.log.as_ref();
        if self.master() == Some(node) {
            status.state = MemberState::Master;
        } else if *node != self.config.node && self.link_of(node).is_none() {
            status.state = MemberState::Disconnected;
        }
        let (Some(log), Part::Leading(leading)) = (log, &self.part) else { return status };
        if *node == self.config.node {
            status.acked = log.tail.last;
            return status;
        }
        status.detached = leading.gone.contains(node);
        let Some(slave) = leading.slaves.get(node) else { return status };
        let lag_records = log.tail.number().saturating_sub(slave.reached());
        let member = set.on_node(node).is_some_and(|member| member.id.disk == slave.disk);
        status.state = match slave.stage {
            Stage::Away => MemberState::Disconnected,
            Stage::Waiting => MemberState::Waiting,
            Stage::Rewinding => MemberState::Rewinding,
            Stage::Snapshot => MemberState::Snapshot,
            Stage::Streaming if slave.aside => MemberState::SetAside,
            Stage::Streaming if !slave.counts => MemberState::Rewinding,
            Stage::Streaming if lag_records > STREAMING_WITHIN_RECORDS => MemberState::CatchingUp,
            Stage::Streaming if !member => MemberState::AwaitingAdmission,
            Stage::Streaming => MemberState::Streaming,
        };
        status.acked = slave.acked;
        status.lag_records = (slave.stage != Stage::Away).then_some(lag_records);
        status.lag = slave.lag_micros.map(Duration::from_micros);
        status.session_age = slave.link.map(|_| now.since(slave.since));
        status.full_syncs = slave.full_syncs;
        status.detached |= slave.detached;
        status
    }
}
