//! Taking back a history that parted: marker, export, cut, refetch, and quiet until the state has
//! passed every position at which a key was fetched.
//!
//! The marker is on the disk before anything is touched, and stays until the end, so that a crash
//! anywhere starts again from it. While keys are fetched nothing is appended: what the master sends
//! is passed over, and asked for again once they are in place. Keys of two masters are not mixed:
//! when the master changes before the end, all of them are fetched again.

use std::time::Duration;

use bytes::Bytes;
use larder_types::{Epoch, Position, SequenceNumber};

use super::{
    Action, Alert, Core, Link, LogState, Marker, Part, RewindScope, Time, following::Upstream,
    heartbeat::Freshness, log_view::LogView,
};
use crate::message::Message;

/// A fetch that has had no answer for so long is given up for a snapshot: asked again it would not
/// be faster, while a snapshot goes on where it was broken off. The first answer may need all of a
/// long log to be read, and one key a slow line.
const FETCH_MAX: Duration = Duration::from_secs(60);

/// Whom nothing can be had from now is asked again so much later.
const ASK_LATER: Duration = Duration::from_secs(5);

/// A master whose readers do not see yet what the state settles at is asked again so much later.
const FETCH_AGAIN: Duration = Duration::from_millis(100);

/// A master whose readers do not see it for so long may wait for this very replica, whose log is
/// closed while keys are fetched: a snapshot is taken instead.
const SHORT_MAX: Duration = Duration::from_secs(2);

/// So many replies in a row that are of no use are asked for again: a session that was begun anew over
/// the same connection may find the answers to what was asked before it, one for each time it was.
/// Then a snapshot is taken instead.
const USELESS_MAX: u8 = 4;

/// How far a rewind is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewind {
    /// Marker and export are being written.
    Marking { parting: SequenceNumber },
    /// The log is being cut.
    Cutting { scope: RewindScope },
    /// Follows without taking records, and will fetch from whom it follows.
    Looking { not_before: Time, short: Option<(Epoch, Time)> },
    /// Fetches from a master.
    Fetching(Fetch),
    /// The master is gone while storage still works at a step: its answer counts for nothing.
    Draining,
    /// Has fetched everything, and serves nothing yet.
    Quiet { epoch: Epoch, upto: u64 },
}

/// Follows, or looks for whom to follow, and fetches as soon as it does.
const LOOKING: Rewind = Rewind::Looking { not_before: Time::ZERO, short: None };

/// A fetch from a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    link: Link,
    epoch: Epoch,
    step: Step,
    /// The greatest record at which keys were read so far.
    upto: u64,
    /// Since when the master's readers do not see what the state settles at.
    short: Option<Time>,
    /// How many of the last replies were of no use.
    useless: u8,
}

/// What a fetch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Listing,
    /// For keys as they are at the record `least` or behind it.
    Asked {
        at: Time,
        least: u64,
    },
    Applying,
}

impl Rewind {
    /// Whether it may look for a master.
    pub(super) const fn may_follow(&self) -> bool {
        !matches!(self, Self::Marking { .. } | Self::Cutting { .. })
    }

    /// Whether storage works at a step whose answer is still to come.
    pub(super) const fn is_at_work(&self) -> bool {
        match self {
            Self::Marking { .. } | Self::Cutting { .. } | Self::Draining => true,
            Self::Fetching(Fetch { step, .. }) => matches!(step, Step::Listing | Step::Applying),
            Self::Looking { .. } | Self::Quiet { .. } => false,
        }
    }

    /// Whether keys are still to be fetched.
    pub(super) const fn is_unsettled(&self) -> bool {
        !matches!(self, Self::Quiet { .. })
    }
}

impl Core {
    /// Goes on with a rewind that a stop of this node interrupted.
    pub(super) fn resume_rewind(&mut self, marker: Marker) {
        let Part::Following(following) = &mut self.part else { return };
        match (marker.cut, marker.scope) {
            (true, RewindScope::Everything) => following.needs_snapshot = true,
            (true, RewindScope::Log) => self.out.push(Action::EndRewind),
            (true, RewindScope::Keys) => following.rewind = Some(LOOKING),
            (false, _) => {
                let parting = marker.parting;
                following.rewind = Some(Rewind::Marking { parting });
                self.out.push(Action::StartRewind { parting });
            }
        }
    }

    /// The master's log has another history from `parting` on.
    pub(super) fn start_rewind(&mut self, parting: SequenceNumber) {
        let tail = self.log.as_ref().map_or(0, |log| log.tail.number());
        let Part::Following(following) = &mut self.part else { return };
        following.leave();
        following.freshness = Freshness::default();
        if parting.as_u64() > tail {
            following.upstream = Upstream::Waiting { until: self.now + ASK_LATER };
            return;
        }
        following.rewind = Some(Rewind::Marking { parting });
        self.out.push(Action::StartRewind { parting });
    }

    pub(super) fn on_rewind_marked(&mut self, scope: RewindScope) {
        let (Some(log), Part::Following(following)) = (&self.log, &mut self.part) else { return };
        let Some(Rewind::Marking { parting }) = following.rewind else { return };
        let from = parting.max(log.first);
        // Else all of it lies under a snapshot: there is nothing to export.
        if let Some(to) = SequenceNumber::new(log.tail.number())
            && to >= from
        {
            let alert = if parting == SequenceNumber::FIRST {
                Alert::NothingInCommon { from, to }
            } else {
                Alert::Parted { from, to }
            };
            self.out.push(Action::Alert(alert));
        }
        // Nothing of such a log is used again: it stays whole until the snapshot replaces it.
        if scope == RewindScope::Everything {
            following.parted_at = Some(parting);
            self.need_snapshot();
        } else {
            following.rewind = Some(Rewind::Cutting { scope });
            self.out.push(Action::CutLog { parting });
        }
    }

    pub(super) fn on_log_cut(&mut self, state: LogState) {
        let Part::Following(following) = &mut self.part else { return };
        let Some(Rewind::Cutting { scope }) = following.rewind else { return };
        following.appending = None;
        following.rewind = (scope == RewindScope::Keys).then_some(LOOKING);
        if scope == RewindScope::Log {
            self.out.push(Action::EndRewind);
        }
        let log = LogView::new(state);
        if self.committed.is_some_and(|committed| !log.holds(committed)) {
            self.committed = log.tail.last;
        }
        self.log = Some(log);
    }

    /// Begins to fetch once there is a master; asks again elsewhere when it is gone or silent.
    pub(super) fn go_on_rewinding(&mut self) {
        let Part::Following(following) = &self.part else { return };
        match following.rewind {
            Some(Rewind::Looking { not_before, short }) if not_before <= self.now => {
                let Some((link, epoch)) = following.source() else { return };
                let short = short.filter(|(of, _)| *of == epoch).map(|(_, since)| since);
                let (step, upto, useless) = (Step::Listing, 0, 0);
                let fetch = Fetch { link, epoch, step, upto, short, useless };
                self.set_rewind(Rewind::Fetching(fetch));
                self.out.push(Action::ListKeys { restart: true });
            }
            Some(Rewind::Fetching(Fetch { link, epoch, step, .. })) => {
                if following.source() != Some((link, epoch)) {
                    self.lose_rewind(link);
                } else if let Step::Asked { at, .. } = step
                    && self.now.since(at) >= FETCH_MAX
                {
                    self.need_snapshot();
                }
            }
            _ => {}
        }
    }

    /// Whom the keys were fetched from is gone.
    pub(super) fn lose_rewind(&mut self, lost: Link) {
        let Part::Following(following) = &mut self.part else { return };
        if let Some(Rewind::Fetching(Fetch { link, step, .. })) = following.rewind
            && link == lost
        {
            following.rewind = Some(match step {
                Step::Asked { .. } => LOOKING,
                Step::Listing | Step::Applying => Rewind::Draining,
            });
        }
    }

    pub(super) fn on_keys_listed(&mut self, request: Bytes, settles_at: Option<SequenceNumber>) {
        match self.rewind() {
            Some(Rewind::Draining) => self.set_rewind(LOOKING),
            Some(Rewind::Fetching(fetch @ Fetch { step: Step::Listing, .. })) => {
                let least = settles_at.map_or(0, SequenceNumber::as_u64);
                let step = Step::Asked { at: self.now, least };
                self.set_rewind(Rewind::Fetching(Fetch { step, ..fetch }));
                self.send(fetch.link, Message::Fetch { epoch: fetch.epoch, request });
            }
            _ => {}
        }
    }

    pub(super) fn on_keys_in_place(&mut self) {
        let Part::Following(following) = &mut self.part else { return };
        match following.rewind {
            Some(Rewind::Draining) => following.rewind = Some(LOOKING),
            Some(Rewind::Fetching(Fetch { epoch, step: Step::Listing, upto, .. })) => {
                following.rewind = Some(Rewind::Quiet { epoch, upto });
                // What was passed over is asked for again.
                following.leave();
            }
            _ => {}
        }
    }

    pub(super) fn on_fetched(&mut self, on: Link, of: Epoch, at: Option<Position>, reply: Bytes) {
        if let Some(Rewind::Fetching(fetch)) = self.rewind()
            && let Step::Asked { least, .. } = fetch.step
            && (fetch.link, fetch.epoch) == (on, of)
        {
            // The master cannot give them.
            if reply.is_empty() {
                return self.need_snapshot();
            }
            let at = at.map_or(0, |at| at.seq.as_u64());
            if at < least {
                return self.fetch_later(fetch);
            }
            let (step, upto) = (Step::Applying, fetch.upto.max(at));
            self.set_rewind(Rewind::Fetching(Fetch { step, upto, ..fetch }));
            self.out.push(Action::ApplyKeys { reply });
        }
    }

    /// The state would settle ahead of the keys.
    fn fetch_later(&mut self, fetch: Fetch) {
        let since = fetch.short.unwrap_or(self.now);
        if self.now.since(since) < SHORT_MAX {
            let (not_before, short) = (self.now + FETCH_AGAIN, Some((fetch.epoch, since)));
            self.set_rewind(Rewind::Looking { not_before, short });
        } else {
            self.need_snapshot();
        }
    }

    /// Keys do not suffice, or are not to be had: a snapshot takes the place of log and state.
    fn need_snapshot(&mut self) {
        let Part::Following(following) = &mut self.part else { return };
        following.rewind = None;
        following.needs_snapshot = true;
        following.leave();
    }

    pub(super) fn on_keys_applied(&mut self) {
        match self.rewind() {
            Some(Rewind::Draining) => self.set_rewind(LOOKING),
            Some(Rewind::Fetching(fetch @ Fetch { step: Step::Applying, .. })) => {
                self.list_more(Fetch { useless: 0, ..fetch });
            }
            _ => {}
        }
    }

    /// What came is not what was asked for, or not to be read: it is asked for again, as often as the
    /// answers to older requests may be on their way.
    pub(super) fn on_keys_useless(&mut self) {
        match self.rewind() {
            Some(Rewind::Draining) => self.set_rewind(LOOKING),
            Some(Rewind::Fetching(fetch)) if fetch.useless < USELESS_MAX => {
                self.list_more(Fetch { useless: fetch.useless + 1, ..fetch });
            }
            Some(Rewind::Fetching(_)) => self.need_snapshot(),
            _ => {}
        }
    }

    /// Has the keys named that are to be fetched next.
    fn list_more(&mut self, fetch: Fetch) {
        self.set_rewind(Rewind::Fetching(Fetch { step: Step::Listing, ..fetch }));
        self.out.push(Action::ListKeys { restart: false });
    }

    /// Ends the quiet once the state has passed what was fetched, behind the same master; fetches
    /// everything again behind another.
    pub(super) fn check_rewind(&mut self) {
        let Some(Rewind::Quiet { epoch, upto }) = self.rewind() else { return };
        let applied = self.log.as_ref().and_then(|log| log.applied);
        let Part::Following(following) = &mut self.part else { return };
        let Upstream::Streaming { epoch: followed, .. } = following.upstream else { return };
        if followed != epoch {
            following.rewind = Some(LOOKING);
        } else if applied.map_or(0, |applied| applied.as_u64()) >= upto {
            following.rewind = None;
            self.out.push(Action::EndRewind);
            self.acknowledge();
        }
    }

    /// At a master: a slave asks for keys.
    pub(super) fn on_fetch(&mut self, link: Link, epoch: Epoch, request: Bytes) {
        let Part::Leading(leading) = &mut self.part else { return };
        if leading.epoch == epoch && leading.fetching.insert(link) {
            self.out.push(Action::ReadKeys { link, request });
        }
    }

    pub(super) fn on_keys_read(&mut self, link: Link, reply: Bytes, at: Option<Position>) {
        let Part::Leading(leading) = &mut self.part else { return };
        if leading.fetching.remove(&link) {
            let epoch = leading.epoch;
            self.send(link, Message::Fetched { epoch, at, reply });
        }
    }

    /// A snapshot is in place of log and state.
    pub(super) fn on_snapshot_installed(&mut self, state: LogState) {
        let Part::Following(following) = &mut self.part else { return };
        following.leave();
        following.appending = None;
        following.needs_snapshot = false;
        following.wants_snapshot = false;
        following.snapshot_over = None;
        following.parted_at = None;
        following.rewind = None;
        let log = LogView::new(state);
        self.committed = log.tail.last;
        self.log = Some(log);
        if self.standing.set_aside {
            self.standing.set_aside = false;
            self.persist(super::standing::After::Nothing);
        }
    }

    pub(super) fn on_snapshot_failed(&mut self, link: Link, why: String) {
        self.out.push(Action::Alert(Alert::SnapshotFailed { why }));
        match &mut self.part {
            Part::Following(following) if following.snapshot_over == Some(link) => {
                following.snapshot_over = None;
                following.leave();
                following.upstream = Upstream::Waiting { until: self.now + ASK_LATER };
            }
            Part::Leading(_) => self.close(link, "the snapshot for it could not be made"),
            _ => {}
        }
    }

    fn rewind(&self) -> Option<Rewind> {
        match &self.part {
            Part::Following(following) => following.rewind,
            _ => None,
        }
    }

    fn set_rewind(&mut self, rewind: Rewind) {
        if let Part::Following(following) = &mut self.part {
            following.rewind = Some(rewind);
        }
    }
}
