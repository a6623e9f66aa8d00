//! The syncer's part of a store: makes batches durable, then visible.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use larder_types::SequenceNumber;

use super::{Shared, Visibility};
use crate::log::{self, Batch, LogError};

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once it is fsynced: a power cut loses nothing that was acknowledged.
    Fsync,
    /// Once the operating system has it; an fsync follows after at most this many milliseconds. A
    /// power cut loses at most what was acknowledged in that time, a crash of the process nothing.
    Interval(u64),
}

/// The syncer's part; owned by the shard's sync thread.
pub struct Syncer {
    shared: Arc<Shared>,
    log: log::Syncer,
    /// When the oldest write that is not fsynced yet was written.
    unsynced_since: Option<Instant>,
    /// When the last batch was begun, and the bytes of its records.
    last: Option<(Instant, u64)>,
}

impl Syncer {
    pub(super) const fn new(shared: Arc<Shared>, log: log::Syncer) -> Self {
        Self { shared, log, unsynced_since: None, last: None }
    }

    /// Writes the batch and makes it count as the namespace's durability says; afterwards its
    /// records are visible, unless visibility waits for commits.
    ///
    /// # Errors
    /// Any error of writing or fsyncing poisons the log: nothing of the batch may be
    /// acknowledged, and the process must end.
    pub fn commit(&mut self, batch: Batch) -> Result<(), LogError> {
        self.last = Some((Instant::now(), batch.record_bytes() as u64));
        let last = self.log.write(batch)?;
        match self.shared.options.durability {
            Durability::Fsync => self.sync()?,
            Durability::Interval(_) => {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
        }
        self.visible(last);
        if self.patience() == Some(Duration::ZERO) {
            self.sync()?;
        }
        self.tell();
        Ok(())
    }

    /// Tells those who wait for durable records: the fold, which waits for visible ones too, and
    /// replication.
    fn tell(&self) {
        self.shared.notify_fold();
        self.shared.tell_durable();
    }

    /// To be called before the next batch is taken, which grows meanwhile: waits for [`Syncer::pause`].
    pub fn keep_pace(&self) {
        let pause = self.pause();
        thread::sleep(pause);
        self.shared.pace.note_pause(pause);
    }

    /// How long the next batch should wait: not at all while the fold keeps up, and never long.
    pub fn pause(&self) -> Duration {
        let Some((began, bytes)) = self.last else { return Duration::ZERO };
        // What the fold may not take yet does not make it late.
        if self.shared.foldable().is_none() {
            return Duration::ZERO;
        }
        let (shared, now) = (&*self.shared, Instant::now());
        let fill = shared.pace.fill(&shared.inflight.stack(), &shared.options, now);
        let pause = shared.pace.pause(fill, bytes, now - began);
        self.patience().map_or(pause, |patience| pause.min(patience))
    }

    /// How long what was written may wait for its fsync, which [`Syncer::idle`] does; `None` where
    /// nothing waits for one. Not at all where the writer is out of room: the fold makes room, and takes
    /// only what is durable.
    pub fn patience(&self) -> Option<Duration> {
        let Durability::Interval(millis) = self.shared.options.durability else { return None };
        let since = self.unsynced_since?;
        if !self.shared.has_room() {
            return Some(Duration::ZERO);
        }
        Some(Duration::from_millis(millis).saturating_sub(since.elapsed()))
    }

    /// To be called when no batch came for a while: fsyncs what is due; where nothing waits for that,
    /// notes in the log what is durable, for recovery.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    pub fn idle(&mut self) -> Result<(), LogError> {
        match self.patience() {
            None => self.log.mark_idle(),
            Some(Duration::ZERO) => self.sync_rest(),
            Some(_) => Ok(()),
        }
    }

    /// Fsyncs what was written and is not durable yet.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    pub fn sync_rest(&mut self) -> Result<(), LogError> {
        if self.unsynced_since.is_some() {
            self.sync()?;
            self.tell();
        }
        Ok(())
    }

    /// Ends the log cleanly.
    ///
    /// # Errors
    /// As [`Syncer::commit`].
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        self.tell();
        self.log.close()
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let began = Instant::now();
        let durable = self.log.sync()?;
        self.shared.fsyncs.record(began.elapsed());
        self.unsynced_since = None;
        if let Some(durable) = durable {
            let marks = &self.shared.watermarks;
            self.shared.raise(&marks.durable, durable.as_u64(), &marks.appended);
        }
        Ok(())
    }

    /// Before the replies: who is told of a write must be able to read it. Where visibility waits
    /// for commits, so do the replies.
    fn visible(&self, seq: SequenceNumber) {
        if self.shared.options.visibility == Visibility::Committed {
            return;
        }
        let marks = &self.shared.watermarks;
        self.shared.raise(&marks.visible, seq.as_u64(), &marks.appended);
    }
}
