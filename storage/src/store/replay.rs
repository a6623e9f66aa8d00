//! Replaying the log at a start: one thread reads and verifies it, another puts what it says into layers.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use bytes::Bytes;
use larder_types::Position;

use super::{
    StoreError, StoreOptions, Visibility,
    apply::{self, RecordError},
    digests, writer,
};
use crate::{
    Applied,
    effect::effects,
    inflight::{InFlight, Layer},
    log::{LogError, Record, RecordKind},
    state::ReplicasRecord,
};

/// Records are handed over once their bodies take this much, or there are so many: often enough that
/// neither thread waits for the other for long, and seldom enough that handing over costs nothing.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_RECORDS: usize = 4096;
/// Chunks that were read and not put into layers yet.
const CHUNKS_WAITING_MAX: usize = 2;

/// Records that were read.
struct Chunk {
    bodies: Vec<u8>,
    /// Each without its body, and where that ends.
    records: Vec<(Record<'static>, usize)>,
}

impl Chunk {
    fn new() -> Self {
        let (bodies, records) = (Vec::with_capacity(CHUNK_BYTES), Vec::new());
        Self { bodies, records }
    }

    fn push(&mut self, record: Record<'_>) {
        self.bodies.extend_from_slice(record.body);
        self.records.push((Record { body: &[], ..record }, self.bodies.len()));
    }

    fn is_full(&self) -> bool {
        self.bodies.len() >= CHUNK_BYTES || self.records.len() >= CHUNK_RECORDS
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut start = 0;
        self.records.iter().map(move |(record, end)| {
            let body = &self.bodies[start..*end];
            start = *end;
            Record { body, ..*record }
        })
    }
}

/// Where the thread that reads leaves records.
pub(super) struct Feed {
    chunk: Chunk,
    chunks: SyncSender<Chunk>,
}

/// The other thread has met a record that cannot be applied, and says which.
#[derive(Debug, thiserror::Error)]
#[error("a record before this one cannot be applied")]
pub(super) struct Refused;

impl Feed {
    pub(super) fn push(&mut self, record: Record<'_>) -> Result<(), Refused> {
        self.chunk.push(record);
        if self.chunk.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Refused> {
        self.chunks.send(std::mem::replace(&mut self.chunk, Chunk::new())).map_err(|_| Refused)
    }
}

/// Puts replayed records into layers, as the writer did when it wrote them.
pub(super) struct Replay {
    pub(super) inflight: InFlight,
    top: Arc<Layer>,
    /// The last record that was replayed.
    pub(super) last: Option<Applied>,
    pub(super) replicas: Vec<ReplicasRecord>,
    /// The watermark, where not all that is durable can be read.
    visible: Option<u64>,
    layer_bytes: u64,
    layer_changes: u64,
    digest_every: u64,
}

impl Replay {
    pub(super) fn new(options: &StoreOptions, persisted: Option<Applied>) -> Self {
        let inflight = InFlight::new();
        let top = inflight.top();
        let visible = match options.visibility {
            Visibility::Durable => None,
            Visibility::Committed => Some(persisted.map_or(0, |at| at.position.seq.as_u64())),
        };
        Self {
            inflight,
            top,
            last: None,
            replicas: Vec::new(),
            visible,
            layer_bytes: options.layer_bytes,
            layer_changes: options.layer_changes,
            digest_every: options.digest_every,
        }
    }

    /// Has `read` feed the records of the log, in order, and puts them into layers meanwhile.
    ///
    /// # Errors
    /// That of the first record that cannot be applied, or else that of `read`; when no thread can be
    /// started.
    pub(super) fn run<T>(
        &mut self,
        read: impl FnOnce(&mut Feed) -> Result<T, LogError>,
    ) -> Result<T, StoreError> {
        let (chunks, waiting) = sync_channel(CHUNKS_WAITING_MAX);
        let mut feed = Feed { chunk: Chunk::new(), chunks };
        thread::scope(|scope| {
            let applying = thread::Builder::new().name("replay".into());
            let applying = applying.spawn_scoped(scope, move || self.take(waiting));
            let applying = applying.map_err(StoreError::Thread)?;
            let read = read(&mut feed);
            // Where it is refused, the other thread says why.
            let _ = feed.hand_over();
            drop(feed);
            Ok(applying.join().expect("a panic ends the process").and(read)?)
        })
    }

    /// Takes records until no more come.
    fn take(&mut self, waiting: Receiver<Chunk>) -> Result<(), LogError> {
        for chunk in waiting {
            for record in chunk.records() {
                let seq = record.seq;
                self.record(record)
                    .map_err(|error| LogError::Replay { seq, source: error.into() })?;
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), RecordError> {
        apply::check(&record)?;
        let (seq, position) = (record.seq, Position { epoch: record.epoch, seq: record.seq });
        let mut changes = 0;
        match record.kind {
            RecordKind::Data => {
                for effect in effects(record.body) {
                    changes += 1;
                    let effect = effect.map_err(|source| RecordError::Effect { seq, source })?;
                    // Where everything replayed can be read, no reader wants an older version.
                    let visible = self.visible.unwrap_or(seq.as_u64());
                    if !apply::put(&self.top, seq.as_u64(), visible, effect) {
                        self.begin_layer(Some(seq.as_u64()));
                    }
                }
            }
            RecordKind::Replicas => {
                let body = Bytes::copy_from_slice(record.body);
                let record = ReplicasRecord { position, body };
                self.replicas.push(record.clone());
                self.top.add_replicas(record);
            }
            RecordKind::Epoch => {}
        }
        self.top.count_record(writer::FRAME_BYTES + record.body.len() as u64, changes);
        self.last = Some(Applied { position, hybrid: record.hybrid });
        if self.top.log_bytes() >= self.layer_bytes
            || self.top.changes() >= self.layer_changes
            || digests::is_wanted(self.digest_every, seq.as_u64())
        {
            self.begin_layer(None);
        }
        Ok(())
    }

    fn begin_layer(&mut self, cleared: Option<u64>) {
        let below = std::mem::replace(&mut self.top, Arc::new(Layer::new(cleared)));
        let hidden = cleared.is_some() && self.visible.is_none();
        match self.last {
            Some(last) if !hidden => {
                below.seal(last);
                self.inflight.push(self.top.clone());
            }
            // Below the first replayed record is nothing; and where everything replayed can be
            // read, nobody reads what lies below a deletion of every key.
            _ => {
                for layer in self.inflight.stack().iter().rev() {
                    self.top.take_over(layer);
                }
                self.inflight = InFlight::over(self.top.clone());
            }
        }
    }
}
