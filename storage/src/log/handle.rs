//! The log as all its threads see it: watermarks, segments, trimming, and the reserve of disk.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_types::{Epoch, EpochStart, LogId, RegionId, SequenceNumber};
use parking_lot::{Mutex, RwLock};

use super::{
    LogOptions,
    ahead::{self, Ahead},
    error::{LogError, ReadError, ReserveError},
    format::Sums,
    hot::HotTail,
    read::Cursor,
    segment::{Segment, SegmentInfo},
};
use crate::fs::Fs;

/// How long a figure of free space is trusted.
const RESERVE_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes appended after which it is asked for again, however little time has passed.
const RESERVE_CHECK_BYTES: u64 = 16 << 20;

/// What the appender, the syncer, the readers and the handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) id: LogId,
    pub(super) sums: Sums,
    pub(super) origin: RegionId,
    pub(super) hot: HotTail,
    /// Ascending and never empty; the last is the one being written.
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    /// Ascending: every epoch with a record written, and the one in effect before the first.
    epochs: RwLock<Vec<EpochStart>>,
    /// Numbers of the last records; 0 for none. `trimmed <= durable <= appended`.
    trimmed: AtomicU64,
    durable: AtomicU64,
    appended: AtomicU64,
    written_bytes: AtomicU64,
    poisoned: AtomicBool,
    cause: Mutex<Option<String>>,
    /// Segments out of the index whose files are still to be removed, oldest first.
    doomed: Mutex<Vec<Arc<Segment>>>,
    pub(super) segment_bytes: u64,
    pub(super) ahead: Ahead,
    reserve: Mutex<Reserve>,
    reserve_bytes: u64,
}

#[derive(Debug, Default)]
struct Reserve {
    checked: Option<(Instant, u64)>,
    available: u64,
    /// The reserve, and what others may write.
    wanted: u64,
}

impl Shared {
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        id: LogId,
        options: &LogOptions,
        segments: Vec<Arc<Segment>>,
        epochs: Vec<EpochStart>,
        tail: SequenceNumber,
    ) -> Self {
        let first = segments.first().expect("an open log has a segment").base();
        let last = tail.as_u64() - 1;
        assert!(first <= tail, "a log begins at or before its tail");
        Self {
            fs,
            dir,
            id,
            sums: Sums::new(id),
            origin: options.origin,
            hot: HotTail::new(options.hot_tail_bytes),
            segments: RwLock::new(segments),
            epochs: RwLock::new(epochs),
            trimmed: AtomicU64::new(first.as_u64() - 1),
            durable: AtomicU64::new(last),
            appended: AtomicU64::new(last),
            written_bytes: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            cause: Mutex::new(None),
            doomed: Mutex::default(),
            segment_bytes: options.segment_bytes,
            ahead: Ahead::default(),
            reserve: Mutex::default(),
            reserve_bytes: options.reserve_bytes,
        }
    }

    pub(super) fn durable(&self) -> Option<SequenceNumber> {
        SequenceNumber::new(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn advance_appended(&self, last: SequenceNumber) {
        let before = self.appended.swap(last.as_u64(), Ordering::AcqRel);
        assert!(before < last.as_u64(), "appended never goes back");
        assert!(self.durable.load(Ordering::Acquire) <= last.as_u64(), "durable <= appended");
    }

    pub(super) fn advance_durable(&self, last: SequenceNumber) {
        assert!(last.as_u64() <= self.appended.load(Ordering::Acquire), "durable <= appended");
        let before = self.durable.swap(last.as_u64(), Ordering::AcqRel);
        assert!(before <= last.as_u64(), "durable never goes back");
    }

    pub(super) fn add_epochs(&self, epochs: &[EpochStart]) {
        if !epochs.is_empty() {
            self.epochs.write().extend_from_slice(epochs);
        }
    }

    pub(super) fn add_written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Keeps the first error; from now on nothing is written.
    pub(super) fn poison(&self, error: &LogError) {
        let mut cause = self.cause.lock();
        if cause.is_none() {
            let source = std::error::Error::source(error);
            let reason = source.map_or_else(String::new, |source| format!(": {source}"));
            *cause = Some(format!("{error}{reason}"));
        }
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn check_poison(&self) -> Result<(), LogError> {
        if !self.poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        let cause = self.cause.lock().clone().unwrap_or_default();
        Err(LogError::Poisoned { cause })
    }

    /// Whether the disk has room for so many segments beside the reserve, and what others may write.
    pub(super) fn has_room_for(&self, segments: u64) -> bool {
        let available = self.fs.available_bytes(&self.dir).unwrap_or(u64::MAX);
        let wanted = self.reserve.lock().wanted.max(self.reserve_bytes);
        available >= wanted.saturating_add(self.segment_bytes.saturating_mul(segments))
    }

    /// The segment that holds, or will hold, `seq`; `None` if it has been trimmed.
    pub(super) fn segment_with(&self, seq: SequenceNumber) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let after = segments.partition_point(|segment| segment.base() <= seq);
        Some(Arc::clone(&segments[after.checked_sub(1)?]))
    }

    pub(super) fn first(&self) -> SequenceNumber {
        self.segments.read()[0].base()
    }
}

/// A log: what it holds, reading it, trimming it. Cheap to clone, safe to share.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// The log's identity.
    pub fn id(&self) -> LogId {
        self.shared.id
    }

    /// The region whose records are appended here.
    pub fn origin(&self) -> RegionId {
        self.shared.origin
    }

    /// The last durable record; `None` before the first.
    pub fn durable(&self) -> Option<SequenceNumber> {
        self.shared.durable()
    }

    /// The first record still kept, or the first that will be written if none is.
    pub fn first(&self) -> SequenceNumber {
        self.shared.first()
    }

    /// Bytes written to all segment files.
    pub fn bytes(&self) -> u64 {
        self.shared.segments.read().iter().map(|segment| segment.bytes()).sum()
    }

    /// Bytes of the log from record `seq` on, to within a stride of the index.
    pub fn bytes_from(&self, seq: SequenceNumber) -> u64 {
        let segments = self.shared.segments.read();
        let at = segments.partition_point(|segment| segment.base() <= seq).saturating_sub(1);
        let bytes: u64 = segments[at..].iter().map(|segment| segment.bytes()).sum();
        let before = segments.get(at).map_or(0, |segment| segment.nearest(seq).offset);
        bytes.saturating_sub(before)
    }

    /// The segment files, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.segments.read().iter().map(|segment| segment.info()).collect()
    }

    /// The epoch table of the durable records, ascending. It begins with the epoch in effect at
    /// the first record kept, whose own first record may have been trimmed.
    pub fn epochs(&self) -> Vec<EpochStart> {
        let durable = self.shared.durable();
        let epochs = self.shared.epochs.read();
        epochs.iter().filter(|start| Some(start.first) <= durable).copied().collect()
    }

    /// The epoch and the checksum of a durable record. The record before the first that is kept
    /// is known as well: the log continues it.
    ///
    /// # Errors
    /// As [`Log::read`], and [`ReadError::Beyond`] for the first that is not durable.
    pub fn record_at(&self, seq: SequenceNumber) -> Result<(Epoch, u32), ReadError> {
        let chain = self.shared.segments.read()[0].chain;
        if let Some(start) = chain.epoch.filter(|_| seq.next() == chain.next) {
            return Ok((start.epoch, chain.crc));
        }
        let newest = self.shared.hot.batch_with(seq).filter(|batch| batch.last == seq);
        if let Some(chain) = newest.map(|batch| batch.chain)
            && let Some(start) = chain.epoch
            && self.durable() >= Some(seq)
        {
            return Ok((start.epoch, chain.crc));
        }
        match self.read(seq)?.next()? {
            Some(record) => Ok((record.epoch, record.crc)),
            None => Err(ReadError::Beyond { tail: seq }),
        }
    }

    /// Whether an append or a sync has failed, so that nothing is written until a restart.
    pub fn poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::Acquire)
    }

    /// A cursor whose next record is `from`, which may be the first that is not durable yet.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the first record kept, [`ReadError::Beyond`] above the
    /// durable tail, [`ReadError::Log`] if the segment cannot be opened.
    pub fn read(&self, from: SequenceNumber) -> Result<Cursor, ReadError> {
        Cursor::open(Arc::clone(&self.shared), from)
    }

    /// Takes out the sealed segments whose records all lie below `floor`, oldest first; returns
    /// their bytes, of which one segment's may be kept as room. Readers inside such a segment keep it
    /// until they leave it. A segment leaves the index before its file loses its name, durably before
    /// the next one does, so that what is left after a crash never has a hole.
    ///
    /// # Errors
    /// [`LogError::Io`] if a file cannot be removed; the next call tries it again.
    pub fn trim(&self, floor: SequenceNumber) -> Result<u64, LogError> {
        self.trim_capped(floor, floor, u64::MAX)
    }

    /// As [`Log::trim`]; and while the log is larger than `bytes_max`, also what lies at or above
    /// `floor` but below `limit`.
    ///
    /// # Errors
    /// As [`Log::trim`].
    pub fn trim_capped(
        &self,
        floor: SequenceNumber,
        limit: SequenceNumber,
        bytes_max: u64,
    ) -> Result<u64, LogError> {
        let shared = &*self.shared;
        let mut doomed = shared.doomed.lock();
        if self.has_below(limit.max(floor)) {
            self.drop_from_index(floor, limit, bytes_max, &mut doomed);
        }
        let mut freed = 0;
        while let Some(segment) = doomed.first() {
            ahead::retire(shared, segment)?;
            freed += segment.bytes();
            doomed.remove(0);
        }
        Ok(freed)
    }

    /// Whether all records of the first segment lie below `limit`, and another follows.
    fn has_below(&self, limit: SequenceNumber) -> bool {
        self.shared.segments.read().get(1).is_some_and(|second| second.base() <= limit)
    }

    fn drop_from_index(
        &self,
        floor: SequenceNumber,
        limit: SequenceNumber,
        bytes_max: u64,
        doomed: &mut Vec<Arc<Segment>>,
    ) {
        let mut segments = self.shared.segments.write();
        let mut left: u64 = segments.iter().map(|segment| segment.bytes()).sum();
        let mut goes = |segment: &Arc<Segment>| {
            let below = if left > bytes_max { limit.max(floor) } else { floor };
            left -= segment.bytes();
            segment.is_sealed() && segment.last().is_some_and(|last| last < below)
        };
        // The last segment is being written and stays, whatever the floor.
        let count = segments[..segments.len() - 1].iter().take_while(|segment| goes(segment));
        let count = count.count();
        doomed.extend(segments.drain(..count));
        let trimmed = segments[0].base().as_u64() - 1;
        let before = self.shared.trimmed.swap(trimmed, Ordering::AcqRel);
        assert!(before <= trimmed, "trimmed never goes back");
        assert!(trimmed <= self.shared.durable.load(Ordering::Acquire), "trimmed <= durable");
    }

    /// Whether the disk has room for more than the reserve and `owed_bytes`, which others may
    /// write there because of what the log holds. The figures are at most 100 ms and 16 MiB of
    /// appends old, so a reserve well above 16 MiB is refused before the disk is full.
    ///
    /// # Errors
    /// [`ReserveError`] while there is less. It passes when there is room again.
    pub fn writable(&self, owed_bytes: impl FnOnce() -> u64) -> Result<(), ReserveError> {
        let shared = &*self.shared;
        if shared.reserve_bytes == 0 {
            return Ok(());
        }
        let written = shared.written_bytes.load(Ordering::Relaxed);
        let now = Instant::now();
        let mut reserve = shared.reserve.lock();
        let fresh = reserve.checked.is_some_and(|(at, bytes)| {
            now.duration_since(at) < RESERVE_CHECK_INTERVAL
                && written.saturating_sub(bytes) < RESERVE_CHECK_BYTES
        });
        if !fresh {
            // A file system that does not answer does not refuse writes: they fail by themselves.
            reserve.available = shared.fs.available_bytes(&shared.dir).unwrap_or(u64::MAX);
            reserve.wanted = shared.reserve_bytes.saturating_add(owed_bytes());
            reserve.checked = Some((now, written));
        }
        if reserve.available < reserve.wanted {
            let refused = ReserveError { available: reserve.available, reserve: reserve.wanted };
            if !fresh {
                drop(reserve);
                ahead::release(shared);
            }
            return Err(refused);
        }
        Ok(())
    }
}
