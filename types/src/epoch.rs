//! Epochs: who was allowed to write a stretch of a log.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize};

use crate::SequenceNumber;

/// Names the one writer of a stretch of a log.
///
/// `term` comes from a promotion, `run` is raised and fsynced by the master at each start, and
/// `id` is random. `(epoch, sequence)` is never written twice with different content. Two epochs
/// with the same term and run but different ids are parted history, not the same epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised by every promotion.
    pub term: u32,
    /// Raised by every start of the master within a term.
    pub run: u32,
    /// Drawn at random when the epoch begins.
    pub id: u64,
}

impl Epoch {
    /// Bytes of an encoded epoch.
    pub const ENCODED_BYTES: usize = 16;

    /// The greatest term and the greatest run that are believed of another node: one promotion or
    /// start a second takes 68 years to them. The next one can always be named.
    pub const REACHABLE_MAX: u32 = 1 << 31;

    /// Little-endian: term (4), run (4), id (8).
    pub fn encode(self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        bytes[..4].copy_from_slice(&self.term.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.run.to_le_bytes());
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// The inverse of [`Epoch::encode`].
    pub fn decode(bytes: [u8; Self::ENCODED_BYTES]) -> Self {
        let [t0, t1, t2, t3, r0, r1, r2, r3, id @ ..] = bytes;
        Self {
            term: u32::from_le_bytes([t0, t1, t2, t3]),
            run: u32::from_le_bytes([r0, r1, r2, r3]),
            id: u64::from_le_bytes(id),
        }
    }

    /// Whether a cluster can have come so far.
    pub const fn is_reachable(self) -> bool {
        self.term <= Self::REACHABLE_MAX && self.run <= Self::REACHABLE_MAX
    }

    /// Orders epochs by (term, run). `None` where both are equal but the ids differ: parted
    /// history has no order.
    pub fn order(self, other: Self) -> Option<Ordering> {
        match (self.term, self.run).cmp(&(other.term, other.run)) {
            Ordering::Equal if self.id != other.id => None,
            order => Some(order),
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{:016x}", self.term, self.run, self.id)
    }
}

/// An epoch and the number of the record that opened it: one line of a log's table of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// Its first record.
    pub first: SequenceNumber,
}

/// A place in a log that means the same on every node: a sequence number alone is not identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch that wrote the record.
    pub epoch: Epoch,
    /// The record's number.
    pub seq: SequenceNumber,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.seq, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_with_other_ids_have_no_order() {
        let one = Epoch { term: 1, run: 2, id: 7 };
        assert_eq!(one.order(Epoch { id: 8, ..one }), None);
        assert_eq!(one.order(one), Some(Ordering::Equal));
        assert_eq!(one.order(Epoch { term: 1, run: 3, id: 0 }), Some(Ordering::Less));
        assert_eq!(Epoch::decode(one.encode()), one);
    }
}
