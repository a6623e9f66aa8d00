//! Promotion: a trial, the fence, positions, the furthest, and its election.
//!
//! The trial asks every replica what it would answer and promises nothing, so that a promotion that
//! must be refused disturbs nobody. Only then the fence is put up in earnest, and judged again by
//! what comes back. A promotion is safe if the answers meet every set of replicas that may have
//! acknowledged a write at the namespace's level.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use larder_types::{AckLevel, Epoch, NodeId};

use super::{Core, Link, Member, Outcome, Part, Refusal, ReplicaSet, RequestId, Time};
use crate::message::{Fence, Fenced, Message};

/// How long a trial waits for answers.
const TRIAL: Duration = Duration::from_secs(1);
/// How long the fence waits beyond a lease.
const FENCE_BEYOND_LEASE: Duration = Duration::from_secs(2);
/// How long the elected replica has to begin its epoch.
const ELECTION: Duration = Duration::from_secs(3);

/// A promotion that this node runs.
#[derive(Debug)]
pub(super) struct Promotion {
    request: Option<RequestId>,
    term: u32,
    stage: Stage,
    forced: bool,
    /// Whether the master stepped down in this node's favour.
    taking_over: bool,
    answers: BTreeMap<NodeId, Fenced>,
    /// Who was asked, has not answered, and is still connected.
    asked: BTreeSet<NodeId>,
    until: Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Trial,
    Fencing,
    Electing(NodeId),
}

impl Core {
    /// An operator asks for a promotion.
    pub(super) fn promote(&mut self, request: RequestId, force_term: Option<u32>) {
        if let Some(epoch) = self.leads() {
            let master = self.config.node.clone();
            return self.answer(request, Ok(Outcome::Promoted { master, term: epoch.term }));
        }
        let expected = self.newest_term() + 1;
        if force_term.is_some_and(|term| term != expected) {
            return self.answer(request, Err(Refusal::WrongTerm { expected }));
        }
        if let Err(refusal) = self.start_promotion(Some(request), force_term.is_some(), false) {
            self.answer(request, Err(refusal));
        }
    }

    /// Starts a promotion with the next term.
    pub(super) fn start_promotion(
        &mut self,
        request: Option<RequestId>,
        forced: bool,
        taking_over: bool,
    ) -> Result<(), Refusal> {
        if self.promotion.is_some() || !matches!(self.part, Part::Following(_)) {
            return Err(Refusal::Busy { what: "a promotion" });
        }
        if !self.is_whole() {
            let why = "it has no whole log and state: it joins, rewinds, or is set aside";
            return Err(Refusal::NotEligible { why });
        }
        if !forced && !self.is_fit() {
            let why = "it has not been admitted to the replica set";
            return Err(Refusal::NotEligible { why });
        }
        // The others would not believe a greater one.
        if self.newest_term() >= Epoch::REACHABLE_MAX {
            let why = "a node has named the greatest term there is, and no newer one is left: restore \
                 the cluster from a backup";
            return Err(Refusal::NotEligible { why });
        }
        let promotion = Promotion {
            request,
            term: self.newest_term() + 1,
            stage: Stage::Trial,
            forced,
            taking_over,
            answers: BTreeMap::new(),
            asked: BTreeSet::new(),
            until: self.now + TRIAL,
        };
        self.promotion = Some(promotion);
        if taking_over {
            self.put_up_fence()
        } else {
            self.ask_everybody(true)
        }
        Ok(())
    }

    /// Sends the fence, or its trial, to every node that is connected, and to this one.
    fn ask_everybody(&mut self, trial: bool) {
        let Some(promotion) = &mut self.promotion else { return };
        let fence = Fence { term: promotion.term, trial };
        promotion.answers.clear();
        promotion.asked = self.links.values().map(|conn| conn.peer.clone()).collect();
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.send(link, Message::Fence(fence.clone()));
        }
        let me = self.config.node.clone();
        if let Some(promotion) = &mut self.promotion {
            promotion.asked.insert(me.clone());
        }
        if let Some(answer) = self.consider(&me, None, fence) {
            self.on_answer(me, answer);
        }
    }

    fn put_up_fence(&mut self) {
        let until = self.now + self.config.lease + FENCE_BEYOND_LEASE;
        let newest = self.newest_term() + 1;
        if let Some(promotion) = &mut self.promotion {
            promotion.stage = Stage::Fencing;
            promotion.until = until;
            if promotion.taking_over {
                promotion.term = newest;
            }
        }
        self.ask_everybody(false);
    }

    /// A replica answered.
    pub(super) fn on_answer(&mut self, from: NodeId, answer: Fenced) {
        let Some(promotion) = &mut self.promotion else { return };
        let trial = promotion.stage == Stage::Trial;
        let expected = matches!(promotion.stage, Stage::Trial | Stage::Fencing)
            && answer.term == promotion.term
            && answer.trial == trial;
        if !expected {
            return;
        }
        if !answer.promised {
            self.heard_term = self.heard_term.max(answer.known);
            let why = "another term was taken meanwhile, which is known now: ask again";
            return self.fail_promotion(Refusal::TimedOut { why });
        }
        promotion.asked.remove(&from);
        promotion.answers.insert(from, answer);
        self.decide();
    }

    /// A node is not connected any more: its answer is not waited for.
    pub(super) fn lose_voter(&mut self, peer: &NodeId) {
        if let Some(promotion) = &mut self.promotion
            && promotion.asked.remove(peer)
        {
            self.decide();
        }
    }

    /// Goes on when nothing is to be waited for, or time is over.
    pub(super) fn decide(&mut self) {
        let Some(promotion) = &self.promotion else { return };
        let over = promotion.until <= self.now;
        if let Stage::Electing(_) = promotion.stage {
            if over {
                let why = "the elected replica has not begun its epoch yet; look who leads";
                self.fail_promotion(Refusal::TimedOut { why });
            }
            return;
        }
        let judged = self.judge_answers(promotion);
        let safe = judged.as_ref().is_some_and(|judged| judged.safe);
        // Its own answer is worth waiting for: the master stepped down in this node's favour.
        let own = promotion.answers.contains_key(&self.config.node);
        let early = promotion.taking_over && safe && own;
        if !(over || early || promotion.asked.is_empty()) {
            return;
        }
        match judged {
            Some(judged) if judged.safe || promotion.forced => match promotion.stage {
                Stage::Trial => self.put_up_fence(),
                Stage::Fencing | Stage::Electing(_) => self.elect(judged.furthest),
            },
            Some(judged) => self.fail_promotion(judged.refusal),
            None => {
                let why = "no replica that could lead gave an answer";
                self.fail_promotion(Refusal::TimedOut { why });
            }
        }
    }

    fn elect(&mut self, furthest: NodeId) {
        let until = self.now + ELECTION;
        let Some(promotion) = &mut self.promotion else { return };
        let term = promotion.term;
        let at = promotion.answers.get(&furthest).and_then(|answer| answer.durable);
        promotion.stage = Stage::Electing(furthest.clone());
        promotion.until = until;
        if furthest == self.config.node {
            if self.may_lead(&furthest, term, at) {
                self.lead(term, None);
            }
        } else if let Some(link) = self.link_of(&furthest) {
            self.send(link, Message::Elect { term, at });
        }
    }

    /// The elected replica has begun its epoch.
    pub(super) fn on_elected(&mut self, node: &NodeId, epoch: Epoch) {
        let done = self.promotion.take_if(|promotion| {
            promotion.term == epoch.term && promotion.stage == Stage::Electing(node.clone())
        });
        if let Some(request) = done.and_then(|promotion| promotion.request) {
            let (master, term) = (node.clone(), epoch.term);
            self.answer(request, Ok(Outcome::Promoted { master, term }));
        }
    }

    /// Tells whoever ran the promotion that the epoch has begun.
    pub(super) fn answer_elected(&mut self, epoch: Epoch, by: Option<Link>) {
        match by {
            Some(link) if self.links.contains_key(&link) => {
                self.send(link, Message::Elected { epoch });
            }
            Some(_) => {}
            None => self.on_elected(&self.config.node.clone(), epoch),
        }
    }

    /// Another promotion has a newer term.
    pub(super) fn abandon_promotion(&mut self) {
        let why = "another promotion took over; look who leads";
        self.fail_promotion(Refusal::TimedOut { why });
    }

    fn fail_promotion(&mut self, refusal: Refusal) {
        if let Some(request) = self.promotion.take().and_then(|promotion| promotion.request) {
            self.answer(request, Err(refusal));
        }
    }

    /// What the answers so far allow; `None` where nobody could lead.
    fn judge_answers(&self, promotion: &Promotion) -> Option<Judged> {
        let me = &self.config.node;
        let may_lead =
            |(node, answer): &(&NodeId, &Fenced)| answer.fit || (promotion.forced && *node == me);
        let candidates = promotion.answers.iter().filter(may_lead);
        let (furthest, answer) = candidates.max_by(|one, other| further(one, other, me))?;
        let empty = ReplicaSet::default();
        let set = answer.set.as_ref().map_or(&empty, |placed| &placed.set);
        let counted = |member: &&Member| {
            promotion
                .answers
                .get(&member.id.node)
                .is_some_and(|answer| answer.fit && self.counts(set, &member.id.node, answer.disk))
        };
        let (answered, missing): (Vec<_>, Vec<_>) = set.voters().partition(counted);
        let reach = number(answer);
        let heard = promotion.answers.values().filter_map(|answer| answer.heard);
        let at_risk = heard.map(|heard| heard.seq.as_u64().saturating_sub(reach)).max();
        let names: Vec<_> = missing.iter().map(|member| member.id.node.to_string()).collect();
        Some(Judged {
            furthest: furthest.clone(),
            safe: self.meets_every_ack(&answered, &missing, promotion),
            refusal: Refusal::Unsafe {
                at_risk: at_risk.unwrap_or(0),
                unanswered: names.join(", "),
                term: promotion.term,
            },
        })
    }

    /// Whether those who answered meet every set of replicas that may have acknowledged a write.
    fn meets_every_ack(
        &self,
        answered: &[&Member],
        missing: &[&Member],
        promotion: &Promotion,
    ) -> bool {
        let majority = answered.len() > missing.len();
        match self.config.level {
            AckLevel::Local => {
                !answered.is_empty() && missing.is_empty() || writer_answered(answered, promotion)
            }
            AckLevel::Near => majority && !shares_region(missing),
            AckLevel::Majority | AckLevel::All => majority,
        }
    }
}

/// What answers allow.
struct Judged {
    furthest: NodeId,
    safe: bool,
    refusal: Refusal,
}

/// Whether the replica is among them that wrote the newest epoch, and nothing hints at a newer one,
/// neither a promise nor what this node had heard of when it chose the term: at `local` it alone has
/// what it acknowledged.
fn writer_answered(answered: &[&Member], promotion: &Promotion) -> bool {
    let of = |member: &&Member| promotion.answers.get(&member.id.node);
    let newest = answered.iter().filter_map(of).filter_map(|answer| answer.durable);
    let Some(newest) = newest.map(|durable| durable.epoch.term).max() else { return false };
    let hint = promotion.term > newest + 1
        || answered.iter().filter_map(of).any(|answer| answer.known > newest);
    let writer = answered.iter().filter_map(of).any(|answer| {
        answer.writer && answer.durable.is_some_and(|durable| durable.epoch.term == newest)
    });
    writer && !hint
}

/// Whether two of them are of one region, and so may have acknowledged a write at `near`.
fn shares_region(missing: &[&Member]) -> bool {
    let mut regions: Vec<&str> = missing.iter().map(|member| member.region.as_str()).collect();
    regions.sort_unstable();
    regions.windows(2).any(|pair| pair[0] == pair[1])
}

/// Which log reaches further: by the epoch of the last record, then by its number. Between equals
/// this node, then the first by name.
fn further(one: &(&NodeId, &Fenced), other: &(&NodeId, &Fenced), me: &NodeId) -> Ordering {
    let key = |answer: &Fenced| {
        answer.durable.map(|durable| (durable.epoch.term, durable.epoch.run, durable.seq))
    };
    key(one.1)
        .cmp(&key(other.1))
        .then_with(|| (one.0 == me).cmp(&(other.0 == me)))
        .then_with(|| other.0.cmp(one.0))
}

fn number(answer: &Fenced) -> u64 {
    answer.durable.map_or(0, |durable| durable.seq.as_u64())
}
