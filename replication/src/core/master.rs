//! A master's part: what it knows while it writes the log, how it begins, how it steps down.

use std::collections::{BTreeMap, BTreeSet};

use larder_types::{AckLevel, Epoch, EpochStart, NodeId, Position, ReplicaId, SequenceNumber};

use super::{
    Action, Config, Core, Link, Member, Part, ReadGate, ReplicaSet, Time,
    commit::{Awaits, Holding, Holdings},
    digest::Digests,
    following::Following,
    log_view::LogView,
    planted::planted,
    replicas::Changes,
    sender::Slave,
    standing::After,
    switchover::Switching,
};

/// What a master knows.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) me: ReplicaId,
    pub(super) epoch: Epoch,
    /// The epoch's first record.
    pub(super) first: SequenceNumber,
    /// Every node that has followed in this epoch.
    pub(super) slaves: BTreeMap<NodeId, Slave>,
    /// Never a record from before the epoch.
    pub(super) committed: Option<Position>,
    /// The last record that is where a record of the replica set has to be before the next.
    pub(super) settled: u64,
    pub(super) lease_until: Time,
    pub(super) awaits: Awaits,
    pub(super) changes: Changes,
    pub(super) switching: Option<Switching>,
    /// Members that have not followed in this epoch, and are further behind than the log is kept.
    pub(super) gone: BTreeSet<NodeId>,
    /// Links over which keys are being read.
    pub(super) fetching: BTreeSet<Link>,
    pub(super) digests: Digests,
}

impl Leading {
    fn new(me: ReplicaId, start: EpochStart) -> Self {
        Self {
            me,
            epoch: start.epoch,
            first: start.first,
            slaves: BTreeMap::new(),
            committed: None,
            settled: 0,
            lease_until: Time::ZERO,
            awaits: Awaits::default(),
            changes: Changes::default(),
            switching: None,
            gone: BTreeSet::new(),
            fetching: BTreeSet::new(),
            digests: Digests::default(),
        }
    }

    /// Whether the newest set of replicas is where it has to be before the next.
    pub(super) fn set_is_settled(&self, log: &LogView) -> bool {
        log.set().is_none_or(|placed| self.settled >= placed.seq.max(self.first).as_u64())
    }

    /// Whether this very record is in the log, or on its way to the disk; of one that is older than
    /// the log's table of epochs nobody knows. It stays there as long as this node leads.
    pub(super) fn has(&self, log: &LogView, record: Position) -> bool {
        record.epoch == self.epoch || log.holds(record)
    }

    /// What each member has, and the master, which may be none.
    pub(super) fn holdings<'a>(&'a self, config: &'a Config, log: &'a LogView) -> Holdings<'a> {
        let acked = |slave: &Slave| slave.acked.map_or(0, |acked| acked.seq.as_u64());
        self.each(config, log, log.tail.number(), acked)
    }

    /// A number of each member, the greatest first.
    pub(super) fn each<'a>(
        &'a self,
        config: &'a Config,
        log: &'a LogView,
        own: u64,
        of_slave: impl Fn(&Slave) -> u64,
    ) -> Holdings<'a> {
        let mut holdings = Holdings::NONE;
        let members = log.set().map_or(&[][..], |placed| &placed.set.members);
        let voter = members.iter().any(|member| member.id == self.me && member.voter);
        let region = config.region.as_str();
        holdings.add(Holding { region, voter, own: true, established: true, upto: own });
        let is_settled = self.set_is_settled(log);
        let before = log.set_before().filter(|_| !is_settled);
        for member in members.iter().filter(|member| member.id.node != self.me.node) {
            let slave = self.slave_of(config, member);
            if planted!(config, DetachedLeavesDenominator)
                && slave.is_none_or(|slave| slave.link.is_none())
            {
                continue;
            }
            let upto = slave.map_or(0, &of_slave);
            let was_voter = |set: &ReplicaSet| set.member(&member.id).is_some_and(|it| it.voter);
            let established = is_settled || before.is_some_and(|before| was_voter(&before.set));
            let Member { region, voter, .. } = member;
            holdings.add(Holding { region, voter: *voter, own: false, established, upto });
        }
        holdings.sort();
        holdings
    }

    /// The member, as it has followed here: with another disk it is another replica.
    pub(super) fn slave_of(&self, config: &Config, member: &Member) -> Option<&Slave> {
        let same =
            |slave: &&Slave| slave.disk == member.id.disk || planted!(config, EmptyDiskVotes);
        self.slaves.get(&member.id.node).filter(same)
    }
}

impl Core {
    /// Its log and itself, at a master.
    pub(super) fn leading(&self) -> Option<(&LogView, &Leading)> {
        match (&self.log, &self.part) {
            (Some(log), Part::Leading(leading)) => Some((log, leading)),
            _ => None,
        }
    }

    /// Its log and itself, at a master.
    pub(super) fn leading_mut(&mut self) -> Option<(&mut LogView, &mut Leading)> {
        match (&mut self.log, &mut self.part) {
            (Some(log), Part::Leading(leading)) => Some((log, leading)),
            _ => None,
        }
    }

    /// Notes on the disk that this node leads a term, and then begins an epoch of it. It follows
    /// nobody from here on: an answer that is still to come would find it a master.
    pub(super) fn lead(&mut self, term: u32, by: Option<Link>) {
        if let Part::Following(following) = &mut self.part {
            following.leave();
        }
        self.standing.leads = Some(term);
        self.standing.led = term;
        self.standing.promised = self.standing.promised.max(term);
        self.persist(After::Lead { term, by });
    }

    /// Begins the next epoch of a term that is this node's, on the disk.
    pub(super) fn begin_epoch(&mut self, term: u32, by: Option<Link>) {
        let Some(log) = &self.log else { return };
        if self.standing.leads != Some(term) {
            return;
        }
        let run = match log.last_epoch() {
            Some(last) if last.term == term => last.run + 1,
            _ => 0,
        };
        let epoch = Epoch { term, run, id: self.ids.draw() };
        self.part = Part::Beginning { epoch, by };
        self.out.push(Action::BeginEpoch { epoch });
    }

    /// The epoch's first record is durable: this node is the master.
    pub(super) fn start_leading(&mut self, start: EpochStart, by: Option<Link>) {
        let me = self.me();
        self.part = Part::Leading(Box::new(Leading::new(me, start)));
        self.grants.release();
        self.answer_elected(start.epoch, by);
        self.recount_lease();
        self.advance_commit();
        self.change_replica_set();
        self.retain();
        self.announce();
        self.end_handing();
    }

    /// Stops being the master, or being about to: nothing is acknowledged or read from here on.
    /// The caller sees to the standing.
    pub(super) fn stop_leading(&mut self) {
        self.standing.leads = None;
        self.out.push(Action::PauseWrites);
        let mut following = Following::after_leading();
        following.settling = true;
        let part = std::mem::replace(&mut self.part, Part::Following(following));
        if let Part::Leading(leading) = part {
            let leading = *leading;
            leading.awaits.give_up(&mut self.out);
            self.end_changes(leading.changes);
            self.end_switchover(leading.switching);
        }
    }

    /// When a master's reads may be answered.
    pub(super) fn master_gate(&self, leading: &Leading) -> ReadGate {
        match self.config.level {
            AckLevel::Local => ReadGate::Open,
            // What the epochs before have acknowledged is visible with the first record of this one.
            _ if leading.committed.is_none() => ReadGate::Closed,
            AckLevel::Majority => ReadGate::Until(leading.lease_until),
            AckLevel::Near | AckLevel::All => ReadGate::Open,
        }
    }
}
