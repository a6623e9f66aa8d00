//! Whole keys, absence included, as a rewind fetches them from the new master.
//!
//! One kind of request names keys; the reply holds as many of them, from the first on, as fit. The
//! other asks which hashes that are older than a record were changed from that record on. Integers
//! are little-endian, lengths and counts four bytes.
//!
//! ```text
//! request  1, (key length, key)*
//! reply    1, (key length, key, 0 | 1, row length, row, fields, (name length, name, row length, row)*)*
//! request  2, record (8)
//! reply    2, (key length, key)*
//! ```

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::collections::BTreeSet;

use larder_types::{
    SequenceNumber,
    limits::{FIELD_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX},
};

use crate::{
    StateError, Store,
    effect::{Effect, EffectError, effects},
    log::{ReadError, RecordKind},
    row::{FieldRef, RowError, RowRef, RowValue},
};

const WHOLE_KEYS: u8 = 1;
const CHANGED_HASHES: u8 = 2;

/// A row beside its value: tag, version, expiry, generation, count.
const ROW_OVERHEAD_MAX: usize = 64;

/// Why keys were not read or not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WholeKeyError {
    /// The bytes are no request, or no reply.
    #[error("at byte {offset} of the keys received: {what}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// A row does not parse.
    #[error("a fetched key has a damaged row: {0}")]
    Row(#[from] RowError),
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log could not be read, or is trimmed: a snapshot is needed.
    #[error("what changed since the parting cannot be told, a snapshot is needed: {0}")]
    Read(#[from] ReadError),
    /// A record does not decode.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// One key alone, or the names of those that changed, exceed the bound: a snapshot is needed.
    #[error("more than {limit} bytes cannot be fetched at once: a snapshot is needed")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
}

/// A key with all that is under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WholeKey<'a> {
    /// The user key.
    pub key: &'a [u8],
    /// Its row; `None` where it is absent.
    pub row: Option<&'a [u8]>,
    /// A hash's fields, names and rows.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
}

impl Store {
    /// Answers a replica that rewinds, within `bytes_max`. Of keys that the request names, from the
    /// first on, one, and as many more as fit into `bytes_enough`: an answer that is small comes soon
    /// on a slow line as well. Answers as well the last record that was visible when the last of
    /// them had been read, 0 for none.
    ///
    /// # Errors
    /// When the request is malformed, what it asks for does not fit, or log or state fail.
    pub fn read_keys(
        &self,
        request: &[u8],
        bytes_enough: usize,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, u64), WholeKeyError> {
        match request.split_first() {
            Some((&WHOLE_KEYS, names)) => self.read_whole_keys(names, bytes_enough, bytes_max),
            Some((&CHANGED_HASHES, from)) => {
                let from = from.try_into().ok().map(u64::from_le_bytes);
                let from = from.and_then(SequenceNumber::new).ok_or(NO_REQUEST)?;
                Ok((self.changed_hashes(from, bytes_max)?, self.watermarks().visible))
            }
            _ => Err(NO_REQUEST),
        }
    }

    /// The hashes that were created before record `from` and changed by it or a later one.
    fn changed_hashes(
        &self,
        from: SequenceNumber,
        bytes_max: usize,
    ) -> Result<Vec<u8>, WholeKeyError> {
        let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut bytes = 1;
        let mut cursor = self.log().read(from)?;
        while let Some(record) = cursor.next()? {
            if record.kind != RecordKind::Data {
                continue;
            }
            for effect in effects(&record.body) {
                if let Effect::PutRow { key, row } = effect?
                    && let RowValue::Hash { generation, .. } = RowRef::parse(row)?.value()
                    && generation.position.seq < from
                    && !names.contains(key)
                {
                    bytes = part_bytes(key).saturating_add(bytes);
                    names.insert(key.to_vec());
                }
            }
            if bytes > bytes_max {
                return Err(WholeKeyError::TooLarge { limit: bytes_max });
            }
        }
        let mut reply = vec![CHANGED_HASHES];
        names.iter().for_each(|name| put(&mut reply, name));
        Ok(reply)
    }

    fn read_whole_keys(
        &self,
        names: &[u8],
        bytes_enough: usize,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, u64), WholeKeyError> {
        let (mut reply, mut one) = (vec![WHOLE_KEYS], Vec::new());
        for key in keys(names) {
            one.clear();
            if !self.read_key(key?, &mut one, bytes_max)? {
                if reply.len() == 1 {
                    return Err(WholeKeyError::TooLarge { limit: bytes_max });
                }
                break;
            }
            if reply.len() > 1 && reply.len().saturating_add(one.len()) > bytes_enough {
                break;
            }
            reply.extend_from_slice(&one);
        }
        // Taken last: what was read is no newer. A key may be older than this, which its replay up
        // to here makes good.
        Ok((reply, self.watermarks().visible))
    }

    /// Encodes a key; false where it needs more than `bytes_max`.
    fn read_key(
        &self,
        key: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<bool, WholeKeyError> {
        put(out, key);
        let Some(whole) = self.view_of_kept()?.whole_key(key, bytes_max)? else {
            out.push(0);
            return Ok(true);
        };
        out.push(1);
        put(out, whole.row.bytes());
        out.extend_from_slice(&(whole.fields.len() as u32).to_le_bytes());
        for (name, value) in &whole.fields {
            put(out, name);
            put(out, value.bytes());
        }
        Ok(whole.complete && out.len() <= bytes_max)
    }
}

const NO_REQUEST: WholeKeyError = WholeKeyError::Malformed { offset: 0, what: "no such request" };

/// Bytes that [`put`] appends.
const fn part_bytes(part: &[u8]) -> usize {
    part.len().saturating_add(4)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A request for these keys, in order: at least one, and no more than fit into `bytes_max`.
pub(crate) fn request<'a>(names: impl Iterator<Item = &'a [u8]>, bytes_max: usize) -> Vec<u8> {
    let mut out = vec![WHOLE_KEYS];
    for key in names {
        if out.len() > 1 && part_bytes(key).saturating_add(out.len()) > bytes_max {
            break;
        }
        put(&mut out, key);
    }
    out
}

/// A request for the hashes older than record `from` that changed from that record on.
pub(crate) fn request_changed(from: SequenceNumber) -> Vec<u8> {
    [&[CHANGED_HASHES][..], &from.as_u64().to_le_bytes()].concat()
}

/// What a reply holds.
pub(crate) enum Reply<'a> {
    /// Whole keys, for [`whole_keys`].
    WholeKeys(&'a [u8]),
    /// Names of hashes, for [`keys`].
    ChangedHashes(&'a [u8]),
}

impl<'a> Reply<'a> {
    /// Tells which kind of reply the bytes are.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Self, WholeKeyError> {
        match bytes.split_first() {
            Some((&WHOLE_KEYS, rest)) => Ok(Self::WholeKeys(rest)),
            Some((&CHANGED_HASHES, rest)) => Ok(Self::ChangedHashes(rest)),
            _ => Err(WholeKeyError::Malformed { offset: 0, what: "no such reply" }),
        }
    }
}

/// Keys by their names alone.
pub(crate) fn keys(request: &[u8]) -> impl Iterator<Item = Result<&[u8], WholeKeyError>> {
    let mut decoder = Decoder { bytes: request, offset: 0 };
    decoder_items(move || (!decoder.is_empty()).then(|| decoder.part(KEY_BYTES_MAX)))
}

/// The keys of a reply, checked: rows parse, and only a hash has fields, as many as its row says.
pub(crate) fn whole_keys(
    reply: &[u8],
) -> impl Iterator<Item = Result<WholeKey<'_>, WholeKeyError>> {
    let mut decoder = Decoder { bytes: reply, offset: 0 };
    decoder_items(move || (!decoder.is_empty()).then(|| decoder.whole_key()))
}

/// Ends after the first error.
fn decoder_items<T>(
    mut next: impl FnMut() -> Option<Result<T, WholeKeyError>>,
) -> impl Iterator<Item = Result<T, WholeKeyError>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        let item = if ended { None } else { next() };
        ended = !matches!(item, Some(Ok(_)));
        item
    })
}

struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Decoder<'a> {
    const fn is_empty(&self) -> bool {
        self.offset >= self.bytes.len()
    }

    const fn malformed(&self, what: &'static str) -> WholeKeyError {
        WholeKeyError::Malformed { offset: self.offset, what }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], WholeKeyError> {
        let rest = &self.bytes[self.offset..];
        let taken = rest.get(..bytes).ok_or_else(|| self.malformed("it ends too early"))?;
        self.offset = self.offset.saturating_add(bytes);
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize, WholeKeyError> {
        let bytes = self.take(4)?;
        let number = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Ok(number as usize)
    }

    fn part(&mut self, bytes_max: usize) -> Result<&'a [u8], WholeKeyError> {
        let length = self.number()?;
        if length > bytes_max {
            return Err(self.malformed("a length beyond its bound"));
        }
        self.take(length)
    }

    fn whole_key(&mut self) -> Result<WholeKey<'a>, WholeKeyError> {
        const ROW_BYTES_MAX: usize = VALUE_BYTES_MAX + ROW_OVERHEAD_MAX;
        let key = self.part(KEY_BYTES_MAX)?;
        match self.take(1)? {
            [0] => return Ok(WholeKey { key, row: None, fields: Vec::new() }),
            [1] => {}
            _ => return Err(self.malformed("neither absent nor present")),
        }
        let row = self.part(ROW_BYTES_MAX)?;
        let expected = match RowRef::parse(row)?.value() {
            RowValue::Hash { fields, .. } => fields,
            RowValue::String(_) => 0,
        };
        let count = self.number()?;
        if count as u64 != expected {
            return Err(self.malformed("a number of fields that is not the row's"));
        }
        let mut fields = Vec::new();
        for _ in 0..count {
            let name = self.part(FIELD_BYTES_MAX)?;
            let row = self.part(ROW_BYTES_MAX)?;
            FieldRef::parse(row)?;
            fields.push((name, row));
        }
        Ok(WholeKey { key, row: Some(row), fields })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(keys(&bytes).count() <= bytes.len());
            prop_assert!(whole_keys(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn a_request_names_at_least_one_key_and_no_more_than_fit() {
        let names: [&[u8]; 3] = [b"one", b"two", b"three"];
        let read = |bytes_max| {
            let request = request(names.into_iter(), bytes_max);
            keys(&request[1..]).map(|key| key.unwrap().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(read(1), [b"one"]);
        assert_eq!(read(15), [b"one", b"two"]);
        assert_eq!(read(100).len(), 3);
    }
}
