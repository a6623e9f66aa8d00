//! Records of the replica set, kept in the state as well: the log that held them is trimmed.

use bytes::Bytes;
use larder_types::{Epoch, Position, SequenceNumber};

/// What the names of the store's own keys for them begin with; the record's number follows,
/// big-endian.
const NAME: &[u8] = b"replicas/";
/// How many are read, newest first. The set is changed by people, one member at a time.
pub(super) const READ_MAX: usize = 64;

/// A record of the replica set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicasRecord {
    /// Its place in the log.
    pub position: Position,
    /// As replication encodes it.
    pub body: Bytes,
}

/// The name that all of them share.
pub(super) const fn prefix() -> &'static [u8] {
    NAME
}

/// The name of the record `seq`.
pub(super) fn name(seq: SequenceNumber) -> Vec<u8> {
    [NAME, &seq.as_u64().to_be_bytes()].concat()
}

/// Epoch (16), body, crc32 of the name and these (4).
pub(super) fn encode(record: &ReplicasRecord) -> Vec<u8> {
    let mut bytes = record.position.epoch.encode().to_vec();
    bytes.extend_from_slice(&record.body);
    let crc = checksum(&name(record.position.seq), &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The inverse of [`name`] and [`encode`]; `None` where the bytes are damaged.
pub(super) fn decode(name: &[u8], bytes: &[u8]) -> Option<ReplicasRecord> {
    let number = name.strip_prefix(NAME)?.try_into().ok()?;
    let seq = SequenceNumber::new(u64::from_be_bytes(number))?;
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    if *crc != checksum(name, checked).to_le_bytes() {
        return None;
    }
    let (epoch, body) = checked.split_first_chunk::<{ Epoch::ENCODED_BYTES }>()?;
    let position = Position { epoch: Epoch::decode(*epoch), seq };
    Some(ReplicasRecord { position, body: Bytes::copy_from_slice(body) })
}

fn checksum(name: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_no_flipped_bit_passes() {
        let epoch = Epoch { term: 1, run: 2, id: 3 };
        let position = Position { epoch, seq: SequenceNumber::new(4).unwrap() };
        let record = ReplicasRecord { position, body: Bytes::from_static(b"members") };
        let (name, bytes) = (name(position.seq), encode(&record));
        assert_eq!(decode(&name, &bytes), Some(record));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&name, &damaged), None);
        }
        assert_eq!(decode(b"applied", &bytes), None);
    }
}
