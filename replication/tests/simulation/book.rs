//! Every record that any node ever wrote, with the record it was written behind and the state
//! that folding up to it gives. Logs hold numbers into this book; so a log is a path in a tree,
//! and whether two logs agree is whether two numbers are equal.

use std::collections::HashMap;

use larder_replication::core::{ReplicaSet, Tail};
use larder_types::{Epoch, Position, SequenceNumber};

use crate::random::mix;

/// Keys that clients write. Few, so that a parted write is soon written over, or is not.
pub(crate) const KEYS: usize = 6;

/// What each key holds; 0 is absent.
pub(crate) type Values = [u64; KEYS];

/// A record's number in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordId(u32);

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Begins an epoch.
    Epoch,
    /// Says who holds the log.
    Replicas(ReplicaSet),
    /// Sets a key. No two writes carry the same value.
    Put { key: usize, value: u64 },
    /// Removes every key: a range operation, which a rewind cannot take back key by key.
    Clear,
}

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) position: Position,
    /// The record before, which its checksum covers.
    pub(crate) previous: Option<RecordId>,
    pub(crate) crc: u32,
    pub(crate) body: Body,
    /// The fold of the log up to here.
    pub(crate) values: Values,
}

impl Record {
    pub(crate) fn seq(&self) -> u64 {
        self.position.seq.as_u64()
    }
}

/// All records.
#[derive(Default)]
pub(crate) struct Book {
    records: Vec<Record>,
    positions: HashMap<Position, RecordId>,
    /// The first position that was written twice, with other content.
    pub(crate) reused: Option<Position>,
}

impl Book {
    /// Writes `body` in `epoch` behind `previous`.
    pub(crate) fn write(
        &mut self,
        previous: Option<RecordId>,
        epoch: Epoch,
        body: Body,
    ) -> RecordId {
        let before = previous.map(|id| self.get(id));
        let number = before.map_or(1, |record| record.seq() + 1);
        let seq = SequenceNumber::new(number).expect("records are numbered from 1");
        let position = Position { epoch, seq };
        let mut values = before.map_or([0; KEYS], |record| record.values);
        match body {
            Body::Put { key, value } => values[key] = value,
            Body::Clear => values = [0; KEYS],
            Body::Epoch | Body::Replicas(_) => {}
        }
        let crc = checksum(before.map_or(0, |record| record.crc), position, &body);
        let id = RecordId(u32::try_from(self.records.len()).expect("a run is short"));
        if let Some(other) = self.positions.insert(position, id)
            && self.get(other).crc != crc
        {
            self.reused.get_or_insert(position);
        }
        self.records.push(Record { position, previous, crc, body, values });
        id
    }

    pub(crate) fn get(&self, id: RecordId) -> &Record {
        &self.records[id.0 as usize]
    }

    pub(crate) fn position(&self, id: RecordId) -> Position {
        self.get(id).position
    }

    /// The end of a log whose last record is `id`.
    pub(crate) fn tail(&self, id: Option<RecordId>) -> Tail {
        id.map_or(Tail::EMPTY, |id| {
            let record = self.get(id);
            Tail { last: Some(record.position), crc: record.crc }
        })
    }

    /// The number of the record, or 0 for none.
    pub(crate) fn number(&self, id: Option<RecordId>) -> u64 {
        id.map_or(0, |id| self.get(id).seq())
    }

    /// The path that ends in `tip`, newest first.
    pub(crate) fn path(&self, tip: Option<RecordId>) -> impl Iterator<Item = RecordId> {
        std::iter::successors(tip, |&id| self.get(id).previous)
    }

    /// The newest record that both paths pass.
    pub(crate) fn joint(&self, one: Option<RecordId>, other: Option<RecordId>) -> Option<RecordId> {
        let (mut one, mut other) = (one, other);
        while one != other {
            if self.number(one) >= self.number(other) {
                one = self.get(one?).previous;
            } else {
                other = self.get(other?).previous;
            }
        }
        one
    }

    /// The record with this number on the path that ends in `tip`.
    pub(crate) fn ancestor(&self, mut tip: RecordId, seq: u64) -> Option<RecordId> {
        while self.get(tip).seq() > seq {
            tip = self.get(tip).previous?;
        }
        (self.get(tip).seq() == seq).then_some(tip)
    }

    /// Whether the path that ends in `tip` passes `id`.
    pub(crate) fn holds(&self, tip: Option<RecordId>, id: RecordId) -> bool {
        tip.and_then(|tip| self.ancestor(tip, self.get(id).seq())) == Some(id)
    }

    /// Records as the core carries them: it looks at their number of bytes, not into them.
    pub(crate) fn encode(ids: &[RecordId]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ids.len() * FRAME_BYTES);
        for id in ids {
            bytes.extend_from_slice(&id.0.to_le_bytes());
            bytes.resize(bytes.len() + FRAME_BYTES - 4, 0);
        }
        bytes
    }

    /// The inverse of [`Book::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Vec<RecordId> {
        let number = |frame: &[u8]| u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
        bytes.chunks_exact(FRAME_BYTES).map(|frame| RecordId(number(frame))).collect()
    }
}

/// Bytes of a record on the wire: about those of a small SET.
pub(crate) const FRAME_BYTES: usize = 100;

fn checksum(previous: u32, position: Position, body: &Body) -> u32 {
    let Epoch { term, run, id } = position.epoch;
    let mut sum = u64::from(previous);
    let mut add = |number: u64| sum = mix(sum ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    add(u64::from(term) << 32 | u64::from(run));
    add(id);
    add(position.seq.as_u64());
    match body {
        Body::Epoch => add(1),
        Body::Replicas(set) => {
            add(4);
            set.members.iter().for_each(|member| add(member.id.disk.0 ^ u64::from(member.voter)));
            set.removed.iter().for_each(|node| add(node.as_str().len() as u64));
        }
        Body::Put { key, value } => add((*key as u64) << 48 | value << 2 | 2),
        Body::Clear => add(3),
    }
    (sum >> 32) as u32
}
