//! How a slave finds a master: whom it asks, when it asks again, and what the answer leads to.

use std::{cmp::Ordering, time::Duration};

use larder_types::Epoch;

use super::{
    Action, Alert, Core, Link, Part, Session, Tail, following::Upstream, links::Conn,
    log_view::LogView, planted::planted, rewind::Rewind, standing::After,
};
use crate::message::{EPOCHS_MAX, Follow, Message, RefusedWhy, Verdict};

/// An asking that has had no answer for so long is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After it was told to wait, a slave asks again so much later.
pub(super) const WAIT: Duration = Duration::from_millis(500);

impl Core {
    /// The link over which the newest master is reached that this node may follow.
    pub(super) fn best_leader(&self) -> Option<(Link, Epoch)> {
        let logged = self.log.as_ref().and_then(LogView::last_epoch);
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
        let logged = self.log.as_ref().map_or(0, LogView::last_term);
        let allows = |conn: &Conn| self.grants.allow(&conn.peer, epoch.term, logged, now);
        if !self.links.get(&link).is_some_and(allows) {
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
            if let (0, Verdict::Snapshot { epoch, .. }) = (attempt, verdict) {
                self.heed_order(link, epoch);
            }
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
                    following.upstream = Upstream::Snapshot { link, session, epoch, log };
                    self.note_acknowledged();
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

    /// The master orders a snapshot while nothing comes from it: it was told to wait, was refused, or
    /// asks just now. It asks again, and for a snapshot.
    fn heed_order(&mut self, link: Link, epoch: Epoch) {
        let best = self.best_leader();
        if let Part::Following(following) = &mut self.part
            && best == Some((link, epoch))
        {
            following.leave();
            following.wants_snapshot = true;
        }
    }

    /// Notes on the disk what this log may have acknowledged, as far as it joins the master's: it is
    /// to be replaced by a snapshot.
    fn note_acknowledged(&mut self) {
        let tail = self.log.as_ref().map_or(0, |log| log.tail.number());
        let Part::Following(following) = &self.part else { return };
        let joined = following.parted_at.map_or(tail, |parting| tail.min(parting.as_u64() - 1));
        if joined > self.standing.acknowledged {
            self.standing.acknowledged = joined;
            self.persist(After::Nothing);
        }
    }

    /// Takes the snapshot that the master gives, once what the log may have acknowledged is on the
    /// disk, and storage does not work at a step of a rewind: both would be at the same directory.
    pub(super) fn take_snapshot(&mut self) {
        let stored = self.is_stored();
        let Part::Following(following) = &mut self.part else { return };
        let works = following.rewind.as_ref().is_some_and(Rewind::is_at_work);
        if let Upstream::Snapshot { link, session, log, .. } = following.upstream
            && following.snapshot_over.is_none()
            && stored
            && !works
        {
            following.snapshot_over = Some(link);
            self.out.push(Action::StartSnapshot { link, session, log });
        }
    }

    /// A refusal that a human has to look into.
    pub(super) fn conflict(&mut self, link: Link, why: RefusedWhy) {
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
        following.fenced = false;
        following.freshness.restart();
        self.check_rewind();
        self.acknowledge();
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
