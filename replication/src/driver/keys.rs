//! The driver's coding of keys that are asked for and given whole. Little-endian.
//!
//! A request is the keys, each behind its length (u32). A reply is the number of the record up to
//! which the keys were read (u64, 0 for none), then, each behind its length (u32), the keys as
//! storage encodes them, in the order of the request; it may hold fewer than were asked for, and
//! an empty one stands for a key that is too large to be given.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use larder_storage::rewind::WholeKey;

/// Bytes of one request: it goes over the control stream.
const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Bytes of one reply, beyond which no further key is put into it: it goes over the log stream,
/// whose frames are at most 16 MiB.
const REPLY_BYTES: usize = 4 << 20;
/// The largest key in a reply.
pub(super) const KEY_BYTES_MAX: usize = 12 << 20;

/// The request for as many of the keys as fit, at least one, and how many these are.
pub(super) fn request(keys: &[Box<[u8]>]) -> (Bytes, usize) {
    let mut request = BytesMut::new();
    let mut count = 0;
    for key in keys {
        if count > 0 && request.len() + key.len() > REQUEST_BYTES_MAX {
            break;
        }
        put(&mut request, key);
        count += 1;
    }
    (request.freeze(), count)
}

/// The keys of a request; `None` where it does not decode.
pub(super) fn requested(request: Bytes) -> Option<Vec<Bytes>> {
    parts(request)
}

/// Gathers a reply.
#[derive(Default)]
pub(super) struct Reply {
    parts: BytesMut,
}

impl Reply {
    /// Whether another key may be added.
    pub(super) fn has_room(&self) -> bool {
        self.parts.len() < REPLY_BYTES
    }

    /// Adds a key; nothing of it where it is too large.
    pub(super) fn add(&mut self, key: Option<&[u8]>) {
        let key = key.filter(|key| key.len() <= KEY_BYTES_MAX);
        put(&mut self.parts, key.unwrap_or_default());
    }

    /// The reply, with the last record that was visible when the last key was read.
    pub(super) fn finish(self, at: u64) -> Bytes {
        let mut reply = BytesMut::with_capacity(8 + self.parts.len());
        reply.put_u64_le(at);
        reply.extend_from_slice(&self.parts);
        reply.freeze()
    }
}

/// What a reply holds.
pub(super) struct Given {
    /// The record up to which the keys were read; 0 for none.
    pub(super) at: u64,
    /// The keys; `None` for one that was too large.
    pub(super) keys: Vec<Option<WholeKey>>,
}

/// Decodes a reply.
///
/// # Errors
/// What does not decode.
pub(super) fn given(mut reply: Bytes) -> Result<Given, String> {
    if reply.len() < 8 {
        return Err("a reply of keys that ends early".to_owned());
    }
    let at = reply.get_u64_le();
    let parts = parts(reply).ok_or("a reply of keys that ends early")?;
    let decode = |part: Bytes| match part.is_empty() {
        true => Ok(None),
        false => WholeKey::decode(&part).map(Some).map_err(|error| error.to_string()),
    };
    let keys = parts.into_iter().map(decode).collect::<Result<_, _>>()?;
    Ok(Given { at, keys })
}

fn put(to: &mut BytesMut, part: &[u8]) {
    to.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
    to.extend_from_slice(part);
}

fn parts(mut bytes: Bytes) -> Option<Vec<Bytes>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < 4 {
            return None;
        }
        let length = bytes.get_u32_le() as usize;
        if bytes.len() < length {
            return None;
        }
        parts.push(bytes.split_to(length));
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_for_in_pieces_that_lose_none() {
        let keys: Vec<Box<[u8]>> = (0..10u8).map(|n| vec![n; 50_000].into()).collect();
        let mut asked = Vec::new();
        let mut rest = &keys[..];
        while !rest.is_empty() {
            let (piece, count) = request(rest);
            assert!(count > 0 && piece.len() <= REQUEST_BYTES_MAX + 64);
            asked.extend(requested(piece).unwrap());
            rest = &rest[count..];
        }
        assert!(asked.iter().map(|key| &key[..]).eq(keys.iter().map(|key| &key[..])));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let (whole, _) = request(&[b"key".to_vec().into()]);
        for end in 1..whole.len() {
            assert!(requested(whole.slice(..end)).is_none(), "{end}");
        }
        assert!(given(Bytes::from_static(b"1234567")).is_err());
    }

    #[test]
    fn a_key_that_is_too_large_is_named_and_not_given() {
        let mut reply = Reply::default();
        reply.add(Some(&vec![0; KEY_BYTES_MAX + 1]));
        let given = given(reply.finish(7)).unwrap();
        assert_eq!((given.at, given.keys.len()), (7, 1));
        assert!(given.keys[0].is_none());
    }
}
