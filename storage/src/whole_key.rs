//! Whole keys, absence included, as a rewind fetches them from the new master.
//!
//! A request names keys; the reply holds as many of them, from the first on, as fit. Integers are
//! little-endian u32.
//!
//! ```text
//! request  (key length, key)*
//! reply    (key length, key, 0 | 1, row length, row, fields, (name length, name, row length, row)*)*
//! ```

use larder_types::limits::{FIELD_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::{
    StateError, Store,
    row::{FieldRef, RowError, RowRef, RowValue},
};

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
    /// One key alone exceeds the bound: a snapshot is needed.
    #[error("a key of more than {limit} bytes cannot be fetched whole: a snapshot is needed")]
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
    /// Reads whole keys for a replica that rewinds: as many of those that `request` names as fit
    /// into `bytes_max`, from the first on. Answers the reply, and the last record that was visible
    /// when the last of them had been read, 0 for none.
    ///
    /// # Errors
    /// When the request is malformed, the first key alone is too large, or the state fails.
    pub fn read_keys(
        &self,
        request: &[u8],
        bytes_max: usize,
    ) -> Result<(Vec<u8>, u64), WholeKeyError> {
        let (mut reply, mut one) = (Vec::new(), Vec::new());
        for key in keys(request) {
            one.clear();
            if !self.read_key(key?, &mut one, bytes_max)? {
                if reply.is_empty() {
                    return Err(WholeKeyError::TooLarge { limit: bytes_max });
                }
                break;
            }
            if reply.len() + one.len() > bytes_max {
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
        // At time 0 nothing has expired: replicas hide an expired value, and keep it.
        let Some(whole) = self.view(0).whole_key(key, bytes_max)? else {
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

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A request for these keys, in order: at least one, and no more than fit into `bytes_max`.
pub(crate) fn request<'a>(names: impl Iterator<Item = &'a [u8]>, bytes_max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for key in names {
        if !out.is_empty() && out.len() + 4 + key.len() > bytes_max {
            break;
        }
        put(&mut out, key);
    }
    out
}

/// The keys of a request.
fn keys(request: &[u8]) -> impl Iterator<Item = Result<&[u8], WholeKeyError>> {
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
        self.offset += bytes;
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
            keys(&request).map(|key| key.unwrap().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(read(1), [b"one"]);
        assert_eq!(read(14), [b"one", b"two"]);
        assert_eq!(read(100).len(), 3);
    }
}
