//! The compaction filter: gives back what has expired and what belonged to dropped hashes.
//!
//! # Why it never drops what is still needed
//!
//! Let P be the persisted position: the one a crash falls back to, from where the log is
//! replayed. P only grows. The filter sees table files only, which hold nothing beyond P.
//!
//! 1. *The clock* is the hybrid time of a record at or before P, never the wall. A transaction
//!    decides what is expired by a time no less than every earlier record's hybrid time. So what
//!    is expired by the filter's clock is hidden from every record after P, which are the only
//!    ones that will be replayed or written; no such record can prolong it, and every replica
//!    hides it alike.
//! 2. *A key row* is dropped when it is expired by that clock. Where the entry seen is not the
//!    newest of its key, the newer one lies above it and still hides it, for RocksDB leaves a
//!    tombstone in place of a dropped entry while older ones may lie below.
//! 3. *An element* is dropped when the persisted key row is missing, is not a composite value, is
//!    of another generation, or is expired by the clock. A generation is the name of the record
//!    that began it: once a record at or before P has ended it, no record after P can begin it
//!    again or add to it. It is the *persisted* row that is asked: a newer row in the memtable
//!    may be lost in a crash, and the elements would be needed to rebuild the hash from there.
//! 4. *An element whose hash is new* is never taken for one without a key row: both are written
//!    in one batch, a batch goes into one memtable, and a memtable becomes visible in table files
//!    as a whole. An element in a table file hence has its key row, or a successor of it, there.
//! 5. *In doubt it is kept*: an unreadable key or row, a failed read, a database that is just
//!    being opened. The store's own keys are never dropped.
//! 6. *Where the log parted* from the master's at a record before P, the records after it there are
//!    not those after P here, and one of them may prolong what was dropped. The rewind that takes
//!    P back asks the master for such keys.
//!
//! The answer for the last key is remembered, so a hash of a million fields costs one read. A
//! remembered answer may be old, never wrong: what was dead stays dead.

use std::{
    ffi::CStr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::{
    CompactionDecision, DB, ReadOptions, ReadTier,
    compaction_filter::CompactionFilter,
    compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory},
};

use crate::{
    keys::{self, StorageKey},
    row::{Generation, RowRef, RowValue},
    state::applied::Applied,
};

const NAME: &CStr = c"larder.expired-and-dropped";

/// What the filters of a database need to know of it.
#[derive(Default)]
pub(super) struct FilterState {
    /// Set once the database is open. Weak, so that the database is never closed from within one
    /// of its own compactions; `Database` ends all compactions before it lets go of it.
    db: OnceLock<Weak<DB>>,
    clock_ms: AtomicU64,
    dropped: AtomicU64,
}

impl FilterState {
    /// Lets filters read key rows in `db`.
    pub(super) fn attach(&self, db: &Arc<DB>) {
        self.db.set(Arc::downgrade(db)).expect("a database is attached once, when it is opened");
    }

    /// Moves the clock to a position that was read as persisted.
    pub(super) fn advance(&self, persisted: &Applied) {
        self.clock_ms.fetch_max(persisted.hybrid.millis(), Ordering::AcqRel);
    }

    /// The filter's clock, in milliseconds since the Unix epoch; 0 before anything is persisted.
    pub(super) fn clock_ms(&self) -> u64 {
        self.clock_ms.load(Ordering::Acquire)
    }

    /// Rows and elements dropped since the database was opened.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Makes a filter for each compaction.
pub(super) struct Factory(pub(super) Arc<FilterState>);

impl CompactionFilterFactory for Factory {
    type Filter = Filter;

    fn create(&mut self, _: CompactionFilterContext) -> Filter {
        let mut persisted = ReadOptions::default();
        persisted.set_read_tier(ReadTier::Persisted);
        persisted.fill_cache(false);
        Filter {
            now_ms: self.0.clock_ms(),
            state: self.0.clone(),
            persisted,
            last: None,
            row_key: Vec::new(),
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// The filter of one compaction.
pub(super) struct Filter {
    state: Arc<FilterState>,
    /// The clock when the compaction began.
    now_ms: u64,
    persisted: ReadOptions,
    /// The user key asked for last, and what of it is alive.
    last: Option<(Vec<u8>, Alive)>,
    row_key: Vec<u8>,
}

/// Which elements of a key are alive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alive {
    /// It could not be learnt.
    Unknown,
    None,
    Only(Generation),
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        let dead = match keys::parse(key) {
            Ok(StorageKey::Row { .. }) => {
                RowRef::parse(value).is_ok_and(|row| row.is_expired(self.now_ms))
            }
            Ok(StorageKey::Element { key, generation, .. }) => match self.alive(key) {
                Alive::Unknown => false,
                Alive::None => true,
                Alive::Only(current) => current != generation,
            },
            Ok(StorageKey::Own { .. }) | Err(_) => false,
        };
        if !dead {
            return CompactionDecision::Keep;
        }
        self.state.dropped.fetch_add(1, Ordering::Relaxed);
        CompactionDecision::Remove
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

impl Filter {
    fn alive(&mut self, key: &[u8]) -> Alive {
        match &self.last {
            Some((last, alive)) if last == key => *alive,
            _ => {
                let alive = self.read_alive(key).unwrap_or(Alive::Unknown);
                let mut last = self.last.take().map_or_else(Vec::new, |(last, _)| last);
                last.clear();
                last.extend_from_slice(key);
                self.last = Some((last, alive));
                alive
            }
        }
    }

    /// `None` where the row cannot be read.
    fn read_alive(&mut self, key: &[u8]) -> Option<Alive> {
        let db = self.state.db.get()?.upgrade()?;
        keys::key_row_key(key, &mut self.row_key);
        let Some(row) = db.get_pinned_opt(&self.row_key, &self.persisted).ok()? else {
            return Some(Alive::None);
        };
        let row = RowRef::parse(&row).ok()?;
        match row.value() {
            RowValue::Hash { generation, .. } if !row.is_expired(self.now_ms) => {
                Some(Alive::Only(generation))
            }
            _ => Some(Alive::None),
        }
    }
}
