//! The body of a data record: effects, which are resulting values, never commands.
//!
//! Applying the same body twice leaves the same state, so replay needs no care for what was
//! already applied. Format (see `docs/format/log.md`): effects one after the other, each an op
//! byte and its parts; lengths are LEB128 varints.
//!
//! | op | parts |
//! |---|---|
//! | 1 put row | key length, key, row length, row |
//! | 2 delete row | key length, key |
//! | 3 put field | key length, key, generation (28), field length, field, row length, row |
//! | 4 delete field | key length, key, generation (28), field length, field |
//! | 5 clear | none: every key of the shard is gone |

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use crate::row::Generation;

/// One change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The key's row is now `row`.
    PutRow {
        /// The user key.
        key: &'a [u8],
        /// As [`crate::row`] encodes it.
        row: &'a [u8],
    },
    /// The key is gone, with every element under it.
    DeleteRow {
        /// The user key.
        key: &'a [u8],
    },
    /// The field's value is now `row`.
    PutField {
        /// The user key.
        key: &'a [u8],
        /// The hash that the field belongs to.
        generation: Generation,
        /// The field's name.
        field: &'a [u8],
        /// As [`crate::row`] encodes a field.
        row: &'a [u8],
    },
    /// The field is gone.
    DeleteField {
        /// The user key.
        key: &'a [u8],
        /// The hash that the field belongs to.
        generation: Generation,
        /// The field's name.
        field: &'a [u8],
    },
    /// Every key is gone.
    Clear,
}

/// A record body that does not decode. Its checksum was right, so it was written by a version
/// that knows more, or by a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("effect at byte {offset} of the record body: {what}")]
pub struct EffectError {
    /// Where in the body.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

const PUT_ROW: u8 = 1;
const DELETE_ROW: u8 = 2;
const PUT_FIELD: u8 = 3;
const DELETE_FIELD: u8 = 4;
const CLEAR: u8 = 5;

impl Effect<'_> {
    /// Appends the effect to `body`.
    pub fn encode(&self, body: &mut Vec<u8>) {
        match *self {
            Self::PutRow { key, row } => {
                body.push(PUT_ROW);
                put_bytes(body, key);
                put_bytes(body, row);
            }
            Self::DeleteRow { key } => {
                body.push(DELETE_ROW);
                put_bytes(body, key);
            }
            Self::PutField { key, generation, field, row } => {
                body.push(PUT_FIELD);
                put_bytes(body, key);
                body.extend_from_slice(&generation.encode());
                put_bytes(body, field);
                put_bytes(body, row);
            }
            Self::DeleteField { key, generation, field } => {
                body.push(DELETE_FIELD);
                put_bytes(body, key);
                body.extend_from_slice(&generation.encode());
                put_bytes(body, field);
            }
            Self::Clear => body.push(CLEAR),
        }
    }

    /// Bytes that [`Effect::encode`] appends at most.
    pub fn encoded_bytes_max(&self) -> usize {
        const OP_BYTES: usize = 1;
        const OF_FIELD_BYTES: usize = OP_BYTES + Generation::ENCODED_BYTES;
        const LENGTH_BYTES_MAX: usize = 5;
        let with = |fixed: usize, parts: &[&[u8]]| {
            let part = |part: &&[u8]| part.len().saturating_add(LENGTH_BYTES_MAX);
            parts.iter().map(part).fold(fixed, usize::saturating_add)
        };
        match *self {
            Self::PutRow { key, row } => with(OP_BYTES, &[key, row]),
            Self::DeleteRow { key } => with(OP_BYTES, &[key]),
            Self::PutField { key, field, row, .. } => with(OF_FIELD_BYTES, &[key, field, row]),
            Self::DeleteField { key, field, .. } => with(OF_FIELD_BYTES, &[key, field]),
            Self::Clear => OP_BYTES,
        }
    }
}

/// The effects of a record body, in order. Ends after the first error.
pub fn effects(body: &[u8]) -> impl Iterator<Item = Result<Effect<'_>, EffectError>> {
    let mut decoder = Decoder { body, offset: 0 };
    std::iter::from_fn(move || {
        if decoder.offset >= decoder.body.len() {
            return None;
        }
        let effect = decoder.effect();
        if effect.is_err() {
            decoder.offset = decoder.body.len();
        }
        Some(effect)
    })
}

struct Decoder<'a> {
    body: &'a [u8],
    offset: usize,
}

impl<'a> Decoder<'a> {
    fn effect(&mut self) -> Result<Effect<'a>, EffectError> {
        let op_offset = self.offset;
        Ok(match self.take(1)?[0] {
            PUT_ROW => Effect::PutRow { key: self.bytes()?, row: self.bytes()? },
            DELETE_ROW => Effect::DeleteRow { key: self.bytes()? },
            PUT_FIELD => Effect::PutField {
                key: self.bytes()?,
                generation: self.generation()?,
                field: self.bytes()?,
                row: self.bytes()?,
            },
            DELETE_FIELD => Effect::DeleteField {
                key: self.bytes()?,
                generation: self.generation()?,
                field: self.bytes()?,
            },
            CLEAR => Effect::Clear,
            _ => return Err(EffectError { offset: op_offset, what: "unknown op" }),
        })
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], EffectError> {
        let end = self.offset.checked_add(bytes).filter(|&end| end <= self.body.len());
        let Some(end) = end else {
            return Err(EffectError { offset: self.offset, what: "the body ends too early" });
        };
        let taken = &self.body[self.offset..end];
        self.offset = end;
        Ok(taken)
    }

    fn bytes(&mut self) -> Result<&'a [u8], EffectError> {
        let offset = self.offset;
        let mut length = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return self.take(length);
            }
        }
        Err(EffectError { offset, what: "a length of more than five bytes" })
    }

    fn generation(&mut self) -> Result<Generation, EffectError> {
        let offset = self.offset;
        let bytes = self.take(Generation::ENCODED_BYTES)?;
        bytes
            .try_into()
            .ok()
            .and_then(Generation::decode)
            .ok_or(EffectError { offset, what: "a generation without a sequence number" })
    }
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    while length >= 0x80 {
        body.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use larder_types::{Epoch, Position, SequenceNumber};
    use proptest::prelude::*;

    use super::*;

    fn generation() -> Generation {
        let epoch = Epoch { term: 1, run: 2, id: 3 };
        Generation { position: Position { epoch, seq: SequenceNumber::FIRST }, ordinal: 4 }
    }

    #[test]
    fn every_effect_survives_the_round_trip() {
        let written = [
            Effect::PutRow { key: b"k", row: &[7; 300] },
            Effect::DeleteRow { key: b"" },
            Effect::PutField { key: b"h", generation: generation(), field: b"f", row: b"v" },
            Effect::DeleteField { key: b"h", generation: generation(), field: &[1; 20_000] },
            Effect::Clear,
        ];
        let mut body = Vec::new();
        for effect in &written {
            let before = body.len();
            effect.encode(&mut body);
            assert!(body.len() - before <= effect.encoded_bytes_max());
        }
        let read: Vec<_> = effects(&body).map(Result::unwrap).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let written = [
            Effect::PutRow { key: b"k", row: &[7; 130] },
            Effect::DeleteRow { key: b"gone" },
            Effect::PutField { key: b"h", generation: generation(), field: b"f", row: b"v" },
            Effect::DeleteField { key: b"h", generation: generation(), field: b"f" },
            Effect::Clear,
        ];
        let mut body = Vec::new();
        written.iter().for_each(|effect| effect.encode(&mut body));
        // The epoch's term, run and id, the sequence number, the ordinal.
        let generation = [
            [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0].as_slice(),
            &[1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0],
        ]
        .concat();
        let expected = [
            [b"\x01\x01k\x82\x01".as_slice(), &[7; 130]].concat(),
            b"\x02\x04gone".to_vec(),
            [b"\x03\x01h".as_slice(), &generation, b"\x01f\x01v"].concat(),
            [b"\x04\x01h".as_slice(), &generation, b"\x01f"].concat(),
            vec![5],
        ];
        assert_eq!(body, expected.concat());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_refuse_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut refused = false;
            for effect in effects(&body) {
                prop_assert!(!refused, "nothing follows a refusal");
                refused = effect.is_err();
            }
        }
    }
}
