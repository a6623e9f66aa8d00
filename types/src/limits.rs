//! Every bound that stands before memory is taken, in one place. `docs/operating/limits.md` is the
//! table of them for operators.

/// A log record's body and header together.
pub const RECORD_BYTES_MAX: usize = 16 << 20;
/// Rows and fields that a transaction puts or deletes. The smallest of those take few bytes of a
/// record but as much work as any at a start, which replays several records of this size.
pub const RECORD_CHANGES_MAX: u64 = 1 << 18;
/// A log segment is sealed when it has grown to this size (default; set by `[log] segment_bytes`).
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// The most that `[log] segment_bytes` may say: a start reads all of the last segment. Logs of this
/// and the next three bounds open in time: `storage/tests/store_opening_time.rs`.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Segments that `[replication] retain_bytes_max` may keep: a start looks at each of them.
pub const LOG_SEGMENTS_MAX: u64 = 16_384;
/// The most that `[state] layer_bytes` may say: a start replays up to two layers that were folded.
pub const LAYER_BYTES_MAX: u64 = 128 << 20;
/// The most that `[state] unapplied_bytes_max` may say: a start replays all of it.
pub const UNAPPLIED_BYTES_MAX: u64 = 256 << 20;
/// A user key.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// A hash field's name.
pub const FIELD_BYTES_MAX: usize = 64 << 10;
/// A glob pattern. Matching costs at most the product of its length and the text's.
pub const PATTERN_BYTES_MAX: usize = 4 << 10;
/// A string value or a hash field's value. Smaller than a record, so that one always fits.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
