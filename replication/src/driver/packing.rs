//! Packs records on their way, where both ends can and it is worth it.

use bytes::Bytes;
use larder_net::Features;
use zstd::bulk::{Compressor, Decompressor};

use crate::{
    core::Chunk,
    message::{Packing, Records},
};

/// Both ends can unpack Zstandard.
pub(super) const ZSTD: Features = Features(2);
/// The fastest of the usual levels: of 3 KiB of JSON it leaves a third, and LZ4 four ninths.
const LEVEL: i32 = 1;
/// For large chunks, which come when there is much to do: of orders in JSON it leaves under a third, of
/// random values as much as level 1 in half the time.
const LEVEL_OF_LARGE: i32 = -1;
const LARGE_BYTES: usize = 16 << 10;
/// Chunks smaller than this are sent as they are: they cost a datagram either way.
const PACKED_BYTES_MIN: usize = 1_200;
/// Of a larger chunk so much is packed first, to see whether it is worth it.
const SAMPLE_BYTES: usize = 4 << 10;
/// After a chunk that was not worth it, so many are sent as they are without a look.
const UNTRIED_AFTER_RAW: u32 = 15;
/// The most that is unpacked at once: one frame of the log stream, with room to spare.
const RAW_BYTES_MAX: usize = 32 << 20;

/// Packs chunks; the same one for several slaves once.
#[derive(Default)]
pub(super) struct Packer {
    /// Made for the first chunk, and kept, because it holds large tables.
    compressor: Option<Compressor<'static>>,
    last: Option<(Chunk, Option<Bytes>)>,
    /// Chunks to come that are sent without a look.
    untried: u32,
    /// Whether the last one that was tried was worth it.
    has_paid: bool,
}

impl Packer {
    /// Packs the records where that saves a tenth or more.
    pub(super) fn pack(&mut self, records: &mut Records) {
        let Some(chunk) = &mut records.chunk else { return };
        if chunk.frames.len() < PACKED_BYTES_MIN {
            return;
        }
        // What lies between two positions of a log is the same for every slave.
        let is_last = self
            .last
            .as_ref()
            .is_some_and(|(last, _)| last.prev == chunk.prev && last.last == chunk.last);
        if !is_last {
            let packed = self.packed(&chunk.frames);
            self.last = Some((chunk.clone(), packed));
        }
        let Some((_, Some(packed))) = &self.last else { return };
        // A chunk is one frame of the stream, so that its length fits.
        let raw_bytes = u32::try_from(chunk.frames.len()).unwrap_or(u32::MAX);
        records.packing = Packing::Zstd { raw_bytes };
        chunk.frames = packed.clone();
    }

    /// The bytes packed; `None` where that saves less than a tenth, or the last ones saved less.
    fn packed(&mut self, raw: &[u8]) -> Option<Bytes> {
        if self.untried > 0 {
            self.untried -= 1;
            return None;
        }
        let packed = self.tried(raw);
        self.has_paid = packed.is_some();
        if !self.has_paid {
            self.untried = UNTRIED_AFTER_RAW;
        }
        packed
    }

    fn tried(&mut self, raw: &[u8]) -> Option<Bytes> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            // Where there is no memory for it, records go as they are.
            none => none.insert(Compressor::new(LEVEL).ok()?),
        };
        let level = if raw.len() < LARGE_BYTES { LEVEL } else { LEVEL_OF_LARGE };
        compressor.set_compression_level(level).ok()?;
        let mut pack = |raw: &[u8]| {
            let packed = compressor.compress(raw).ok()?;
            (packed.len() < raw.len() - raw.len() / 10).then_some(packed)
        };
        if !self.has_paid && raw.len() > 2 * SAMPLE_BYTES {
            let from = (raw.len() - SAMPLE_BYTES) / 2;
            pack(&raw[from..from + SAMPLE_BYTES])?;
        }
        pack(raw).map(Bytes::from)
    }
}

/// Unpacks records.
#[derive(Default)]
pub(super) struct Unpacker {
    /// Made for the first chunk.
    decompressor: Option<Decompressor<'static>>,
}

impl Unpacker {
    /// Unpacks what is packed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn unpack(&mut self, records: &mut Records) -> Result<(), String> {
        let Packing::Zstd { raw_bytes } = records.packing else { return Ok(()) };
        let raw_bytes = raw_bytes as usize;
        if raw_bytes > RAW_BYTES_MAX {
            return Err(format!(
                "records of {raw_bytes} bytes are packed, more than {RAW_BYTES_MAX}"
            ));
        }
        let Some(chunk) = &mut records.chunk else { return Err("nothing is packed".to_owned()) };
        let no_unpacking = |error| format!("packed records do not unpack: {error}");
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(no_unpacking)?),
        };
        let raw = decompressor.decompress(&chunk.frames, raw_bytes).map_err(no_unpacking)?;
        if raw.len() != raw_bytes {
            return Err(format!("records unpack to {} bytes, not {raw_bytes}", raw.len()));
        }
        chunk.frames = raw.into();
        records.packing = Packing::Raw;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use larder_types::{Epoch, Position, SequenceNumber};

    use super::*;
    use crate::core::{Session, Tail};

    fn records(frames: Vec<u8>) -> Records {
        let epoch = Epoch { term: 1, run: 1, id: 1 };
        let last = Position { epoch, seq: SequenceNumber::FIRST };
        let chunk = Chunk { prev: Tail::EMPTY, last, last_crc: 7, frames: frames.into() };
        let packing = Packing::Raw;
        Records { session: Session(1), committed: None, packing, chunk: Some(chunk) }
    }

    fn frames(records: &Records) -> &[u8] {
        &records.chunk.as_ref().unwrap().frames
    }

    #[test]
    fn records_that_repeat_are_packed_and_come_out_as_they_were() {
        let raw = br#"{"name":"Ada","city":"London","visits":17}"#.repeat(1_000);
        let mut sent = records(raw.clone());
        Packer::default().pack(&mut sent);
        assert!(matches!(sent.packing, Packing::Zstd { .. }));
        assert!(frames(&sent).len() < raw.len() / 2);
        Unpacker::default().unpack(&mut sent).unwrap();
        assert_eq!(frames(&sent), raw);
    }

    #[test]
    fn what_does_not_pack_or_is_small_is_sent_as_it_is() {
        use rand::{RngCore as _, SeedableRng as _};
        let mut noise = vec![0; 100_000];
        rand::rngs::SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
        for raw in [noise, vec![0; PACKED_BYTES_MIN - 1]] {
            let mut sent = records(raw.clone());
            Packer::default().pack(&mut sent);
            assert_eq!((sent.packing, frames(&sent)), (Packing::Raw, &raw[..]));
        }
    }

    #[test]
    fn after_what_does_not_pack_the_next_ones_are_not_looked_at() {
        use rand::{RngCore as _, SeedableRng as _};
        let mut noise = vec![0; 100_000];
        rand::rngs::SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
        let mut packer = Packer::default();
        packer.pack(&mut records(noise));
        let mut packings = Vec::new();
        for last_crc in 0..=UNTRIED_AFTER_RAW {
            let mut sent = records(vec![7; 10_000]);
            let chunk = sent.chunk.as_mut().unwrap();
            chunk.prev = Tail { last: None, crc: last_crc + 1 };
            packer.pack(&mut sent);
            packings.push(sent.packing != Packing::Raw);
        }
        let packed = packings.iter().filter(|packed| **packed).count();
        assert_eq!((packed, packings.last()), (1, Some(&true)));
    }

    #[test]
    fn a_length_that_lies_is_refused_before_memory_is_taken() {
        let mut sent = records(vec![7; 10_000]);
        Packer::default().pack(&mut sent);
        for raw_bytes in [u32::MAX, 9_999, 10_001] {
            let mut lying = Records { packing: Packing::Zstd { raw_bytes }, ..sent.clone() };
            assert!(Unpacker::default().unpack(&mut lying).is_err(), "{raw_bytes}");
        }
    }
}
