//! A replica's answer to a promotion: the promise to take nothing older, and what it has.
//!
//! A term is promised to one node only. The promise is on the disk, and whatever was granted to the
//! master before has run out, before the answer leaves; nothing of an older term is appended after
//! the promise, so the position in the answer stays true.

use larder_types::{NodeId, Position};

use super::{Core, Link, Part, log_view::LogView, planted::planted, standing::After};
use crate::message::{Fence, Fenced, Message};

/// An answer that waits for grants to run out.
#[derive(Debug)]
pub(super) struct Owed {
    /// To whom; `None` is this node itself.
    to: Option<Link>,
    fence: Fence,
    known: u32,
}

impl Core {
    pub(super) fn on_fence(&mut self, link: Link, peer: &NodeId, fence: Fence) {
        if let Some(answer) = self.consider(peer, Some(link), fence) {
            self.send(link, Message::Fenced(answer));
        }
    }

    /// Promises, or answers at once: that it would, or that it will not.
    pub(super) fn consider(
        &mut self,
        by: &NodeId,
        to: Option<Link>,
        fence: Fence,
    ) -> Option<Fenced> {
        let term = fence.term;
        let logged = self.log.as_ref().map_or(0, LogView::last_term);
        let known = self.standing.promised.max(logged);
        let again = self.standing.promised == term
            && (self.standing.promised_to.as_ref() == Some(by)
                || planted!(self.config, SameTermTwice))
            && logged < term
            && self.standing.leads.is_none();
        let may = term > known || again || planted!(self.config, SameTermTwice) && term == known;
        if fence.trial || !may {
            return Some(self.fenced(&fence, may, known));
        }
        let known = if again { self.known_before } else { known };
        self.known_before = known;
        self.standing.promised = term;
        self.standing.promised_to = Some(by.clone());
        self.standing.leads = None;
        match &mut self.part {
            Part::Following(following) => following.leave(),
            Part::Resuming { .. } | Part::Beginning { .. } | Part::Leading(_) => {
                self.stop_leading();
            }
        }
        self.owed = None;
        if *by != self.config.node {
            self.abandon_promotion();
        }
        self.persist(After::AnswerFence { to, fence, known });
        None
    }

    /// The promise is on the disk.
    pub(super) fn owe_answer(&mut self, to: Option<Link>, fence: Fence, known: u32) {
        if self.standing.promised == fence.term {
            self.owed = Some(Owed { to, fence, known });
        }
    }

    /// Whether a promotion waits for this node.
    pub(super) const fn owes_answer(&self) -> bool {
        self.owed.is_some()
    }

    /// Answers, once no grant runs and the log is at rest.
    pub(super) fn pay_answer(&mut self) {
        let at_rest = match &self.part {
            Part::Following(following) => following.is_at_rest(),
            _ => false,
        };
        if self.owed.is_none() || !at_rest || !self.grants.over(self.now) {
            return;
        }
        let Some(Owed { to, fence, known }) = self.owed.take() else { return };
        let answer = self.fenced(&fence, true, known);
        match to {
            Some(link) if self.links.contains_key(&link) => {
                self.send(link, Message::Fenced(answer));
            }
            Some(_) => {}
            None => self.on_answer(self.config.node.clone(), answer),
        }
    }

    fn fenced(&self, fence: &Fence, promised: bool, known: u32) -> Fenced {
        let log = self.log.as_ref();
        Fenced {
            term: fence.term,
            trial: fence.trial,
            promised,
            known,
            disk: self.standing.disk,
            fit: self.is_fit(),
            durable: log.and_then(|log| log.tail.last),
            writer: self.standing.led > 0
                && log.is_some_and(|log| log.last_term() == self.standing.led),
            set: log.and_then(LogView::set).cloned(),
            heard: self.heard_tail,
        }
    }

    /// This node reaches furthest, says whom it promised the term to: it leads.
    pub(super) fn on_elect(&mut self, link: Link, peer: &NodeId, term: u32, at: Option<Position>) {
        if let Some(epoch) = self.leads()
            && epoch.term == term
        {
            return self.send(link, Message::Elected { epoch });
        }
        if self.may_lead(peer, term, at) {
            self.lead(term, Some(link));
        }
    }

    /// Whether this node may begin a term that `by` ran the promotion for.
    /// Its log has to end where its answer said: a disk that has forgotten since is no successor.
    pub(super) fn may_lead(&self, by: &NodeId, term: u32, at: Option<Position>) -> bool {
        let log = self.log.as_ref();
        let kept = at.is_none_or(|at| log.is_some_and(|log| log.holds(at)));
        let logged = self.log.as_ref().map_or(0, LogView::last_term);
        let fresh = logged < term || planted!(self.config, SameTermTwice);
        matches!(self.part, Part::Following(_))
            && self.standing.promised == term
            && (self.standing.promised_to.as_ref() == Some(by)
                || planted!(self.config, SameTermTwice))
            && self.standing.leads.is_none()
            && self.is_stored()
            && self.owed.is_none()
            && fresh
            && kept
            && self.is_whole()
    }

    /// Whether log and state are what they should be. Of a replica that rewinds the log is good
    /// once it has been cut, and so are its acknowledgements; it cannot lead, and is not counted on
    /// by a promotion.
    pub(super) fn is_whole(&self) -> bool {
        let following_whole = match &self.part {
            Part::Following(following) => {
                following.rewind.is_none()
                    && !following.needs_snapshot
                    && following.snapshot_over.is_none()
            }
            _ => true,
        };
        self.log.is_some() && following_whole && !self.standing.set_aside
    }

    /// Whether this replica may count: whole, a member as what it is, and with all that it has
    /// acknowledged.
    pub(super) fn is_fit(&self) -> bool {
        let log = self.log.as_ref();
        let reaches = log.is_some_and(|log| log.tail.number() >= self.standing.acknowledged);
        self.is_admitted() && reaches && self.is_whole() || planted!(self.config, EmptyDiskVotes)
    }

    /// Whether this replica is a member as what it is, and not set aside.
    pub(super) fn is_admitted(&self) -> bool {
        let set = self.log.as_ref().and_then(LogView::set);
        let member = set.is_some_and(|placed| placed.set.member(&self.me()).is_some());
        member && !self.standing.set_aside || planted!(self.config, EmptyDiskVotes)
    }
}
