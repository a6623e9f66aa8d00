//! Keys: how user keys and the elements of composite values are named in the database.
//!
//! Everything of a unit is one contiguous range, within it all key rows come before all elements,
//! and the elements of one generation of one value are contiguous. So a unit is moved or dropped
//! as a range, a scan of keys never meets more than one foreign range a unit, and a hash is read
//! by one bounded iterator. The byte tables are in `docs/format/keys.md`; the layout must not
//! change without a new format version. Parsing never panics and never allocates.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use larder_types::{UNITS, Unit};
use thiserror::Error;

use crate::row::Generation;

const KIND_ROW: u8 = 0x01;
const KIND_ELEMENT: u8 = 0x02;
/// Above every unit, so that the store's own keys lie behind all data.
const OWN_PREFIX: [u8; 2] = [0xff, 0xff];

/// A key of the database, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKey<'a> {
    /// The row of a user key.
    Row {
        /// The unit the row is stored under.
        unit: Unit,
        /// The user key.
        key: &'a [u8],
    },
    /// An element of a composite value, such as a field of a hash.
    Element {
        /// The unit the element is stored under.
        unit: Unit,
        /// The user key the value is stored under.
        key: &'a [u8],
        /// The incarnation of the value the element belongs to.
        generation: Generation,
        /// The element's name within the value.
        field: &'a [u8],
    },
    /// A key of the store's own, such as `applied`.
    Own {
        /// Its name.
        name: &'a [u8],
    },
}

/// Why bytes are not a key of the database. Each of these in a stored key means corruption, or a
/// newer format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key ends before its fixed parts do.
    #[error("a key of {bytes} bytes ends within its fixed part")]
    Short {
        /// The key's length.
        bytes: usize,
    },
    /// The unit is none that exists.
    #[error("a key names unit {number}, but the last is {}", UNITS - 1)]
    UnknownUnit {
        /// The number found.
        number: u16,
    },
    /// The kind is none that is known here.
    #[error("a key's kind {kind:#04x} is unknown: written by a newer Larder, or damaged")]
    UnknownKind {
        /// The byte found.
        kind: u8,
    },
    /// The generation names a record that cannot exist.
    #[error("an element's generation names record 0, which does not exist")]
    BadGeneration,
}

/// Replaces `out` with the key of the row of user key `key`.
pub fn key_row_key(key: &[u8], out: &mut Vec<u8>) {
    row_key_in(Unit::of_key(key), key, out);
}

/// Replaces `out` with the key of a row in `unit`: for places to seek to, where the unit is known
/// and `key` may be no key's.
pub fn row_key_in(unit: Unit, key: &[u8], out: &mut Vec<u8>) {
    start(unit, KIND_ROW, key.len().saturating_add(3), out);
    out.extend_from_slice(key);
}

/// Replaces `out` with the key of element `field` of the value of user key `key`.
///
/// # Panics
/// When `key` has 4 GiB or more, which `limits::KEY_BYTES_MAX` rules out.
pub fn element_key(key: &[u8], generation: Generation, field: &[u8], out: &mut Vec<u8>) {
    element_prefix(key, generation, out);
    out.extend_from_slice(field);
}

/// Replaces `out` with what the keys of all elements of one generation of `key` start with, and
/// no other key does.
///
/// # Panics
/// As [`element_key`].
pub fn element_prefix(key: &[u8], generation: Generation, out: &mut Vec<u8>) {
    let unit = Unit::of_key(key);
    let length = u32::try_from(key.len()).expect("a user key is within KEY_BYTES_MAX");
    const FIXED_BYTES: usize = 7 + Generation::ENCODED_BYTES;
    start(unit, KIND_ELEMENT, key.len().saturating_add(FIXED_BYTES), out);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&generation.encode());
}

/// Replaces `out` with the store's own key `name`.
pub fn own_key(name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&OWN_PREFIX);
    out.extend_from_slice(name);
}

/// Replaces `out` with the first key after all rows of `unit`: where its elements begin.
pub fn rows_end(unit: Unit, out: &mut Vec<u8>) {
    start(unit, KIND_ELEMENT, 3, out);
}

/// The half-open range that holds everything of `unit` and nothing else.
pub fn unit_range(unit: Unit) -> ([u8; 2], [u8; 2]) {
    (unit.as_u16().to_be_bytes(), unit.as_u16().saturating_add(1).to_be_bytes())
}

/// The half-open range that holds everything of every unit, and none of the store's own keys.
pub const fn all_units_range() -> ([u8; 2], [u8; 2]) {
    ([0, 0], UNITS.to_be_bytes())
}

/// Raises `prefix` to the first key after all that start with it.
///
/// A prefix made here never consists of `0xff` alone, so that such a key always exists.
pub fn after_prefix(prefix: &mut Vec<u8>) {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            return;
        }
    }
}

/// Takes a key of the database apart.
///
/// It is not checked that the unit is the one the user key hashes into: see
/// [`StorageKey::is_in_its_unit`].
///
/// # Errors
/// [`KeyError`] where `bytes` are no key.
pub fn parse(bytes: &[u8]) -> Result<StorageKey<'_>, KeyError> {
    let short = KeyError::Short { bytes: bytes.len() };
    let (unit, rest) = bytes.split_first_chunk::<2>().ok_or(short)?;
    if *unit == OWN_PREFIX {
        return Ok(StorageKey::Own { name: rest });
    }
    let number = u16::from_be_bytes(*unit);
    let unit = Unit::new(number).ok_or(KeyError::UnknownUnit { number })?;
    let (&kind, rest) = rest.split_first().ok_or(short)?;
    match kind {
        KIND_ROW => Ok(StorageKey::Row { unit, key: rest }),
        KIND_ELEMENT => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| short)?;
            let (key, rest) = rest.split_at_checked(length).ok_or(short)?;
            let (generation, field) =
                rest.split_first_chunk::<{ Generation::ENCODED_BYTES }>().ok_or(short)?;
            let generation = Generation::decode(generation).ok_or(KeyError::BadGeneration)?;
            Ok(StorageKey::Element { unit, key, generation, field })
        }
        kind => Err(KeyError::UnknownKind { kind }),
    }
}

impl StorageKey<'_> {
    /// Whether the unit a key is stored under is the one its user key hashes into. True for the
    /// store's own keys.
    pub fn is_in_its_unit(&self) -> bool {
        match *self {
            Self::Row { unit, key } | Self::Element { unit, key, .. } => unit == Unit::of_key(key),
            Self::Own { .. } => true,
        }
    }
}

fn start(unit: Unit, kind: u8, capacity: usize, out: &mut Vec<u8>) {
    out.clear();
    out.reserve(capacity);
    let [high, low] = unit.as_u16().to_be_bytes();
    out.extend_from_slice(&[high, low, kind]);
}

#[cfg(test)]
mod tests {
    use larder_types::{Epoch, Position, SequenceNumber};
    use proptest::prelude::*;

    use super::*;

    fn generations() -> impl Strategy<Value = Generation> {
        (0..3u32, 0..3u32, 0..3u64, 1..300u64, 0..3u32).prop_map(|(term, run, id, seq, ordinal)| {
            let seq = SequenceNumber::new(seq).unwrap();
            Generation { position: Position { epoch: Epoch { term, run, id }, seq }, ordinal }
        })
    }

    /// Keys that are likely to be prefixes of each other and to hold the bytes that the layout
    /// uses.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(2), Just(0xff), Just(b'{'), Just(b'}')];
        prop::collection::vec(byte, 0..9)
    }

    fn row(key: &[u8]) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        key_row_key(key, &mut out);
        out
    }

    fn element(key: &[u8], generation: Generation, field: &[u8]) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        element_key(key, generation, field, &mut out);
        out
    }

    proptest! {
        #[test]
        fn keys_read_back(key: Vec<u8>, generation in generations(), field: Vec<u8>) {
            let unit = Unit::of_key(&key);
            let bytes = row(&key);
            prop_assert_eq!(parse(&bytes), Ok(StorageKey::Row { unit, key: &key }));
            let bytes = element(&key, generation, &field);
            let parsed = parse(&bytes).unwrap();
            let expected = StorageKey::Element { unit, key: &key, generation, field: &field };
            prop_assert_eq!(parsed, expected);
            prop_assert!(parsed.is_in_its_unit());
            let mut own = Vec::new();
            own_key(&key, &mut own);
            prop_assert_eq!(parse(&own), Ok(StorageKey::Own { name: &key }));
        }

        #[test]
        fn a_unit_holds_its_rows_and_elements_and_no_others(
            keys in prop::collection::vec((texts(), generations(), texts()), 1..20),
            unit in 0..UNITS,
        ) {
            let unit = Unit::new(unit).unwrap();
            let (all_from, all_to) = all_units_range();
            let mut own = Vec::new();
            own_key(b"", &mut own);
            prop_assert!(own.as_slice() >= all_to.as_slice());
            for (key, generation, field) in &keys {
                let (from, to) = unit_range(Unit::of_key(key));
                let mut boundary = Vec::new();
                rows_end(Unit::of_key(key), &mut boundary);
                let (row, element) = (row(key), element(key, *generation, field));
                prop_assert!(row < boundary && boundary <= element);
                for bytes in [row, element] {
                    prop_assert!(bytes.as_slice() >= &from[..] && bytes.as_slice() < &to[..]);
                    prop_assert!(bytes.as_slice() >= &all_from[..]);
                    prop_assert!(bytes.as_slice() < &all_to[..]);
                    let (from, to) = unit_range(unit);
                    let inside = bytes.as_slice() >= &from[..] && bytes.as_slice() < &to[..];
                    prop_assert_eq!(inside, unit == Unit::of_key(key));
                }
            }
        }

        #[test]
        fn elements_of_one_generation_are_contiguous(
            one in (texts(), generations(), texts()), other in (texts(), generations(), texts()),
        ) {
            let mut from = Vec::new();
            element_prefix(&one.0, one.1, &mut from);
            let mut to = from.clone();
            after_prefix(&mut to);
            let inside = |bytes: &[u8]| bytes >= &from[..] && bytes < &to[..];
            prop_assert!(inside(&element(&one.0, one.1, &one.2)));
            let same = (&one.0, one.1) == (&other.0, other.1);
            prop_assert_eq!(inside(&element(&other.0, other.1, &other.2)), same);
        }

        #[test]
        fn rows_of_a_unit_are_in_the_order_of_their_keys(one in texts(), other in texts()) {
            let order = (Unit::of_key(&one), &one).cmp(&(Unit::of_key(&other), &other));
            prop_assert_eq!(row(&one).cmp(&row(&other)), order);
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        assert_eq!(row(b"foo"), b"\x2f\x96\x01foo");
        let epoch = Epoch { term: 4, run: 5, id: 6 };
        let seq = SequenceNumber::new(7).unwrap();
        let generation = Generation { position: Position { epoch, seq }, ordinal: 8 };
        let expected = b"\x2f\x96\x02\0\0\0\x03foo\
            \x04\0\0\0\x05\0\0\0\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x08\0\0\0field";
        assert_eq!(element(b"foo", generation, b"field"), expected);
        let mut own = Vec::new();
        own_key(b"applied", &mut own);
        assert_eq!(own, b"\xff\xffapplied");
    }

    #[test]
    fn damaged_keys_are_refused_by_name() {
        assert_eq!(parse(b""), Err(KeyError::Short { bytes: 0 }));
        assert_eq!(parse(b"\0\0"), Err(KeyError::Short { bytes: 2 }));
        assert_eq!(parse(b"\x40\0\x01k"), Err(KeyError::UnknownUnit { number: UNITS }));
        assert_eq!(parse(b"\0\0\x03k"), Err(KeyError::UnknownKind { kind: 3 }));
        let declared_longer_than_it_is = b"\0\0\x02\xff\xff\xff\xffk";
        let bytes = declared_longer_than_it_is.len();
        assert_eq!(parse(declared_longer_than_it_is), Err(KeyError::Short { bytes }));
        let mut of_no_record = b"\0\0\x02\0\0\0\0".to_vec();
        of_no_record.extend([0; Generation::ENCODED_BYTES]);
        assert_eq!(parse(&of_no_record), Err(KeyError::BadGeneration));
        assert!(!parse(b"\0\0\x01foo").unwrap().is_in_its_unit());
    }
}
