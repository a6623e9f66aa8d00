//! Checks the checksums of RocksDB's MANIFEST before RocksDB reads it.
//!
//! RocksDB's reader can go round without end over a MANIFEST with a flipped bit (11.8.1, opening for
//! reading). The file is small, so it is read once more here.
//!
//! Source of the format: RocksDB's `log_format.h`, the format of LevelDB's logs: blocks of 32 KiB;
//! records of a masked CRC-32C (4), a length (2), a type (1) and a payload, none across a block's
//! end; what is left of a block under 7 bytes is zeros.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{fs, io::ErrorKind, path::Path};

use super::error::StateError;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Full, first, middle, last: the types that a MANIFEST has. RocksDB passes over a record of type 0 without
/// bytes, and over the rest of its block.
const TYPES: std::ops::RangeInclusive<u8> = 1..=4;
/// What is added to a rotated checksum, so that checksums of checksums are not weak.
const MASK: u32 = 0xa282_ead8;

/// Refuses a MANIFEST that has a damaged record. A record that the end of the file cuts short, and zeros
/// behind the last one, are left to RocksDB: a crash may leave them, and they are not applied.
pub(super) fn check(path: &Path) -> Result<(), StateError> {
    let at = |source| StateError::Files { path: path.to_path_buf(), source };
    let Some(current) = read(&path.join("CURRENT")).map_err(at)? else { return Ok(()) };
    let name = String::from_utf8_lossy(&current);
    let name = name.trim_end_matches('\n');
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        // RocksDB refuses it by itself.
        return Ok(());
    }
    let file = path.join(name);
    let Some(bytes) = read(&file).map_err(at)? else { return Ok(()) };
    match first_damage(&bytes) {
        None => Ok(()),
        Some(offset) => Err(StateError::DamagedManifest { file, offset }),
    }
}

fn read(file: &Path) -> std::io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the first damaged record begins.
fn first_damage(bytes: &[u8]) -> Option<u64> {
    let mut blocks = bytes.chunks(BLOCK_BYTES).peekable();
    let mut block_at = 0_usize;
    while let Some(block) = blocks.next() {
        let mut at = 0_usize;
        while let Some((header, rest)) = block[at..].split_first_chunk::<HEADER_BYTES>() {
            let [c0, c1, c2, c3, l0, l1, kind] = *header;
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            let expected = u32::from_le_bytes([c0, c1, c2, c3]);
            let Some(payload) = rest.get(..length) else {
                let is_last = blocks.peek().is_none();
                let cut_short = is_last && !has_another_length(kind, rest, expected);
                return (!cut_short).then_some(block_at.saturating_add(at) as u64);
            };
            let found = mask(crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload));
            if *header == [0; HEADER_BYTES] && is_zeros(rest) && blocks.all(is_zeros) {
                return None;
            }
            if found != expected || !TYPES.contains(&kind) {
                return Some(block_at.saturating_add(at) as u64);
            }
            at = at.saturating_add(HEADER_BYTES).saturating_add(length);
        }
        block_at = block_at.saturating_add(block.len());
    }
    None
}

/// Whether the checksum is right for a shorter payload than the length says: then the record was not
/// cut short, but its length is damaged.
fn has_another_length(kind: u8, rest: &[u8], expected: u32) -> bool {
    let mut crc = crc32c::crc32c(&[kind]);
    rest.iter().any(|byte| {
        crc = crc32c::crc32c_append(crc, &[*byte]);
        mask(crc) == expected
    })
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

const fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let crc = mask(crc32c::crc32c_append(crc32c::crc32c(&[1]), payload));
        let length = u16::try_from(payload.len()).unwrap();
        [&crc.to_le_bytes()[..], &length.to_le_bytes(), &[1], payload].concat()
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let whole = [record(b"one"), record(b"two")].concat();
        assert_eq!(first_damage(&whole), None);
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let offset = first_damage(&damaged);
            assert!(matches!(offset, Some(0 | 10)), "bit {bit}: {offset:?}");
        }
    }

    #[test]
    fn zeros_behind_the_last_record_are_left_to_rocksdb_and_others_are_found() {
        let whole = record(b"one");
        for zeros in [1, HEADER_BYTES, 100, BLOCK_BYTES, 3 * BLOCK_BYTES] {
            let ended = [&whole[..], &vec![0; zeros]].concat();
            assert_eq!(first_damage(&ended), None, "{zeros} zeros");
        }
        for zeros in [HEADER_BYTES, BLOCK_BYTES - whole.len(), 2 * BLOCK_BYTES] {
            let gone_on = [&whole[..], &vec![0; zeros], &record(b"two")].concat();
            assert_eq!(first_damage(&gone_on), Some(10), "{zeros} zeros");
        }
    }

    #[test]
    fn a_record_cut_short_by_the_end_of_the_file_is_left_to_rocksdb() {
        let whole = [record(b"one"), record(b"two")].concat();
        for end in 10..whole.len() {
            assert_eq!(first_damage(&whole[..end]), None, "cut at {end}");
        }
    }
}
