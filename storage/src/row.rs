//! Rows: the values stored under user keys and under the elements of composite values.
//!
//! A row is self-describing and immutable: it carries its version, its absolute expiry and, for a
//! composite value, the generation under which its elements lie. The byte tables are in
//! `docs/format/keys.md`; the layout must not change without a new format version. Parsing never
//! panics and never allocates, whatever the bytes are.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{cell::RefCell, fmt, sync::Arc};

use larder_types::{Epoch, HybridTime, Position, SequenceNumber};
use thiserror::Error;

const KIND_STRING: u8 = 1;
const KIND_HASH: u8 = 2;
const KIND_FIELD: u8 = 0x0f;
const KIND_MASK: u8 = 0x0f;
const HAS_EXPIRY: u8 = 0x80;

const TAG_AND_VERSION_BYTES: usize = 9;
const HASH_BODY_BYTES: usize = Generation::ENCODED_BYTES + 8;

/// Above this size a row is built in a buffer of its own, so that the buffer a thread keeps for
/// building rows stays small.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Names one incarnation of a composite value, so that the elements of a deleted one are never
/// taken for those of its successor.
///
/// It is the place of the record that created the value, and `ordinal`, which of the composite
/// values created within that record this is. A generation that has ended never comes back,
/// because `(epoch, sequence)` is never written twice with different content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation {
    /// The record that created the value.
    pub position: Position,
    /// Which of the record's new composite values this is, from 0.
    pub ordinal: u32,
}

impl Generation {
    /// Bytes of an encoded generation.
    pub const ENCODED_BYTES: usize = Epoch::ENCODED_BYTES + 12;

    /// Epoch (16), sequence (8, little-endian), ordinal (4, little-endian).
    pub fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        bytes[..16].copy_from_slice(&self.position.epoch.encode());
        bytes[16..24].copy_from_slice(&self.position.seq.as_u64().to_le_bytes());
        bytes[24..].copy_from_slice(&self.ordinal.to_le_bytes());
        bytes
    }

    /// The inverse of [`Generation::encode`], or `None` where the sequence is 0, which no record
    /// has.
    pub fn decode(bytes: &[u8; Self::ENCODED_BYTES]) -> Option<Self> {
        let (epoch, rest) = bytes.split_first_chunk::<{ Epoch::ENCODED_BYTES }>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (ordinal, _) = rest.split_first_chunk::<4>()?;
        let seq = SequenceNumber::new(u64::from_le_bytes(*seq))?;
        let position = Position { epoch: Epoch::decode(*epoch), seq };
        Some(Self { position, ordinal: u32::from_le_bytes(*ordinal) })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.position, self.ordinal)
    }
}

/// Why bytes are not a row. Each of these in a stored row means corruption, or a newer format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// The row ends before its header does.
    #[error("a row of {bytes} bytes ends within its header")]
    Short {
        /// The row's length.
        bytes: usize,
    },
    /// The tag names no kind that is known here.
    #[error("a row's tag {tag:#04x} is unknown: written by a newer Larder, or damaged")]
    UnknownTag {
        /// The row's first byte.
        tag: u8,
    },
    /// The body's length does not fit its kind.
    #[error("a hash's row has a body of {bytes} bytes where {HASH_BODY_BYTES} are expected")]
    BadLength {
        /// The body's length.
        bytes: usize,
    },
    /// The generation names a record that cannot exist.
    #[error("a hash's generation names record 0, which does not exist")]
    BadGeneration,
}

/// What a key row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowValue<'a> {
    /// A string's bytes.
    String(&'a [u8]),
    /// A hash, whose fields are elements of their own.
    Hash {
        /// The generation the fields are stored under.
        generation: Generation,
        /// How many fields there are.
        fields: u64,
    },
}

/// A key row, viewed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef<'a> {
    version: HybridTime,
    expiry: Option<u64>,
    value: RowValue<'a>,
}

impl<'a> RowRef<'a> {
    /// The row that `bytes` are.
    ///
    /// # Errors
    /// [`RowError`] where they are not one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RowError> {
        let short = RowError::Short { bytes: bytes.len() };
        let (tag, version, mut body) = split_header(bytes).ok_or(short)?;
        if tag & !(KIND_MASK | HAS_EXPIRY) != 0 {
            return Err(RowError::UnknownTag { tag });
        }
        let mut expiry = None;
        if tag & HAS_EXPIRY != 0 {
            let (millis, rest) = body.split_first_chunk::<8>().ok_or(short)?;
            expiry = Some(u64::from_le_bytes(*millis));
            body = rest;
        }
        let value = match tag & KIND_MASK {
            KIND_STRING => RowValue::String(body),
            KIND_HASH => parse_hash(body)?,
            _ => return Err(RowError::UnknownTag { tag }),
        };
        Ok(Self { version, expiry, value })
    }

    /// The stamp of the write that made this row.
    pub const fn version(&self) -> HybridTime {
        self.version
    }

    /// When the key ceases to be, in milliseconds since the Unix epoch.
    pub const fn expiry(&self) -> Option<u64> {
        self.expiry
    }

    /// Whether the key has ceased to be at `now_ms`. It has when its expiry is reached, not only
    /// when it is passed.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now_ms)
    }

    /// What the row holds.
    pub const fn value(&self) -> RowValue<'a> {
        self.value
    }
}

/// The value of a hash's field, viewed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef<'a> {
    version: HybridTime,
    value: &'a [u8],
}

impl<'a> FieldRef<'a> {
    /// The field's row that `bytes` are.
    ///
    /// # Errors
    /// [`RowError`] where they are not one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RowError> {
        let short = RowError::Short { bytes: bytes.len() };
        let (tag, version, value) = split_header(bytes).ok_or(short)?;
        if tag != KIND_FIELD {
            return Err(RowError::UnknownTag { tag });
        }
        Ok(Self { version, value })
    }

    /// The stamp of the write that made this row.
    pub const fn version(&self) -> HybridTime {
        self.version
    }

    /// The field's bytes.
    pub const fn value(&self) -> &'a [u8] {
        self.value
    }
}

/// The row of a string. `expiry` is in milliseconds since the Unix epoch.
pub fn string_row(version: HybridTime, expiry: Option<u64>, value: &[u8]) -> Arc<[u8]> {
    build(KIND_STRING, version, expiry, &[value])
}

/// The row of a hash with this many fields under `generation`. `expiry` is in milliseconds since
/// the Unix epoch.
pub fn hash_row(
    version: HybridTime,
    expiry: Option<u64>,
    generation: Generation,
    fields: u64,
) -> Arc<[u8]> {
    build(KIND_HASH, version, expiry, &[&generation.encode(), &fields.to_le_bytes()])
}

/// The row of a hash's field.
pub fn field_row(version: HybridTime, value: &[u8]) -> Arc<[u8]> {
    build(KIND_FIELD, version, None, &[value])
}

/// The generation that the fields of a hash are stored under, where `row` is a hash's.
pub(crate) fn generation_of(row: &[u8]) -> Option<Generation> {
    match RowRef::parse(row).ok()?.value() {
        RowValue::Hash { generation, .. } => Some(generation),
        RowValue::String(_) => None,
    }
}

fn split_header(bytes: &[u8]) -> Option<(u8, HybridTime, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (version, body) = rest.split_first_chunk::<8>()?;
    Some((tag, HybridTime::from_u64(u64::from_le_bytes(*version)), body))
}

fn parse_hash(body: &[u8]) -> Result<RowValue<'_>, RowError> {
    let bad_length = RowError::BadLength { bytes: body.len() };
    let (generation, fields) =
        body.split_first_chunk::<{ Generation::ENCODED_BYTES }>().ok_or(bad_length)?;
    let fields = u64::from_le_bytes(fields.try_into().map_err(|_| bad_length)?);
    let generation = Generation::decode(generation).ok_or(RowError::BadGeneration)?;
    Ok(RowValue::Hash { generation, fields })
}

/// Lays a row out in the thread's scratch, so that the shared slice is the only allocation.
fn build(kind: u8, version: HybridTime, expiry: Option<u64>, body: &[&[u8]]) -> Arc<[u8]> {
    const HEADER_BYTES_MAX: usize = TAG_AND_VERSION_BYTES + 8;
    let bytes = body.iter().fold(HEADER_BYTES_MAX, |sum, part| sum.saturating_add(part.len()));
    if bytes > SCRATCH_BYTES_MAX {
        let mut buffer = Vec::with_capacity(bytes);
        lay_out(&mut buffer, kind, version, expiry, body);
        return buffer.into();
    }
    SCRATCH.with_borrow_mut(|buffer| {
        buffer.clear();
        lay_out(buffer, kind, version, expiry, body);
        Arc::from(buffer.as_slice())
    })
}

fn lay_out(
    buffer: &mut Vec<u8>,
    kind: u8,
    version: HybridTime,
    expiry: Option<u64>,
    body: &[&[u8]],
) {
    let mut header = [0; TAG_AND_VERSION_BYTES];
    header[0] = kind | if expiry.is_some() { HAS_EXPIRY } else { 0 };
    header[1..].copy_from_slice(&version.as_u64().to_le_bytes());
    buffer.extend_from_slice(&header);
    if let Some(millis) = expiry {
        buffer.extend_from_slice(&millis.to_le_bytes());
    }
    body.iter().for_each(|part| buffer.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn generations() -> impl Strategy<Value = Generation> {
        (any::<(u32, u32, u64)>(), 1..=u64::MAX, any::<u32>()).prop_map(
            |((term, run, id), seq, ordinal)| {
                let seq = SequenceNumber::new(seq).unwrap();
                let position = Position { epoch: Epoch { term, run, id }, seq };
                Generation { position, ordinal }
            },
        )
    }

    proptest! {
        #[test]
        fn a_string_row_reads_back(
            version: u64, expiry: Option<u64>, value: Vec<u8>,
        ) {
            let version = HybridTime::from_u64(version);
            let row = string_row(version, expiry, &value);
            let parsed = RowRef::parse(&row).unwrap();
            prop_assert_eq!(parsed.version(), version);
            prop_assert_eq!(parsed.expiry(), expiry);
            prop_assert_eq!(parsed.value(), RowValue::String(&value));
        }

        #[test]
        fn a_hash_row_reads_back_and_every_shorter_or_longer_one_is_refused(
            version: u64, expiry: Option<u64>, generation in generations(), fields: u64,
        ) {
            let row = hash_row(HybridTime::from_u64(version), expiry, generation, fields);
            let parsed = RowRef::parse(&row).unwrap();
            prop_assert_eq!(parsed.version().as_u64(), version);
            prop_assert_eq!(parsed.expiry(), expiry);
            prop_assert_eq!(parsed.value(), RowValue::Hash { generation, fields });
            for end in 0..row.len() {
                prop_assert!(RowRef::parse(&row[..end]).is_err());
            }
            prop_assert!(RowRef::parse(&[&row[..], &[0]].concat()).is_err());
        }

        #[test]
        fn a_field_row_reads_back_and_is_no_key_row(version: u64, value: Vec<u8>) {
            let row = field_row(HybridTime::from_u64(version), &value);
            let parsed = FieldRef::parse(&row).unwrap();
            prop_assert_eq!(parsed.version().as_u64(), version);
            prop_assert_eq!(parsed.value(), &value[..]);
            prop_assert_eq!(RowRef::parse(&row), Err(RowError::UnknownTag { tag: 0x0f }));
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let version = HybridTime::from_u64(0x0102);
        let string = string_row(version, Some(3), b"v");
        assert_eq!(&string[..], b"\x81\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0v");
        let epoch = Epoch { term: 4, run: 5, id: 6 };
        let seq = SequenceNumber::new(7).unwrap();
        let generation = Generation { position: Position { epoch, seq }, ordinal: 8 };
        let hash = hash_row(version, None, generation, 9);
        let expected = b"\x02\x02\x01\0\0\0\0\0\0\
            \x04\0\0\0\x05\0\0\0\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x08\0\0\0\
            \x09\0\0\0\0\0\0\0";
        assert_eq!(&hash[..], expected);
        assert_eq!(&field_row(version, b"v")[..], b"\x0f\x02\x01\0\0\0\0\0\0v");
    }

    #[test]
    fn a_row_larger_than_the_scratch_reads_back() {
        let value = vec![7; SCRATCH_BYTES_MAX + 1];
        let row = string_row(HybridTime::ZERO, None, &value);
        assert_eq!(RowRef::parse(&row).unwrap().value(), RowValue::String(&value));
    }

    #[test]
    fn an_expiry_is_reached_at_its_own_millisecond() {
        let row = string_row(HybridTime::ZERO, Some(10), b"");
        let row = RowRef::parse(&row).unwrap();
        assert!(!row.is_expired(9));
        assert!(row.is_expired(10));
        let lasting = string_row(HybridTime::ZERO, None, b"");
        assert!(!RowRef::parse(&lasting).unwrap().is_expired(u64::MAX));
    }

    #[test]
    fn tags_of_no_known_kind_are_refused() {
        for tag in (0..=u8::MAX).filter(|tag| ![0x01, 0x02, 0x81, 0x82].contains(tag)) {
            let mut bytes = [0; 64];
            bytes[0] = tag;
            assert_eq!(RowRef::parse(&bytes), Err(RowError::UnknownTag { tag }));
        }
    }
}
