//! Handing the log over in order: wait until the successor is fit, pause, catch up, step down,
//! switch.
//!
//! Writes are taken while it waits. Until the step-down is on its way to the disk all of it can be
//! undone by taking writes again. After that nothing but a promotion makes a master; if the successor
//! does not appear in time, this node runs one itself.

use std::time::Duration;

use larder_types::{Epoch, NodeId};

use super::{
    Action, Core, Link, Outcome, Part, Refusal, RequestId, Time, commit::can_meet,
    log_view::LogView, master::Leading, standing::After,
};
use crate::message::Message;

/// How long a successor has that is not fit yet, while writes are taken.
const FIT_WITHIN: Duration = Duration::from_secs(1);
/// How long writes are refused before a switchover is undone.
pub const SWITCHOVER_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long the successor has, from the step-down on.
const SUCCESSION_MAX: Duration = Duration::from_millis(1_500);
/// A slave that lacks more records than this is not switched over to.
const SWITCH_WITHIN_RECORDS: u64 = 65_536;

/// A step-down under way, at a master.
#[derive(Clone, Debug)]
pub(super) struct Switching {
    request: RequestId,
    /// In whose favour; `None` leaves the log without a master.
    to: Option<NodeId>,
    stage: Stage,
    until: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Pausing,
    CatchingUp,
    SteppingDown,
}

/// A step-down that is on the disk, and whose successor has not appeared.
#[derive(Clone, Debug)]
pub(super) struct Handing {
    request: RequestId,
    epoch: Epoch,
    until: Time,
}

impl Core {
    /// An operator asks this master to step down, perhaps in a slave's favour.
    pub(super) fn start_switchover(&mut self, request: RequestId, to: Option<NodeId>) {
        let Some((log, leading)) = self.leading() else { return self.refuse(request) };
        if leading.switching.is_some() {
            return self.answer(request, Err(Refusal::Busy { what: "a switchover" }));
        }
        if let Some(refusal) = to.as_ref().and_then(|node| self.hinders(node, log, leading)) {
            return self.answer(request, Err(refusal));
        }
        let until = self.now + FIT_WITHIN;
        let switching = Switching { request, to, stage: Stage::Waiting, until };
        if let Part::Leading(leading) = &mut self.part {
            leading.switching = Some(switching);
        }
        self.go_on_switching();
    }

    /// What hinders a node from taking over, beyond what passes within a lease.
    fn hinders(&self, node: &NodeId, log: &LogView, leading: &Leading) -> Option<Refusal> {
        let set = log.set().map(|placed| &placed.set);
        let member = set.and_then(|set| set.on_node(node)).filter(|member| member.voter);
        let slave = member.and_then(|member| leading.slave_of(&self.config, member));
        if slave.is_none_or(|slave| !slave.is_within(log, SWITCH_WITHIN_RECORDS)) {
            let why = "it is no voter that streams and is nearly caught up";
            return Some(Refusal::Unfit { node: node.clone(), why });
        }
        let level = self.config.level;
        let meets = |region: &str| set.is_some_and(|set| can_meet(set, level, region));
        let there = member.is_some_and(|member| meets(&member.region));
        (meets(&self.config.region) && !there).then_some(Refusal::LevelUnmet { level })
    }

    pub(super) fn on_writes_paused(&mut self) {
        if let Part::Following(following) = &mut self.part {
            following.settling = false;
            self.out.push(Action::ResumeWrites);
        }
        if let Part::Leading(leading) = &mut self.part
            && let Some(switching) = &mut leading.switching
            && switching.stage == Stage::Pausing
        {
            switching.stage = Stage::CatchingUp;
            self.go_on_switching();
        }
    }

    /// Pauses writes once the successor is fit, and steps down once it has everything; takes writes
    /// again if that takes too long.
    pub(super) fn go_on_switching(&mut self) {
        let (now, lease) = (self.now, self.config.lease);
        let (Some(log), Part::Leading(leading)) = (&self.log, &mut self.part) else { return };
        let Some(switching) = &mut leading.switching else { return };
        let slave = switching.to.as_ref().and_then(|node| leading.slaves.get(node));
        let fit = || slave.is_some_and(|slave| slave.may_succeed(now, lease));
        let has_all = || {
            let acked = slave.and_then(|slave| slave.acked);
            acked.is_some_and(|acked| acked.seq.as_u64() == log.tail.number())
        };
        let nobody = switching.to.is_none();
        let over = now >= switching.until;
        match switching.stage {
            Stage::Waiting if nobody || fit() => {
                switching.stage = Stage::Pausing;
                switching.until = now + SWITCHOVER_PAUSE_MAX;
                self.out.push(Action::PauseWrites);
            }
            Stage::CatchingUp if nobody || has_all() => {
                switching.stage = Stage::SteppingDown;
                self.standing.leads = None;
                self.persist(After::StepDown);
            }
            Stage::Waiting | Stage::Pausing | Stage::CatchingUp if over => self.undo_switching(),
            Stage::Waiting | Stage::Pausing | Stage::CatchingUp | Stage::SteppingDown => {}
        }
    }

    /// Time is over, and nothing has been put on the disk: this node goes on as the master.
    fn undo_switching(&mut self) {
        let Part::Leading(leading) = &mut self.part else { return };
        let Some(Switching { request, to, stage, .. }) = leading.switching.take() else { return };
        let refusal = match to {
            Some(node) if stage == Stage::Waiting => {
                let why = "it does not serve readers yet, or has just started: for one lease it may \
                           not take over";
                Refusal::Unfit { node, why }
            }
            _ => {
                self.out.push(Action::ResumeWrites);
                let why = "the slave did not catch up; writes are taken again";
                Refusal::TimedOut { why }
            }
        };
        self.answer(request, Err(refusal));
    }

    /// The step-down is on the disk: says so to all, and to the successor to take over.
    pub(super) fn stepped_down(&mut self) {
        let at = self.committed;
        let Part::Leading(leading) = &mut self.part else { return };
        let epoch = leading.epoch;
        let Some(Switching { request, to, .. }) = leading.switching.take() else { return };
        self.stop_leading();
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.send(link, Message::SteppedDown { epoch, at });
        }
        let Some(to) = to else {
            return self.answer(request, Ok(Outcome::SteppedDown));
        };
        if let Some(link) = self.link_of(&to) {
            self.send(link, Message::TakeOver { epoch });
        }
        self.handing = Some(Handing { request, epoch, until: self.now + SUCCESSION_MAX });
    }

    /// At a slave: the master has stepped down.
    pub(super) fn on_stepped_down(&mut self, master: &NodeId, epoch: Epoch) {
        self.grants.free(master, epoch.term);
    }

    /// At the successor.
    pub(super) fn on_take_over(&mut self, link: Link, epoch: Epoch) {
        let logged = self.log.as_ref().and_then(LogView::last_epoch);
        if logged == Some(epoch)
            && self.standing.promised <= epoch.term
            && self.start_promotion(None, false, true).is_err()
        {
            self.close(link, "this node cannot take over");
        }
    }

    /// Somebody leads: perhaps the successor.
    pub(super) fn watch_successor(&mut self, link: Link, leads: Option<Epoch>) {
        let Some(leads) = leads else { return };
        let Some(conn) = self.links.get(&link) else { return };
        let (master, term) = (conn.peer.clone(), leads.term);
        if let Some(handing) = self.handing.take_if(|handing| term > handing.epoch.term) {
            self.answer(handing.request, Ok(Outcome::Promoted { master, term }));
        }
    }

    /// No successor in time: this node runs a promotion of its own.
    pub(super) fn miss_successor(&mut self) {
        let now = self.now;
        let Some(Handing { request, .. }) = self.handing.take_if(|handing| handing.until <= now)
        else {
            return;
        };
        if self.start_promotion(Some(request), false, false).is_err() {
            let why = "the slave did not take over; look who leads, and promote if nobody does";
            self.answer(request, Err(Refusal::TimedOut { why }));
        }
    }

    /// Somebody else's promotion elected this node again.
    pub(super) fn end_handing(&mut self) {
        if let Some(Handing { request, .. }) = self.handing.take() {
            let why = "this node was elected again; writes are taken again";
            self.answer(request, Err(Refusal::TimedOut { why }));
        }
    }

    /// This node was fenced while it was stepping down.
    pub(super) fn end_switchover(&mut self, switching: Option<Switching>) {
        if let Some(Switching { request, .. }) = switching {
            let why = "a promotion came first; look who leads";
            self.answer(request, Err(Refusal::TimedOut { why }));
        }
    }
}
