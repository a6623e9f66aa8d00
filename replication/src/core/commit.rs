//! How far a log has got, by level; and who waits for it.
//!
//! The functions are pure: they take what each replica has and give the last record that meets a
//! level. The denominator is the replica set, whoever of it is away.

use std::{cmp::Reverse, collections::BTreeMap};

use larder_types::{AckLevel, Position};

use super::{Action, Core, Need, Part, ReplicaSet, RequestId, Time, planted::planted};

/// Waiters at a time. Whoever comes beyond that is answered at once that it was not reached.
pub const AWAITS_MAX: usize = 65_536;

/// What one replica has, as far as counting goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding<'a> {
    pub(super) region: &'a str,
    pub(super) voter: bool,
    pub(super) own: bool,
    /// Whether it is a voter of the last settled set too. Who elects by that one asks nobody else, so
    /// that a record which the master and one more node have must not be with another.
    pub(super) established: bool,
    /// The number of its last record (or, of grants, when its own ends); 0 for none.
    pub(super) upto: u64,
}

/// What every member of a replica set has.
#[derive(Debug)]
pub(super) struct Holdings<'a> {
    all: [Holding<'a>; ReplicaSet::MEMBERS_MAX + 1],
    count: usize,
}

impl<'a> Holdings<'a> {
    pub(super) const NONE: Self = Self {
        all: [Holding { region: "", voter: false, own: false, established: false, upto: 0 };
            ReplicaSet::MEMBERS_MAX + 1],
        count: 0,
    };

    pub(super) fn add(&mut self, holding: Holding<'a>) {
        assert!(self.count < self.all.len(), "a replica set and its master fit");
        self.all[self.count] = holding;
        self.count += 1;
    }

    /// In order of what they have, the most first.
    pub(super) fn sort(&mut self) {
        self.all[..self.count].sort_unstable_by_key(|holding| Reverse(holding.upto));
    }

    fn voters(&self) -> impl DoubleEndedIterator<Item = &Holding<'a>> {
        self.all[..self.count].iter().filter(|holding| holding.voter)
    }

    /// What a majority of the voters has, in at least so many regions; 0 if nothing.
    pub(super) fn majority(&self, regions_min: usize) -> u64 {
        let needed = self.voters().count() / 2 + 1;
        let mut seen = 0;
        let mut home = None;
        let mut spread = 1;
        for holding in self.voters() {
            seen += 1;
            if *home.get_or_insert(holding.region) != holding.region {
                spread = 2;
            }
            if seen >= needed && spread >= regions_min {
                return holding.upto;
            }
        }
        0
    }

    /// What a level asks for has up to this record; 0 if nothing.
    pub(super) fn reached(&self, level: AckLevel) -> u64 {
        let Some(own) = self.all[..self.count].iter().find(|holding| holding.own) else { return 0 };
        match level {
            AckLevel::Local => own.upto,
            AckLevel::Near => {
                let is_near =
                    |it: &&Holding<'_>| !it.own && it.established && it.region == own.region;
                let near = self.voters().find(is_near);
                near.map_or(0, |near| near.upto.min(own.upto))
            }
            AckLevel::Majority => self.majority(2).min(own.upto),
            AckLevel::All => self.voters().next_back().map_or(0, |last| last.upto.min(own.upto)),
        }
    }

    /// Members beside the own replica that have this record.
    pub(super) fn replicas_with(&self, seq: u64) -> u32 {
        let all = self.all[..self.count].iter();
        all.filter(|holding| !holding.own && holding.upto >= seq).count() as u32
    }

    fn met(&self, need: Need) -> u64 {
        match need {
            Need::Level(level) => self.reached(level),
            Need::Replicas(0) => u64::MAX,
            Need::Replicas(count) => {
                let mut others = self.all[..self.count].iter().filter(|holding| !holding.own);
                others.nth(count as usize - 1).map_or(0, |holding| holding.upto)
            }
        }
    }
}

/// Whoever waits for a record to get further than the namespace's level asks.
#[derive(Debug, Default)]
pub(super) struct Awaits {
    waiting: BTreeMap<Need, BTreeMap<(u64, RequestId), Time>>,
    count: usize,
    /// No deadline is before this.
    earliest: Option<Time>,
}

impl Awaits {
    /// Takes a waiter in, unless there are too many.
    pub(super) fn add(&mut self, request: RequestId, seq: u64, need: Need, deadline: Time) -> bool {
        if self.count == AWAITS_MAX {
            return false;
        }
        if self.waiting.entry(need).or_default().insert((seq, request), deadline).is_none() {
            self.count += 1;
        }
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        true
    }

    /// Answers those whose need is met.
    pub(super) fn advance(&mut self, holdings: &Holdings<'_>, out: &mut Vec<Action>) {
        for (need, waiting) in &mut self.waiting {
            let met = holdings.met(*need);
            while let Some(first) = waiting.first_entry() {
                let (seq, request) = *first.key();
                if seq > met {
                    break;
                }
                first.remove();
                self.count -= 1;
                let replicas = holdings.replicas_with(seq);
                out.push(Action::Reached { request, reached: true, replicas });
            }
        }
    }

    /// Answers those whose deadline has come.
    pub(super) fn expire(&mut self, now: Time, holdings: &Holdings<'_>, out: &mut Vec<Action>) {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        self.earliest = None;
        for waiting in self.waiting.values_mut() {
            waiting.retain(|&(seq, request), &mut deadline| {
                if deadline > now {
                    self.earliest = Some(self.earliest.map_or(deadline, |it| it.min(deadline)));
                    return true;
                }
                self.count -= 1;
                let replicas = holdings.replicas_with(seq);
                out.push(Action::Reached { request, reached: false, replicas });
                false
            });
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
    }

    /// Answers everybody: this node is the master no more.
    pub(super) fn give_up(self, out: &mut Vec<Action>) {
        let requests = self.waiting.into_values().flat_map(BTreeMap::into_keys);
        out.extend(requests.map(|(_, request)| Action::Reached {
            request,
            reached: false,
            replicas: 0,
        }));
    }
}

impl Core {
    /// At a master: moves `committed` as far as the level, the lease and the epoch allow.
    pub(super) fn advance_commit(&mut self) {
        let level = self.config.level;
        self.settle(level);
        let Some((log, leading)) = self.leading() else { return };
        let holdings = leading.holdings(&self.config, log);
        let mut reached = holdings.reached(level);
        if planted!(self.config, VisibleBeforeCommitted) {
            reached = log.tail.number();
        }
        // Nothing older counts as committed by this master before its own epoch's first record.
        let begun = reached >= leading.first.as_u64() || planted!(self.config, OldEpochCommitted);
        let held = level != AckLevel::Majority || leading.lease_until > self.now;
        let position = if begun && held { log.position_at_number(reached) } else { None };
        let Some((_, leading)) = self.leading_mut() else { return };
        if let Some(position) = position
            && leading.committed.is_none_or(|committed| committed.seq < position.seq)
        {
            leading.committed = Some(position);
            self.committed = Some(position);
            self.out.push(Action::Commit { position });
        }
        self.answer_awaits();
    }

    /// At a master: notes how far a record of the replica set is settled, until the newest is.
    fn settle(&mut self, level: AckLevel) {
        let Some((log, leading)) = self.leading() else { return };
        if leading.set_is_settled(log) {
            return;
        }
        let settled = leading.holdings(&self.config, log).settled(level);
        if let Some((_, leading)) = self.leading_mut() {
            leading.settled = leading.settled.max(settled);
        }
    }

    /// Answers whoever waits for what has been reached by now.
    fn answer_awaits(&mut self) {
        let (config, out) = (&self.config, &mut self.out);
        let Some(log) = &self.log else { return };
        let Part::Leading(leading) = &mut self.part else { return };
        if leading.awaits.count == 0 {
            return;
        }
        let mut awaits = std::mem::take(&mut leading.awaits);
        awaits.advance(&leading.holdings(config, log), out);
        leading.awaits = awaits;
    }

    /// Somebody waits for a record.
    pub(super) fn on_await(
        &mut self,
        request: RequestId,
        written: Option<Position>,
        need: Need,
        deadline: Time,
    ) {
        let by_number = planted!(self.config, AwaitedByNumber);
        let added = self.leading_mut().is_some_and(|(log, leading)| {
            let seq = written.map_or(1, |written| written.seq.as_u64());
            let is_here = written.is_none_or(|written| leading.has(log, written)) || by_number;
            is_here && leading.awaits.add(request, seq, need, deadline)
        });
        if added {
            self.answer_awaits();
        } else {
            self.out.push(Action::Reached { request, reached: false, replicas: 0 });
        }
    }

    /// Answers waiters whose time is over.
    pub(super) fn expire_awaits(&mut self) {
        let Some(log) = &self.log else { return };
        let Part::Leading(leading) = &mut self.part else { return };
        let mut awaits = std::mem::take(&mut leading.awaits);
        awaits.expire(self.now, &leading.holdings(&self.config, log), &mut self.out);
        leading.awaits = awaits;
    }
}

impl Holdings<'_> {
    /// How far a record of the replica set has to be before the next change: a majority of the
    /// voters, regions aside, so that a set can grow into its level; at `local` the master alone.
    fn settled(&self, level: AckLevel) -> u64 {
        match level {
            AckLevel::Local => self.reached(AckLevel::Local),
            AckLevel::Near | AckLevel::Majority | AckLevel::All => self.majority(1),
        }
    }
}

/// Whether a replica set, with its master in `region`, can meet a level at all.
pub(super) fn can_meet(set: &ReplicaSet, level: AckLevel, region: &str) -> bool {
    voters_meet(set.voters().map(|member| member.region.as_str()), level, region)
}

/// The same of voters in these regions, one of which is the master.
pub(super) fn voters_meet<'a>(
    voters: impl Iterator<Item = &'a str>,
    level: AckLevel,
    region: &str,
) -> bool {
    let mut holdings = Holdings::NONE;
    for voter in voters.take(ReplicaSet::MEMBERS_MAX) {
        let own = voter == region && !holdings.all.iter().any(|other| other.own);
        holdings.add(Holding { region: voter, voter: true, own, established: true, upto: 1 });
    }
    holdings.reached(level) > 0
}
