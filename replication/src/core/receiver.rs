//! What a slave takes from the master that it follows, and what it says it has.

use std::{cmp::Ordering, time::Duration};

use larder_types::{Epoch, Position, SequenceNumber};

use super::{
    Action, Alert, Core, Durable, Link, Part, Session, Tail,
    asking::WAIT,
    following::{Following, Upstream},
    planted::planted,
};
use crate::message::{Message, Packing, Records, RefusedWhy};

/// A session over which nothing comes for so long, although the master has more, is begun anew:
/// heartbeats alone keep no stream alive.
const STALLED_MAX: Duration = Duration::from_secs(3);

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
                    (following.appending, following.giving_up) = (None, false);
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

    pub(super) fn on_append_refused(&mut self, why: Option<String>) {
        let Part::Following(following) = &mut self.part else { return };
        (following.appending, following.giving_up) = (None, false);
        following.leave();
        following.upstream = Upstream::Waiting { until: self.now + WAIT };
        self.out.extend(why.map(|why| Action::Alert(Alert::AppendRefused { why })));
    }

    /// Records may wait for room for as long as the disk is full, or nothing is committed. That must not
    /// keep a promotion from its answer, nor this node from its next master.
    pub(super) fn give_up_appending(&mut self) {
        let is_owed = self.owes_answer();
        let Part::Following(following) = &mut self.part else { return };
        let is_left = !matches!(following.upstream, Upstream::Streaming { .. });
        if following.appending.is_some() && !following.giving_up && (is_owed || is_left) {
            following.giving_up = true;
            self.out.push(Action::GiveUpAppending);
        }
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
}
