//! One node's disk: what survives a crash, and what does not.

use std::collections::BTreeMap;

use larder_replication::core::{Marker, Standing};
use larder_types::{DiskId, LogId};

use crate::{
    book::{Book, RecordId, Values},
    random::Random,
};

/// The log: records `first..`, of which those below `durable` survive a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The record before the first that is kept: trimmed, or lying under a snapshot.
    pub(crate) base: Option<RecordId>,
    kept: Vec<RecordId>,
    durable: usize,
}

impl Log {
    /// A log that starts behind `base`.
    pub(crate) fn behind(base: Option<RecordId>) -> Self {
        Self { base, ..Self::default() }
    }

    pub(crate) fn kept(&self) -> &[RecordId] {
        &self.kept
    }

    pub(crate) fn durable_records(&self) -> &[RecordId] {
        &self.kept[..self.durable]
    }

    /// The newest record, durable or not.
    pub(crate) fn last(&self) -> Option<RecordId> {
        self.kept.last().copied().or(self.base)
    }

    /// The newest record that a crash leaves.
    pub(crate) fn last_durable(&self) -> Option<RecordId> {
        self.durable_records().last().copied().or(self.base)
    }

    /// The number of the first record that is kept.
    pub(crate) fn first(&self, book: &Book) -> u64 {
        self.base.map_or(1, |id| book.get(id).seq() + 1)
    }

    /// The record with this number, where it is kept.
    pub(crate) fn get(&self, book: &Book, seq: u64) -> Option<RecordId> {
        let index = seq.checked_sub(self.first(book))?;
        self.kept.get(usize::try_from(index).ok()?).copied()
    }

    pub(crate) fn append(&mut self, id: RecordId) {
        self.kept.push(id);
    }

    /// All up to `id` is on the disk now. A record that has been cut since is none.
    pub(crate) fn synced(&mut self, id: RecordId) {
        if let Some(index) = self.kept.iter().rposition(|&kept| kept == id) {
            self.durable = self.durable.max(index + 1);
        }
    }

    /// Removes everything behind the record with this number, and gives what was removed.
    pub(crate) fn cut_behind(&mut self, book: &Book, seq: u64) -> Vec<RecordId> {
        let keep = (seq + 1).saturating_sub(self.first(book)) as usize;
        let cut = self.kept.split_off(keep.min(self.kept.len()));
        self.durable = self.durable.min(self.kept.len());
        cut
    }

    /// Removes everything before the record with this number, as far as it is durable, and gives
    /// what was removed.
    pub(crate) fn trim(&mut self, book: &Book, first: u64) -> Vec<RecordId> {
        let count = (first.saturating_sub(self.first(book)) as usize).min(self.durable);
        let kept = self.kept.split_off(count);
        let trimmed = std::mem::replace(&mut self.kept, kept);
        self.base = trimmed.last().copied().or(self.base);
        self.durable -= count;
        trimmed
    }

    /// A crash: of what was not synced, any number of the first records may be there.
    fn crash(&mut self, random: &mut Random) {
        let unsynced = (self.kept.len() - self.durable) as u64;
        let survive = if random.chance(500) { 0 } else { random.between(0, unsynced) };
        self.kept.truncate(self.durable + survive as usize);
        self.durable = self.kept.len();
    }
}

/// State: the fold of the log up to `applied`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) applied: Option<RecordId>,
    pub(crate) values: Values,
}

/// A small file that is replaced as a whole: after a crash it holds what was last synced, or
/// what was being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct File<T> {
    synced: Option<T>,
    writing: Vec<T>,
}

impl<T: Clone + PartialEq> File<T> {
    pub(crate) fn with(content: T) -> Self {
        Self { synced: Some(content), writing: Vec::new() }
    }

    pub(crate) fn read(&self) -> Option<&T> {
        self.synced.as_ref()
    }

    pub(crate) fn write(&mut self, content: T) {
        self.writing.push(content);
    }

    /// The oldest write that is under way has reached the disk.
    pub(crate) fn sync(&mut self) {
        if !self.writing.is_empty() {
            self.synced = Some(self.writing.remove(0));
        }
    }

    fn crash(&mut self, random: &mut Random) {
        let reached = random.between(0, self.writing.len() as u64);
        for _ in 0..reached {
            self.sync();
        }
        self.writing.clear();
    }
}

/// What a rewind leaves on the disk before it takes anything back.
#[derive(Clone, Debug)]
pub(crate) struct Rewind {
    pub(crate) marker: Marker,
    /// The last record that the state stands at once every key was fetched; 0 for none.
    pub(crate) back_to: u64,
    /// The touched keys; true for those that have been fetched and applied.
    pub(crate) keys: BTreeMap<usize, bool>,
    /// Whether the state stands at a record of the log, so that records may be folded again.
    pub(crate) settled: bool,
}

/// A disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Every identity it had: a replica that lost what it had acknowledged draws a new one.
    pub(crate) ids: Vec<DiskId>,
    /// The log's identity; `None` in a new data directory.
    pub(crate) log_id: Option<LogId>,
    pub(crate) log: Log,
    pub(crate) standing: File<Standing>,
    /// The state as far as it has been flushed.
    pub(crate) flushed: State,
    pub(crate) rewind: Option<Rewind>,
    /// Parted records that were written to a file before they were cut.
    pub(crate) exported: Vec<RecordId>,
    /// Records that were trimmed.
    pub(crate) trimmed: Vec<RecordId>,
    /// The identity under which it lost records that it had said were synced.
    pub(crate) rolled_back: Option<DiskId>,
    /// Ends of logs that were cut or set aside here, for the invariants.
    pub(crate) former_ends: Vec<RecordId>,
}

impl Disk {
    /// A disk on which a data directory was just made.
    pub(crate) fn new(id: DiskId) -> Self {
        Self {
            ids: vec![id],
            log_id: None,
            log: Log::default(),
            standing: File::with(Standing::fresh(id)),
            flushed: State::default(),
            rewind: None,
            exported: Vec::new(),
            trimmed: Vec::new(),
            rolled_back: None,
            former_ends: Vec::new(),
        }
    }

    /// The power goes, or the process dies and takes with it what it had not written.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        self.log.crash(random);
        self.standing.crash(random);
    }

    /// The disk loses records that it had said were synced, down to what the state needs.
    pub(crate) fn roll_back(&mut self, book: &Book, random: &mut Random) {
        let (least, end) = (book.number(self.flushed.applied), book.number(self.log.last()));
        if self.rewind.is_none() && least < end {
            self.former_ends.extend(self.log.last_durable());
            self.log.cut_behind(book, random.between(least, end - 1));
            self.rolled_back = self.ids.last().copied();
        }
    }

    /// Whether this disk holds the record or held it once, and could say so truly then.
    pub(crate) fn ever_held(&self, book: &Book, id: RecordId) -> bool {
        let ends = self.former_ends.iter().copied().map(Some);
        ends.chain([self.log.last_durable()]).any(|end| book.holds(end, id))
    }
}
