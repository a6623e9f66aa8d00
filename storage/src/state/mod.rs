//! The state: what the log amounts to, kept in RocksDB.
//!
//! One database a shard, one column family, and no write-ahead log of RocksDB's own: the log of
//! this crate is the only one. The position up to which the log has been folded is written in the
//! same batch as the data, so the two cannot part. What of it would survive a crash is learnt by
//! reading that position at [`ReadTier::Persisted`], never from callbacks and never from memory.
//!
//! Only durable records may be folded. After a failed write or flush, or when
//! [`Database::background_errors`] is above 0, the database must be dropped and opened again.

mod applied;
mod batch;
mod digest;
mod error;
mod filter;
mod manifest;
mod options;
mod replicas;
mod scan;
#[cfg(test)]
mod tests;
mod verify;

use std::{cell::RefCell, fs, io::ErrorKind, path::Path, sync::Arc};

use larder_types::Unit;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, FlushOptions, LiveFile, ReadOptions, ReadTier,
    WriteOptions, checkpoint::Checkpoint, properties,
};

pub use self::{
    applied::Applied,
    batch::FoldBatch,
    digest::Digest,
    error::StateError,
    options::{DatabaseOptions, TABLES_OPEN_MIN},
    replicas::ReplicasRecord,
    scan::{Elements, Rows},
    verify::VerifyReport,
};
use self::{
    filter::{Factory, FilterState},
    options::COMPACTION_BYTES_MAX,
};
use crate::{keys, row::Generation};

thread_local! {
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The state of one shard. Reads may come from any thread; one thread folds.
pub struct Database {
    db: Arc<DB>,
    filter: Arc<FilterState>,
    read: ReadOptions,
    read_persisted: ReadOptions,
    write: WriteOptions,
    options: DatabaseOptions,
}

/// Figures of one database. All but `background_errors` are RocksDB's estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseStats {
    /// Rows and elements, dead ones included.
    pub keys: u64,
    /// Bytes of all table files.
    pub table_bytes: u64,
    /// Bytes of what is not yet in table files.
    pub memtable_bytes: u64,
    /// Bytes that compactions have yet to rewrite.
    pub pending_compaction_bytes: u64,
    /// Files of level 0, each of which a read may have to look into.
    pub level0_files: u64,
    /// Failures of flushes and compactions since the database was opened.
    pub background_errors: u64,
    /// Rows and elements that compactions have given back since the database was opened.
    pub dropped_by_filter: u64,
    /// The clock by which compactions judge what is expired: milliseconds since the Unix epoch,
    /// 0 before anything is persisted.
    pub filter_clock_ms: u64,
}

impl Database {
    /// Opens the database in `path`, or makes an empty one.
    ///
    /// # Errors
    /// When RocksDB refuses it, when its position is damaged, or when RocksDB's own log holds
    /// data, which Larder never writes.
    pub fn open(path: &Path, options: &DatabaseOptions) -> Result<Self, StateError> {
        refuse_foreign_log(path)?;
        manifest::check(path)?;
        let filter = Arc::new(FilterState::default());
        let mut rocksdb = options.rocksdb().map_err(StateError::at("set up", path))?;
        rocksdb.set_compaction_filter_factory(Factory(filter.clone()));
        let db = DB::open(&rocksdb, path).map_err(StateError::at("open", path))?;
        Self::with(db, filter, options)
    }

    /// Opens the database in `path`, which must exist, for reading alone. Nothing may write to it
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_read_only(path: &Path, options: &DatabaseOptions) -> Result<Self, StateError> {
        refuse_foreign_log(path)?;
        manifest::check(path)?;
        // Another may be served meanwhile, which has more use for open files.
        let options = &options.clone().with_tables_open_max(TABLES_OPEN_MIN);
        let mut rocksdb = options.rocksdb().map_err(StateError::at("set up", path))?;
        rocksdb.create_if_missing(false);
        let db = DB::open_for_read_only(&rocksdb, path, false)
            .map_err(StateError::at("open for reading", path))?;
        Self::with(db, Arc::new(FilterState::default()), options)
    }

    fn with(
        db: DB,
        filter: Arc<FilterState>,
        options: &DatabaseOptions,
    ) -> Result<Self, StateError> {
        let mut read_persisted = ReadOptions::default();
        read_persisted.set_read_tier(ReadTier::Persisted);
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        let read = ReadOptions::default();
        let db = Arc::new(db);
        let options = options.clone();
        let database = Self { db, filter, read, read_persisted, write, options };
        database.check_tables(database.tables()?)?;
        database.filter.attach(&database.db);
        database.persisted()?;
        Ok(database)
    }

    /// The tables that the database consists of at this moment.
    fn tables(&self) -> Result<Vec<LiveFile>, StateError> {
        self.db.live_files().map_err(StateError::at("list the files of", self.path()))
    }

    /// RocksDB opens a few of its tables at a start, and the others once they are read: one that is missing
    /// or was cut is to be found before anything is served.
    fn check_tables(&self, tables: Vec<LiveFile>) -> Result<(), StateError> {
        for table in tables {
            let file = self.path().join(table.name.trim_start_matches('/'));
            let expected = table.size as u64;
            let found = match fs::metadata(&file) {
                Ok(about) => about.len(),
                Err(why) if why.kind() == ErrorKind::NotFound => 0,
                Err(source) => {
                    return Err(StateError::Files { path: self.path().to_owned(), source });
                }
            };
            // Compactions are under way, and remove the tables that they have rewritten.
            if found != expected && self.tables()?.iter().any(|live| live.name == table.name) {
                return Err(StateError::CutTable { file, expected, found });
            }
        }
        Ok(())
    }

    /// The directory the database is in.
    pub fn path(&self) -> &Path {
        self.db.path()
    }

    /// How the database was set up, and what it shares with others.
    pub const fn options(&self) -> &DatabaseOptions {
        &self.options
    }

    /// The last record whose effects can be read.
    ///
    /// # Errors
    /// When RocksDB fails, or the position is damaged.
    pub fn applied(&self) -> Result<Option<Applied>, StateError> {
        self.position(&self.read)
    }

    /// The last record whose effects survive a crash. The log up to it is not needed any more.
    ///
    /// # Errors
    /// As [`Database::applied`].
    pub fn persisted(&self) -> Result<Option<Applied>, StateError> {
        let persisted = self.position(&self.read_persisted)?;
        if let Some(persisted) = &persisted {
            self.filter.advance(persisted);
        }
        Ok(persisted)
    }

    /// The newest records of the replica set that were folded, oldest first.
    ///
    /// # Errors
    /// As [`Database::applied`].
    pub fn replicas(&self) -> Result<Vec<ReplicasRecord>, StateError> {
        let (mut from, mut name) = (Vec::new(), Vec::new());
        keys::own_key(replicas::prefix(), &mut from);
        let mut end = from.clone();
        keys::after_prefix(&mut end);
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(end);
        let mut iterator = self.db.raw_iterator_opt(options);
        iterator.seek_to_last();
        let mut found = Vec::new();
        while let Some((key, value)) = iterator.item()
            && found.len() < replicas::READ_MAX
        {
            if let Ok(keys::StorageKey::Own { name: own }) = keys::parse(key) {
                own.clone_into(&mut name);
            }
            let damaged = || StateError::DamagedPosition { path: self.path().to_owned() };
            found.push(replicas::decode(&name, value).ok_or_else(damaged)?);
            iterator.prev();
        }
        iterator.status().map_err(StateError::at("read", self.path()))?;
        found.reverse();
        Ok(found)
    }

    fn position(&self, tier: &ReadOptions) -> Result<Option<Applied>, StateError> {
        let mut key = Vec::new();
        keys::own_key(applied::NAME, &mut key);
        let Some(bytes) =
            self.db.get_pinned_opt(key, tier).map_err(StateError::at("read", self.path()))?
        else {
            return Ok(None);
        };
        let damaged = || StateError::DamagedPosition { path: self.path().to_owned() };
        Applied::decode(&bytes).map(Some).ok_or_else(damaged)
    }

    /// The row of user key `key`.
    ///
    /// # Errors
    /// When RocksDB fails, which includes checksums that do not fit.
    pub fn row(&self, key: &[u8]) -> Result<Option<Arc<[u8]>>, StateError> {
        self.read(|buffer| keys::key_row_key(key, buffer))
    }

    /// The row of one element.
    ///
    /// # Errors
    /// As [`Database::row`].
    pub fn element(
        &self,
        key: &[u8],
        generation: Generation,
        field: &[u8],
    ) -> Result<Option<Arc<[u8]>>, StateError> {
        self.read(|buffer| keys::element_key(key, generation, field, buffer))
    }

    fn read(&self, key: impl FnOnce(&mut Vec<u8>)) -> Result<Option<Arc<[u8]>>, StateError> {
        KEY.with_borrow_mut(|buffer| {
            key(buffer);
            let row = self
                .db
                .get_pinned_opt(&*buffer, &self.read)
                .map_err(StateError::at("read", self.path()))?;
            Ok(row.as_deref().map(Arc::from))
        })
    }

    /// The elements of one generation of `key`, in the order of their names, as of now.
    pub fn elements(&self, key: &[u8], generation: Generation) -> Elements<'_> {
        Elements::new(&self.db, key, generation, None)
    }

    /// As [`Database::elements`], from the first name beyond `after` on.
    pub fn elements_after(
        &self,
        key: &[u8],
        generation: Generation,
        after: Option<&[u8]>,
    ) -> Elements<'_> {
        Elements::new(&self.db, key, generation, after)
    }

    /// The key rows from unit `start` on, in (unit, key) order, as of now; within `start` from
    /// the first key beyond `after` on.
    pub fn rows_from(&self, start: Unit, after: Option<&[u8]>) -> Rows<'_> {
        Rows::new(&self.db, start, after)
    }

    /// Applies `batch`, and with it the position `applied`, at once or not at all. It is readable
    /// when this returns, and persisted some time later.
    ///
    /// # Errors
    /// When RocksDB refuses the write: the database must then be opened again.
    pub fn fold(&self, batch: FoldBatch, applied: Applied) -> Result<(), StateError> {
        let batch = batch.seal(applied);
        self.db.write_opt(batch, &self.write).map_err(StateError::at("fold into", self.path()))
    }

    /// Persists all that was folded so far, and answers the persisted position as it reads
    /// afterwards.
    ///
    /// # Errors
    /// When RocksDB fails: the database must then be opened again.
    pub fn flush(&self) -> Result<Option<Applied>, StateError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(StateError::at("flush", self.path()))?;
        self.persisted()
    }

    /// Begins to persist all that was folded so far. What [`Database::persisted`] answers tells when
    /// that is done, and [`Database::background_errors`] when it has failed.
    ///
    /// # Errors
    /// As [`Database::flush`].
    pub fn begin_flush(&self) -> Result<(), StateError> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.db.flush_opt(&options).map_err(StateError::at("flush", self.path()))
    }

    /// Makes a copy of the database in `path`, which must not exist yet, and answers the position
    /// that the copy itself holds. Files are shared by hard links where the file system can.
    ///
    /// # Errors
    /// When RocksDB fails, or nothing has been folded yet.
    pub fn checkpoint(&self, path: &Path) -> Result<Applied, StateError> {
        self.flush()?;
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(path))
            .map_err(StateError::at("take a checkpoint of", self.path()))?;
        Self::open_read_only(path, &self.options)?
            .persisted()?
            .ok_or_else(|| StateError::NothingApplied { path: path.to_owned() })
    }

    /// Persists all that was folded and rewrites all table files, giving back everything that is
    /// dead by then.
    ///
    /// # Errors
    /// As [`Database::flush`]. A failed compaction shows in [`Database::background_errors`].
    pub fn compact(&self) -> Result<(), StateError> {
        self.flush()?;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        Ok(())
    }

    /// How many flushes and compactions failed since the database was opened. Above 0 the database
    /// must be opened again.
    pub fn background_errors(&self) -> u64 {
        self.figure(properties::BACKGROUND_ERRORS)
    }

    /// Bytes that flushes and compactions may yet take on the disk, at most, once `unfolded_bytes`
    /// more have been folded: what is not in table files will be, and a compaction keeps what it
    /// rewrites until it has ended. At most one runs; one that takes in level 0 is counted whole in
    /// what RocksDB says is pending.
    pub fn owed_bytes(&self, unfolded_bytes: u64) -> u64 {
        let unflushed = unfolded_bytes + self.figure(properties::CUR_SIZE_ALL_MEM_TABLES);
        let all = unflushed + self.figure(properties::LIVE_SST_FILES_SIZE);
        let pending = self.figure(properties::ESTIMATE_PENDING_COMPACTION_BYTES);
        unflushed + all.min(pending + COMPACTION_BYTES_MAX)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> DatabaseStats {
        let level0_files = properties::num_files_at_level(0);
        let level0_files = self.db.property_value(&level0_files).ok().flatten();
        DatabaseStats {
            keys: self.figure(properties::ESTIMATE_NUM_KEYS),
            table_bytes: self.figure(properties::TOTAL_SST_FILES_SIZE),
            memtable_bytes: self.figure(properties::SIZE_ALL_MEM_TABLES),
            pending_compaction_bytes: self.figure(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            level0_files: level0_files.and_then(|files| files.parse().ok()).unwrap_or_default(),
            background_errors: self.background_errors(),
            dropped_by_filter: self.filter.dropped(),
            filter_clock_ms: self.filter_clock_ms(),
        }
    }

    /// The clock by which compactions judge what is expired.
    pub(crate) fn filter_clock_ms(&self) -> u64 {
        self.filter.clock_ms()
    }

    fn figure(&self, name: &properties::PropName) -> u64 {
        let figure = self.db.property_int_value(name);
        figure.expect("a property of RocksDB's own naming is readable").unwrap_or_default()
    }

    /// Reads everything, comparing checksums, and checks what can be checked.
    ///
    /// # Errors
    /// When RocksDB cannot read on, which includes checksums that do not fit.
    pub fn verify(&self) -> Result<VerifyReport, StateError> {
        verify::verify(self)
    }

    pub(crate) fn rocksdb(&self) -> &DB {
        &self.db
    }
}

impl Drop for Database {
    /// Ends all compactions first: one that runs may hold the database, for its filter reads key
    /// rows, and would else be the last to let go of it, closing it from a thread it waits for.
    /// Nothing is flushed: what is not persisted is in the log.
    fn drop(&mut self) {
        self.db.cancel_all_background_work(true);
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// RocksDB keeps an empty log even where every write goes without; one with data in it would be
/// replayed over the state, and was not written by Larder.
fn refuse_foreign_log(path: &Path) -> Result<(), StateError> {
    let files = |source| StateError::Files { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(files)?,
    };
    for entry in entries {
        let entry = entry.map_err(files)?;
        let file = entry.path();
        let bytes = entry.metadata().map_err(files)?.len();
        if file.extension().is_some_and(|extension| extension == "log") && bytes > 0 {
            return Err(StateError::ForeignLog { file, bytes });
        }
    }
    Ok(())
}
