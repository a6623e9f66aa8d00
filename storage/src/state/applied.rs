//! The applied position: how far the log has been folded, kept inside the database itself.

use larder_types::{Epoch, HybridTime, Position, SequenceNumber};

/// The name of the store's own key under which the position lies.
pub(super) const NAME: &[u8] = b"applied";

const CHECKED_BYTES: usize = Epoch::ENCODED_BYTES + 16;
const ENCODED_BYTES: usize = CHECKED_BYTES + 4;

/// The last record whose effects the state holds.
///
/// It is written in the same batch as the effects, so that whatever survives a crash, data and
/// position are of the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The record's place in the log.
    pub position: Position,
    /// The record's stamp.
    pub hybrid: HybridTime,
}

impl Applied {
    /// Epoch (16), sequence (8), hybrid time (8), crc32 of [`NAME`] and these (4); little-endian.
    pub(super) fn encode(self) -> [u8; ENCODED_BYTES] {
        let mut bytes = [0; ENCODED_BYTES];
        bytes[..16].copy_from_slice(&self.position.epoch.encode());
        bytes[16..24].copy_from_slice(&self.position.seq.as_u64().to_le_bytes());
        bytes[24..32].copy_from_slice(&self.hybrid.as_u64().to_le_bytes());
        let crc = checksum(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The inverse of [`Applied::encode`]; `None` where the bytes are damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, crc) = bytes.split_at_checked(CHECKED_BYTES)?;
        if *crc != checksum(checked).to_le_bytes() {
            return None;
        }
        let (epoch, rest) = checked.split_first_chunk::<{ Epoch::ENCODED_BYTES }>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (hybrid, _) = rest.split_first_chunk::<8>()?;
        let seq = SequenceNumber::new(u64::from_le_bytes(*seq))?;
        Some(Self {
            position: Position { epoch: Epoch::decode(*epoch), seq },
            hybrid: HybridTime::from_u64(u64::from_le_bytes(*hybrid)),
        })
    }
}

fn checksum(checked: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(NAME);
    hasher.update(checked);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_and_no_flipped_bit_passes() {
        let epoch = Epoch { term: 1, run: 2, id: 3 };
        let seq = SequenceNumber::new(4).unwrap();
        let applied = Applied { position: Position { epoch, seq }, hybrid: HybridTime::new(5, 6) };
        let bytes = applied.encode();
        assert_eq!(Applied::decode(&bytes), Some(applied));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Applied::decode(&damaged), None);
        }
        assert_eq!(Applied::decode(&bytes[..35]), None);
        assert_eq!(Applied::decode(b""), None);
    }
}
