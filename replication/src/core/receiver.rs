//! A slave's part: whom it follows, what it takes from there, and what it says it has.

use std::{cmp::Ordering, time::Duration};

use larder_types::{Epoch, LogId, Position, SequenceNumber};

use super::{
    Action, Alert, Core, Durable, Link, Part, Session, Tail, Time, heartbeat::Freshness,
    planted::planted, rewind::Rewind, standing::After,
};
use crate::message::{EPOCHS_MAX, Follow, Message, Packing, Records, RefusedWhy, Verdict};

/// An asking that has had no answer for so long is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After it was told to wait, a slave asks again so much later.
const WAIT: Duration = Duration::from_millis(500);
/// A session over which nothing comes for so long, although the master has more, is begun anew:
/// heartbeats alone keep no stream alive.
const STALLED_MAX: Duration = Duration::from_secs(3);

/// What a slave knows.
#[derive(Debug, Default)]
pub(super) struct Following {
    pub(super) upstream: Upstream,
    /// Whether records that this node appended as a master may still be on their way to the disk.
    pub(super) settling: bool,
    /// The tail that the log has once everything asked for is durable.
    pub(super) appending: Option<Tail>,
    /// What the master of the session said is committed.
    committed: Option<Position>,
    pub(super) freshness: Freshness,
    /// Whether this node was the master, and has not joined another one's log since.
    pub(super) fenced: bool,
    pub(super) rewind: Option<Rewind>,
    /// Whether records of the session were passed over while keys were fetched.
    pub(super) passed_over: bool,
    /// Whether it needs a snapshot in place of what it has: a rewind takes back everything.
    pub(super) needs_snapshot: bool,
    /// Whether the master ordered a snapshot in place of what is whole.
    pub(super) wants_snapshot: bool,
    /// No key may be fetched as it was before this record: the state is put back to it.
    pub(super) fetch_from: u64,
    /// The master whose readers do not see that record yet, and since when.
    pub(super) short: Option<(Epoch, Time)>,
    /// Where the log that a snapshot is needed for parted from the master's.
    pub(super) parted_at: Option<SequenceNumber>,
    /// The link over which the driver takes a snapshot, until it says what came of it.
    pub(super) snapshot_over: Option<Link>,
    /// When the session last brought anything, or began.
    last_records: Time,
    attempts: u64,
}

/// Where a slave gets its records from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Upstream {
    #[default]
    None,
    Waiting {
        until: Time,
    },
    Asking {
        link: Link,
        epoch: Epoch,
        attempt: u64,
        at: Time,
    },
    Streaming {
        link: Link,
        session: Session,
        epoch: Epoch,
        received: Tail,
    },
    Snapshot {
        link: Link,
        session: Session,
        epoch: Epoch,
    },
}

impl Upstream {
    pub(super) const fn link(&self) -> Option<Link> {
        match self {
            Self::None | Self::Waiting { .. } => None,
            Self::Asking { link, .. }
            | Self::Streaming { link, .. }
            | Self::Snapshot { link, .. } => Some(*link),
        }
    }

    const fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::None | Self::Waiting { .. } => None,
            Self::Asking { epoch, .. }
            | Self::Streaming { epoch, .. }
            | Self::Snapshot { epoch, .. } => Some(*epoch),
        }
    }
}

impl Following {
    pub(super) fn after_leading() -> Self {
        Self { fenced: true, ..Self::default() }
    }

    /// Whom it follows, if records come from there.
    pub(super) const fn source(&self) -> Option<(Link, Epoch)> {
        match self.upstream {
            Upstream::Streaming { link, epoch, .. } => Some((link, epoch)),
            _ => None,
        }
    }

    /// Whether nothing is on its way into the log.
    pub(super) const fn is_at_rest(&self) -> bool {
        self.appending.is_none() && !self.settling
    }

    /// Whether keys are being fetched, so that nothing may be appended.
    fn fetches(&self) -> bool {
        self.rewind.as_ref().is_some_and(Rewind::is_unsettled)
    }

    /// Leaves whom it follows; it looks for a master again.
    pub(super) fn leave(&mut self) {
        self.upstream = Upstream::None;
        self.committed = None;
        self.freshness.restart();
    }
}

impl Core {
    /// The session on this link, if this node follows over it.
    pub(super) fn streaming_on(&self, on: Link) -> Option<(Session, Epoch)> {
        match &self.part {
            Part::Following(Following {
                upstream: Upstream::Streaming { link, session, epoch, .. },
                ..
            }) if *link == on => Some((*session, *epoch)),
            _ => None,
        }
    }

    /// The link over which the newest master is reached that this node may follow.
    pub(super) fn best_leader(&self) -> Option<(Link, Epoch)> {
        let logged = self.log.as_ref().and_then(super::log_view::LogView::last_epoch);
        let takes = |epoch: Epoch| {
            epoch.term >= self.standing.promised
                && logged.is_none_or(|last| epoch.order(last) != Some(Ordering::Less))
        };
        let leaders = self.links.iter().filter_map(|(link, conn)| Some((*link, conn.view.leads?)));
        leaders
            .filter(|(_, epoch)| takes(*epoch))
            .max_by_key(|(link, epoch)| (epoch.term, epoch.run, *link))
    }

    /// Looks for a master, asks it, asks again; leaves one that a newer one replaces.
    pub(super) fn seek(&mut self) {
        let best = self.best_leader();
        let now = self.now;
        let Part::Following(following) = &mut self.part else { return };
        if let Some(epoch) = following.upstream.epoch()
            && best.is_none_or(|(_, newest)| newest != epoch)
        {
            following.leave();
        }
        match following.upstream {
            Upstream::None => {}
            Upstream::Waiting { until } if until <= now => {}
            Upstream::Asking { at, .. } if now.since(at) >= ASK_AGAIN => {}
            _ => return,
        }
        let rewinding = following.rewind.as_ref().is_some_and(|rewind| !rewind.may_follow());
        let busy = !following.is_at_rest() || following.snapshot_over.is_some();
        if rewinding || busy || !self.is_stored() {
            return;
        }
        let Some((link, epoch)) = best else { return };
        let logged = self.log.as_ref().map_or(0, super::log_view::LogView::last_term);
        if !self.grants.allow(epoch.term, logged, now) {
            return;
        }
        if epoch.term > self.standing.promised {
            self.standing.promised = epoch.term;
            self.standing.promised_to = None;
            return self.persist(After::Nothing);
        }
        self.ask(link, epoch);
    }

    fn ask(&mut self, link: Link, epoch: Epoch) {
        let Part::Following(following) = &mut self.part else { return };
        following.attempts += 1;
        let attempt = following.attempts;
        following.upstream = Upstream::Asking { link, epoch, attempt, at: self.now };
        let epochs = self.log.as_ref().map_or(&[][..], |log| &log.epochs);
        let epochs = epochs[epochs.len().saturating_sub(EPOCHS_MAX)..].to_vec();
        let follow = Follow {
            attempt,
            disk: self.standing.disk,
            log: self.log.as_ref().map(|log| log.id),
            tail: self.log.as_ref().map_or(Tail::EMPTY, |log| log.tail),
            epochs,
            snapshot: following.needs_snapshot || following.wants_snapshot,
            aside: self.standing.set_aside,
        };
        self.send(link, Message::Follow(follow));
    }

    pub(super) fn on_verdict(&mut self, link: Link, attempt: u64, verdict: Verdict) {
        let now = self.now;
        let Part::Following(following) = &mut self.part else { return };
        let asked = match following.upstream {
            Upstream::Asking { link: of, attempt: asked, .. } => of == link && asked == attempt,
            upstream => attempt == 0 && upstream.link() == Some(link),
        };
        if !asked {
            return;
        }
        match verdict {
            Verdict::Continue { session, epoch } if attempt > 0 => {
                self.start_following(link, session, epoch);
            }
            Verdict::Parted { at, .. } if attempt > 0 => self.start_rewind(at),
            Verdict::Snapshot { session, epoch, log } => {
                following.leave();
                following.wants_snapshot |= attempt == 0;
                if following.snapshot_over.is_none() {
                    following.upstream = Upstream::Snapshot { link, session, epoch };
                    self.replace_log(link, session, log);
                }
            }
            Verdict::NewDisk => {
                following.leave();
                self.standing.disk = larder_types::DiskId(self.ids.draw());
                self.persist(After::Nothing);
            }
            Verdict::SetAside => {
                self.standing.set_aside = true;
                self.persist(After::Nothing);
                self.acknowledge();
            }
            Verdict::Refused { why } => {
                following.upstream = Upstream::Waiting { until: now + ASK_AGAIN };
                self.conflict(link, why);
            }
            Verdict::Wait | Verdict::Continue { .. } | Verdict::Parted { .. } => {
                following.leave();
                following.upstream = Upstream::Waiting { until: now + WAIT };
            }
        }
    }

    /// Notes on the disk what this log may have acknowledged, as far as it joins the master's, and
    /// then has it replaced by a snapshot.
    fn replace_log(&mut self, link: Link, session: Session, log: LogId) {
        let tail = self.log.as_ref().map_or(0, |log| log.tail.number());
        let Part::Following(following) = &self.part else { return };
        let joined = following.parted_at.map_or(tail, |parting| tail.min(parting.as_u64() - 1));
        if joined > self.standing.acknowledged {
            self.standing.acknowledged = joined;
            self.persist(After::TakeSnapshot { link, session, log });
        } else {
            self.take_snapshot(link, session, log);
        }
    }

    /// What the log may have acknowledged is on the disk.
    pub(super) fn take_snapshot(&mut self, link: Link, session: Session, log: LogId) {
        let Part::Following(following) = &mut self.part else { return };
        let still = matches!(following.upstream, Upstream::Snapshot { link: of, session: it, .. }
            if (of, it) == (link, session));
        if still && following.snapshot_over.is_none() {
            following.snapshot_over = Some(link);
            self.out.push(Action::StartSnapshot { link, session, log });
        }
    }

    /// A refusal that a human has to look into.
    fn conflict(&mut self, link: Link, why: RefusedWhy) {
        let what = match why {
            RefusedWhy::NotMaster | RefusedWhy::Stale => return,
            RefusedWhy::OtherLog => "it has another log",
            RefusedWhy::SameNumber => "it has an epoch of the same number with another history",
            RefusedWhy::Differs => "its last record differs from ours of the same number",
        };
        if let Some(conn) = self.links.get(&link) {
            let node = conn.peer.clone();
            self.out.push(Action::Alert(Alert::Conflict { node, what }));
        }
    }

    fn start_following(&mut self, link: Link, session: Session, epoch: Epoch) {
        if planted!(self.config, CutToShorterUpstream)
            && let (Some(log), Some(committed)) = (&self.log, self.committed)
            && committed.seq.as_u64() < log.tail.number()
        {
            return self.start_rewind(committed.seq.next());
        }
        let (Some(log), Part::Following(following)) = (&self.log, &mut self.part) else { return };
        let received = log.tail;
        following.upstream = Upstream::Streaming { link, session, epoch, received };
        following.committed = None;
        following.last_records = self.now;
        following.passed_over = false;
        following.fenced = false;
        following.freshness.restart();
        self.check_rewind();
        self.acknowledge();
    }

    pub(super) fn on_records(&mut self, on: Link, records: Records) {
        let Some((session, epoch)) = self.streaming_on(on) else { return };
        if session != records.session {
            return;
        }
        if records.packing != Packing::Raw {
            return self.close(on, "its records were not unpacked");
        }
        if let Some(chunk) = records.chunk {
            let Part::Following(following) = &mut self.part else { return };
            following.last_records = self.now;
            if following.fetches() {
                following.passed_over = true;
                return self.hear_committed(records.committed);
            }
            let Upstream::Streaming { received, .. } = &mut following.upstream else { return };
            if chunk.last.seq.as_u64() <= received.number() {
                return self.hear_committed(records.committed);
            }
            let mut joins = chunk.prev == *received;
            if planted!(self.config, TrimmedSkipped) {
                joins = true;
            }
            if planted!(self.config, PositionWithoutEpoch) {
                joins |= chunk.prev.number() == received.number();
            }
            if !joins && chunk.prev.number() == received.number() {
                self.conflict(on, RefusedWhy::Differs);
                return self.close(on, "its records do not join this log");
            }
            if !joins || chunk.last.epoch.order(epoch) == Some(Ordering::Greater) {
                return following.leave();
            }
            *received = Tail { last: Some(chunk.last), crc: chunk.last_crc };
            following.appending = Some(*received);
            if planted!(self.config, AckBeforeFsync) {
                let ack = Message::Ack { session, durable: chunk.last, counts: true };
                self.out.push(Action::Send { link: on, message: ack });
            }
            self.out.push(Action::Append { chunk });
        }
        self.hear_committed(records.committed);
    }

    /// Records of this node's own log are durable.
    pub(super) fn on_durable(&mut self, durable: &Durable) {
        let Some(log) = &mut self.log else { return };
        log.grow(durable);
        match &mut self.part {
            Part::Leading(_) => {
                if !durable.sets.is_empty() {
                    self.replica_set_changed();
                }
                self.advance_commit();
                self.change_replica_set();
                self.feed_all();
            }
            Part::Beginning { epoch, by } => {
                let (epoch, by) = (*epoch, *by);
                if let Some(start) = durable.epochs.iter().find(|start| start.epoch == epoch) {
                    self.start_leading(*start, by);
                }
            }
            Part::Following(following) => {
                if following.appending.is_some_and(|tail| tail.number() <= durable.tail.number()) {
                    following.appending = None;
                }
                self.acknowledge();
                self.show_committed();
            }
            Part::Resuming { .. } => {}
        }
    }

    /// Tells the master what is durable here. Only what is in this log, as it joins the master's.
    pub(super) fn acknowledge(&mut self) {
        let counts = !self.standing.set_aside;
        let (Some(log), Part::Following(following)) = (&self.log, &self.part) else { return };
        let Upstream::Streaming { link, session, received, .. } = following.upstream else {
            return;
        };
        if let Some(durable) = log.tail.last
            && durable.seq.as_u64() <= received.number()
        {
            self.send(link, Message::Ack { session, durable, counts });
        }
    }

    pub(super) fn on_append_refused(&mut self, why: String) {
        let Part::Following(following) = &mut self.part else { return };
        following.appending = None;
        following.leave();
        following.upstream = Upstream::Waiting { until: self.now + WAIT };
        self.out.push(Action::Alert(Alert::AppendRefused { why }));
    }

    /// The master has more than came over the session, for too long: it is asked anew.
    pub(super) fn check_flow(&mut self, master_has: u64) {
        let Part::Following(following) = &mut self.part else { return };
        if let Upstream::Streaming { received, .. } = following.upstream
            && master_has > received.number()
            && following.appending.is_none()
            && !following.fetches()
            && self.now.since(following.last_records) >= STALLED_MAX
        {
            following.leave();
        }
    }

    /// The master of the session said what is committed.
    pub(super) fn hear_committed(&mut self, committed: Option<Position>) {
        let Part::Following(following) = &mut self.part else { return };
        if committed.map(|it| it.seq) > following.committed.map(|it| it.seq) {
            following.committed = committed;
        }
        self.show_committed();
    }

    /// Shows what is committed and durable here.
    fn show_committed(&mut self) {
        let (Some(log), Part::Following(following)) = (&self.log, &self.part) else { return };
        let Upstream::Streaming { received, .. } = following.upstream else { return };
        let committed = following.committed.map_or(0, |committed| committed.seq.as_u64());
        let mut upto = committed.min(log.tail.number()).min(received.number());
        if planted!(self.config, VisibleBeforeCommitted) {
            upto = log.tail.number();
        }
        if upto > self.committed.map_or(0, |shown| shown.seq.as_u64())
            && let Some(position) = log.position_at_number(upto)
        {
            self.committed = Some(position);
            self.out.push(Action::Commit { position });
        }
    }

    /// Readers here see more.
    pub(super) fn on_progress(
        &mut self,
        visible: Option<SequenceNumber>,
        applied: Option<SequenceNumber>,
    ) {
        let Some(log) = &mut self.log else { return };
        log.show(visible, applied);
        let visible = self.visible();
        if let Part::Following(following) = &mut self.part {
            following.freshness.see(visible);
        }
        self.check_rewind();
    }

    /// The link to the master is gone.
    pub(super) fn lose_upstream(&mut self, link: Link) {
        if let Part::Following(following) = &mut self.part
            && following.upstream.link() == Some(link)
        {
            following.leave();
        }
        self.lose_rewind(link);
    }
}
