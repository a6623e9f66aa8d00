//! The folder's part of a store: folds sealed layers into RocksDB, flushes it, trims the log.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use larder_types::SequenceNumber;

use super::{Shared, pace, writer::LAYERS_MAX};
use crate::{
    Applied,
    cache::RowId,
    inflight::{FoldRow, Layer},
    log::LogError,
    row::{RowRef, RowValue, generation_of},
    state::{FoldBatch, StateError},
};

/// How long the fold sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_millis(200);

/// The folder's part; owned by the shard's fold thread.
pub struct Folder {
    shared: Arc<Shared>,
    /// Bytes of log folded since the last flush: they would have to be replayed after a crash.
    folded_bytes: u64,
    /// The same in changes of rows and fields.
    folded_changes: u64,
    /// The same in layers.
    folded_layers: usize,
    /// The last record of what a flush is persisting while the fold goes on.
    flushing: Option<u64>,
}

impl Folder {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, folded_bytes: 0, folded_changes: 0, folded_layers: 0, flushing: None }
    }

    /// Folds until [`super::Store::stop_folding`], then flushes, so that the next start has
    /// nothing to replay.
    ///
    /// # Errors
    /// When RocksDB fails (the shard must be opened again) or a trimmed segment cannot be removed.
    pub fn run(mut self) -> Result<(), FoldError> {
        let result = self.fold_until_stopped();
        if let Err(why) = &result {
            self.shared.fail(why);
        }
        result
    }

    fn fold_until_stopped(&mut self) -> Result<(), FoldError> {
        loop {
            match self.fold_one()? {
                ControlFlow::Continue(()) => self.shared.notify(),
                ControlFlow::Break(()) if self.flush_is_due() => self.flush()?,
                ControlFlow::Break(()) if self.shared.fold.stop.load(Ordering::Acquire) => break,
                ControlFlow::Break(()) => {
                    let mut turn = self.shared.turn.lock();
                    self.shared.turned.wait_for(&mut turn, IDLE);
                }
            }
            self.end_flush()?;
            if self.owes_flush() {
                self.begin_flush()?;
            }
            if self.shared.retention.take_moved() {
                self.trim()?;
            }
            let background_errors = self.shared.database()?.background_errors();
            if background_errors > 0 {
                return Err(StateError::Background { errors: background_errors }.into());
            }
        }
        self.flush()
    }

    /// Whether a flush was asked for and every layer that was sealed by then is folded. Takes the
    /// order: the next one is for what is sealed after it.
    fn flush_is_due(&self) -> bool {
        let flush = &self.shared.fold.flush;
        let folded = || self.shared.inflight.stack().iter().all(|layer| layer.sealed().is_none());
        flush.load(Ordering::Acquire) && folded() && flush.swap(false, Ordering::AcqRel)
    }

    /// Folds the bottom layer if it may be folded; breaks if it may not, or not yet. What
    /// [`Folder::run`] repeats, for those who fold without a thread.
    ///
    /// # Errors
    /// When RocksDB fails.
    pub fn fold_one(&mut self) -> Result<ControlFlow<()>, FoldError> {
        let Some((bottom, last)) = self.shared.foldable() else {
            return Ok(ControlFlow::Break(()));
        };
        let (seq, marks) = (last.position.seq.as_u64(), &self.shared.watermarks);
        self.shared.pace.begin(seq, Instant::now());
        // Before RocksDB has any of it, so that readers can tell that it may have.
        self.shared.raise(&marks.folding, seq, &marks.visible);
        self.shared.database()?.fold(batch_of(&bottom, seq)?, last)?;
        self.shared.raise(&marks.applied, seq, &marks.durable);
        self.refresh_cache(&bottom, seq);
        self.shared.inflight.pop_bottom();
        let layers = pace::layers(&bottom, &self.shared.options);
        self.shared.pace.folded(bottom.log_bytes(), layers, Instant::now());
        self.folded_bytes += bottom.log_bytes();
        self.folded_changes += bottom.changes();
        self.folded_layers += 1;
        self.shared.digests.reached(&self.shared, last);
        Ok(ControlFlow::Continue(()))
    }

    fn refresh_cache(&self, layer: &Layer, seq: u64) {
        let cache = &self.shared.cache;
        if layer.cleared_by(seq) {
            cache.clear();
        }
        layer.visit_sorted(seq, |rows| {
            for FoldRow { key, row, fields, .. } in rows {
                cache.refresh(RowId::of_key(key), row);
                let Some(generation) = row.as_deref().and_then(generation_of) else { continue };
                for (name, field) in fields.changes(generation) {
                    cache.renew(RowId::of_element(key, generation, name), field);
                }
            }
        });
    }

    /// Whether so much was folded since the last flush began that another must come next.
    pub fn owes_flush(&self) -> bool {
        self.folded_bytes >= self.shared.options.layer_bytes
            || self.folded_changes >= self.shared.options.layer_changes
            || self.folded_layers >= LAYERS_MAX
    }

    /// Flushes RocksDB and trims the log.
    ///
    /// # Errors
    /// As [`Folder::run`].
    pub fn flush(&mut self) -> Result<(), FoldError> {
        self.flushing = None;
        let Some(persisted) = self.shared.database()?.flush()? else { return Ok(()) };
        (self.folded_bytes, self.folded_changes, self.folded_layers) = (0, 0, 0);
        self.persisted(persisted)
    }

    /// Begins a flush that goes on while more is folded. One at a time, so that what a start must
    /// replay stays bounded: where one goes on already, waits for it and flushes all.
    fn begin_flush(&mut self) -> Result<(), FoldError> {
        if self.flushing.is_some() {
            let began = Instant::now();
            let flushed = self.flush();
            self.shared.pace.held_up(began.elapsed());
            return flushed;
        }
        self.flushing = Some(self.shared.watermarks.applied.load(Ordering::Acquire));
        (self.folded_bytes, self.folded_changes, self.folded_layers) = (0, 0, 0);
        Ok(self.shared.database()?.begin_flush()?)
    }

    /// Trims the log once the flush that was begun has ended.
    fn end_flush(&mut self) -> Result<(), FoldError> {
        let Some(upto) = self.flushing else { return Ok(()) };
        let persisted = self.shared.database()?.persisted()?;
        let Some(persisted) = persisted.filter(|it| it.position.seq.as_u64() >= upto) else {
            return Ok(());
        };
        self.flushing = None;
        self.persisted(persisted)
    }

    /// What RocksDB has on disk need not be in the log any more.
    fn persisted(&self, persisted: Applied) -> Result<(), FoldError> {
        let marks = &self.shared.watermarks;
        let seq = persisted.position.seq;
        self.shared.raise(&marks.persisted, seq.as_u64(), &marks.applied);
        self.trim()
    }

    /// Trims what the state does not need; of that, what followers and snapshots need only beyond the
    /// cap.
    fn trim(&self) -> Result<(), FoldError> {
        let shared = &*self.shared;
        let persisted = shared.watermarks.persisted.load(Ordering::Acquire);
        let Some(persisted) = SequenceNumber::new(persisted) else { return Ok(()) };
        let retention = &shared.retention;
        let limit =
            retention.pinned(true).map_or(persisted.next(), |pin| pin.min(persisted.next()));
        let others = [retention.followers(), retention.pinned(false)];
        let floor = others.into_iter().flatten().fold(limit, SequenceNumber::min);
        shared.log.trim_capped(floor, limit, shared.options.retain_bytes_max)?;
        assert!(shared.log.first() <= persisted.next(), "trimmed <= persisted");
        Ok(())
    }
}

/// Why the fold stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// A trimmed segment could not be removed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// RocksDB failed.
    #[error(transparent)]
    State(#[from] StateError),
}

fn batch_of(layer: &Layer, seq: u64) -> Result<FoldBatch, StateError> {
    // What the log has of it is about what RocksDB is given: the batch is not copied as it grows.
    let mut batch = FoldBatch::with_capacity(usize::try_from(layer.log_bytes()).unwrap_or(0));
    if layer.cleared_by(seq) {
        batch.clear();
    }
    for record in layer.replicas() {
        batch.put_replicas(&record);
    }
    let mut result = Ok(());
    layer.visit_sorted(seq, |rows| {
        for unit in rows.chunk_by(|a, b| a.unit == b.unit) {
            for FoldRow { key, row, .. } in unit {
                match row {
                    Some(row) => batch.put_row(key, row),
                    None => batch.delete_row(key),
                }
            }
            for row in unit {
                if result.is_ok() {
                    result = add_elements(&mut batch, row);
                }
            }
        }
    });
    result.map(|()| batch)
}

/// Adds the changed fields of the hash that the row names; those of its predecessors are dropped
/// with them by RocksDB's compaction.
fn add_elements(batch: &mut FoldBatch, row: &FoldRow<'_>) -> Result<(), StateError> {
    let Some(bytes) = row.row else { return Ok(()) };
    let RowValue::Hash { generation, .. } = RowRef::parse(bytes)?.value() else { return Ok(()) };
    let mut fields: Vec<_> = row.fields.changes(generation).collect();
    fields.sort_unstable_by_key(|(field, _)| *field);
    for (field, change) in fields {
        match change {
            Some(value) => batch.put_element(row.key, generation, field, value),
            None => batch.delete_element(row.key, generation, field),
        }
    }
    Ok(())
}
