//! How RocksDB is set up, and what the databases of one node share.

use std::fmt;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ChecksumType, DBCompressionType, LogLevel,
    Options, WriteBufferManager,
};

/// Options that the binding has no setter for, in RocksDB's own syntax.
///
/// - An insert hint per unit range makes a sorted batch cheap to insert into a skip list that
///   already holds other keys: the search starts from the neighbour.
/// - Background errors are never retried: the shard is closed, opened and replayed.
/// - Closing does not flush: what is not persisted is in the log, and a database that is closed
///   because it failed must not be written to.
/// - Table files, which are handed to other nodes, do not name the host they were made on.
/// - Tables are written in small pieces: a sync of the log that comes meanwhile waits for one.
const BY_NAME: &str = "memtable_insert_with_hint_prefix_extractor=fixed:1;\
                       max_bgerror_resume_count=0;\
                       avoid_flush_during_shutdown=true;\
                       db_host_id=larder;\
                       writable_file_max_buffer_size=262144";

/// Tables that are open at once, unless more are asked for. RocksDB keeps them in 64 parts: with fewer
/// than four each, tables that are in use would put each other out.
pub const TABLES_OPEN_MIN: u32 = 256;
const BLOCK_BYTES: usize = 8 << 10;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const TABLE_FILE_BYTES: u64 = 64 << 20;
/// Files of level 0 that make a compaction. Level 1 holds as many bytes, so that a compaction of both
/// rewrites about as much of the one as of the other.
const LEVEL0_FILES: u8 = 8;
/// Bytes that one compaction rewrites at most, below level 0. RocksDB's own default.
pub(super) const COMPACTION_BYTES_MAX: u64 = 1_600 << 20;
/// Data that no write has touched is compacted after this long, so that what expired within it,
/// and the elements of dropped hashes, are given back even where nothing is written any more.
const IDLE_COMPACTION_SECONDS: u64 = 7 * 24 * 60 * 60;

/// What the databases of one node share and how each is set up. Cheap to clone: clones share.
#[derive(Clone)]
pub struct DatabaseOptions {
    cache: Cache,
    write_buffers: WriteBufferManager,
    write_buffer_bytes: usize,
    tables_open_max: u32,
}

impl DatabaseOptions {
    /// Options with a cache of this many bytes for blocks, and this many bytes for the write
    /// buffers of all databases together.
    pub fn new(cache_bytes: usize, write_buffers_bytes: usize) -> Self {
        Self {
            cache: Cache::new_hyper_clock_cache(cache_bytes, 0),
            write_buffers: WriteBufferManager::new_write_buffer_manager(write_buffers_bytes, false),
            write_buffer_bytes: 64 << 20,
            tables_open_max: TABLES_OPEN_MIN,
        }
    }

    /// Sets the size at which one database's write buffer is flushed (default 64 MiB).
    #[must_use]
    pub const fn with_write_buffer_bytes(mut self, bytes: usize) -> Self {
        self.write_buffer_bytes = bytes;
        self
    }

    /// Sets how many tables of one database may be open at once (default [`TABLES_OPEN_MIN`]). A read
    /// of one that is not must open it first.
    #[must_use]
    pub const fn with_tables_open_max(mut self, tables: u32) -> Self {
        self.tables_open_max = tables;
        self
    }

    /// Bytes of the block cache in use.
    pub fn cache_used_bytes(&self) -> usize {
        self.cache.get_usage()
    }

    /// Bytes of the write buffers in use, of all databases that share them.
    pub fn write_buffers_used_bytes(&self) -> usize {
        self.write_buffers.get_usage()
    }

    /// RocksDB's options without a compaction filter.
    pub(super) fn rocksdb(&self) -> Result<Options, rocksdb::Error> {
        let mut options = Options::default().get_options_from_string(BY_NAME)?;
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        self.set_writing(&mut options);
        Self::set_levels(&mut options);
        options.set_block_based_table_factory(&self.tables());
        options.set_max_open_files(i32::try_from(self.tables_open_max).unwrap_or(i32::MAX));
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(4 << 20);
        options.set_keep_log_file_num(4);
        Ok(options)
    }

    /// One thread writes sorted batches, so nothing here is for concurrent writers; options that
    /// loosen the order of writes stay off.
    fn set_writing(&self, options: &mut Options) {
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_pipelined_write(false);
        options.set_unordered_write(false);
        options.set_manual_wal_flush(false);
        options.set_write_buffer_size(self.write_buffer_bytes);
        options.set_max_write_buffer_number(3);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_bytes_per_sync(256 << 10);
        options.set_max_background_jobs(2);
    }

    /// All levels are compressed, level 0 too: what a flush writes is what the log's syncs wait for.
    fn set_levels(options: &mut Options) {
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_target_file_size_base(TABLE_FILE_BYTES);
        options.set_max_compaction_bytes(COMPACTION_BYTES_MAX);
        options.set_max_bytes_for_level_base(u64::from(LEVEL0_FILES) * TABLE_FILE_BYTES);
        options.set_level_zero_file_num_compaction_trigger(i32::from(LEVEL0_FILES));
        options.set_periodic_compaction_seconds(IDLE_COMPACTION_SECONDS);
    }

    fn tables(&self) -> BlockBasedOptions {
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&self.cache);
        tables.set_block_size(BLOCK_BYTES);
        tables.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        tables.set_whole_key_filtering(true);
        tables.set_index_type(BlockBasedIndexType::BinarySearch);
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        tables.set_checksum_type(ChecksumType::XXH3);
        tables.set_format_version(6);
        tables
    }
}

impl fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseOptions")
            .field("write_buffer_bytes", &self.write_buffer_bytes)
            .field("tables_open_max", &self.tables_open_max)
            .finish_non_exhaustive()
    }
}
