//! Packs records on their way, where both ends can and it is worth it.
//!
//! A small chunk, of which there are many, goes on from what the small ones before it on the same
//! connection had in common. A large one is a frame by itself, made once for all slaves.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
};

use bytes::Bytes;
use larder_net::Features;
use zstd::{
    bulk::{Compressor, Decompressor},
    stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation as _, OutBuffer},
};

use crate::{
    core::{Chunk, Link},
    message::{Packing, Records},
};

/// Both ends can unpack Zstandard, frames and streams.
pub(super) const ZSTD: Features = Features(4);
/// The fastest of the usual levels.
const LEVEL_OF_STREAM: i32 = 1;
/// Large chunks come when there is much to do: this level leaves of orders in JSON under a third, and
/// of random values as much as level 1 in half the time.
const LEVEL_OF_FRAME: i32 = -1;
/// From here on a chunk is a frame by itself.
const FRAME_BYTES_MIN: usize = 16 << 10;
/// Chunks smaller than this are sent as they are.
const PACKED_BYTES_MIN: usize = 256;
/// How far a stream looks back, a power of two: both ends keep so much for each connection.
const WINDOW_BYTES: u32 = 128 << 10;
/// Of a larger chunk so much is packed first, to see whether it is worth it.
const SAMPLE_BYTES: usize = 4 << 10;
/// After a chunk that was not worth it, so many are sent as they are without a look.
const UNTRIED_AFTER_RAW: u32 = 15;
/// The most that is unpacked at once: one frame of the log stream, with room to spare.
const RAW_BYTES_MAX: usize = 32 << 20;

/// Packs chunks for all slaves.
#[derive(Default)]
pub(super) struct Packer {
    /// `None` for a connection whose stream has failed: the other end cannot go on either.
    streams: HashMap<Link, Option<Encoder<'static>>>,
    frames: Frames,
    /// Chunks to come that are sent without a look.
    untried: u32,
}

impl Packer {
    /// Packs the records for this connection, unless what was packed last saved less than a tenth.
    pub(super) fn pack(&mut self, link: Link, records: &mut Records) {
        let Some(chunk) = &mut records.chunk else { return };
        // A chunk is one frame of the connection's stream, so that its length fits.
        let Ok(raw_bytes) = u32::try_from(chunk.frames.len()) else { return };
        if chunk.frames.len() < PACKED_BYTES_MIN {
            return;
        }
        if let Some(untried) = self.untried.checked_sub(1) {
            self.untried = untried;
            return;
        }
        let (packed, packing) = if chunk.frames.len() < FRAME_BYTES_MIN {
            (self.go_on(link, &chunk.frames), Packing::ZstdStream { raw_bytes })
        } else {
            (self.frames.packed(chunk), Packing::ZstdFrame { raw_bytes })
        };
        if !packed.as_ref().is_some_and(|packed| has_paid(&chunk.frames, packed)) {
            self.untried = UNTRIED_AFTER_RAW;
        }
        // What has gone into a stream must be sent, whether it has paid or not.
        if let Some(packed) = packed {
            (chunk.frames, records.packing) = (packed, packing);
        }
    }

    /// The connection is gone, and its stream with it.
    pub(super) fn forget(&mut self, link: Link) {
        self.streams.remove(&link);
    }

    /// All connections are gone.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }

    fn go_on(&mut self, link: Link, raw: &[u8]) -> Option<Bytes> {
        let stream = match self.streams.entry(link) {
            Entry::Occupied(stream) => stream.into_mut(),
            // Where there is no memory for it, records go as they are.
            Entry::Vacant(none) => none.insert(encoder().ok()),
        };
        let packed = packed_on(stream.as_mut()?, raw);
        if packed.is_err() {
            *stream = None;
        }
        packed.ok()
    }
}

fn has_paid(raw: &[u8], packed: &[u8]) -> bool {
    packed.len() < raw.len().saturating_sub(raw.len() / 10)
}

fn encoder() -> io::Result<Encoder<'static>> {
    let mut encoder = Encoder::new(LEVEL_OF_STREAM)?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW_BYTES.ilog2()))?;
    Ok(encoder)
}

fn packed_on(encoder: &mut Encoder<'static>, raw: &[u8]) -> io::Result<Bytes> {
    let mut packed = Vec::with_capacity(zstd::compress_bound(raw.len()));
    let mut input = InBuffer::around(raw);
    let mut output = OutBuffer::around(&mut packed);
    while input.pos < raw.len() {
        encoder.run(&mut input, &mut output)?;
        if output.pos() == output.capacity() {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    if encoder.flush(&mut output)? > 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(packed.into())
}

/// Packs large chunks; the same one for several slaves once.
#[derive(Default)]
struct Frames {
    /// Made for the first chunk, and kept, because it holds large tables.
    compressor: Option<Compressor<'static>>,
    last: Option<(Chunk, Option<Bytes>)>,
    /// Whether the last one that was tried was worth it.
    has_paid: bool,
}

impl Frames {
    /// The chunk packed; `None` where that saves less than a tenth.
    fn packed(&mut self, chunk: &Chunk) -> Option<Bytes> {
        // What lies between two positions of a log is the same for every slave.
        if let Some((last, packed)) = &self.last
            && (last.prev, last.last) == (chunk.prev, chunk.last)
        {
            return packed.clone();
        }
        let packed = self.tried(&chunk.frames);
        self.has_paid = packed.is_some();
        self.last = Some((chunk.clone(), packed.clone()));
        packed
    }

    fn tried(&mut self, raw: &[u8]) -> Option<Bytes> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            // Where there is no memory for it, records go as they are.
            none => none.insert(Compressor::new(LEVEL_OF_FRAME).ok()?),
        };
        let mut pack = |raw: &[u8]| {
            let packed = compressor.compress(raw).ok()?;
            has_paid(raw, &packed).then_some(packed)
        };
        if !self.has_paid {
            let from = raw.len().saturating_sub(SAMPLE_BYTES) / 2;
            pack(&raw[from..][..SAMPLE_BYTES])?;
        }
        pack(raw).map(Bytes::from)
    }
}

/// Unpacks records.
#[derive(Default)]
pub(super) struct Unpacker {
    streams: HashMap<Link, Decoder<'static>>,
    /// Made for the first frame.
    decompressor: Option<Decompressor<'static>>,
}

impl Unpacker {
    /// Unpacks what is packed, in the order in which it was sent on this connection.
    ///
    /// # Errors
    /// What is wrong with it. Nothing that comes later on the connection can be unpacked.
    pub(super) fn unpack(&mut self, link: Link, records: &mut Records) -> Result<(), String> {
        let (raw_bytes, raw_bytes_max) = match records.packing {
            Packing::Raw => return Ok(()),
            Packing::ZstdFrame { raw_bytes } => (raw_bytes as usize, RAW_BYTES_MAX),
            Packing::ZstdStream { raw_bytes } => (raw_bytes as usize, FRAME_BYTES_MIN),
        };
        if raw_bytes > raw_bytes_max {
            return Err(format!(
                "records of {raw_bytes} bytes are packed, more than {raw_bytes_max}"
            ));
        }
        let Some(chunk) = &mut records.chunk else { return Err("nothing is packed".to_owned()) };
        let raw = match records.packing {
            Packing::ZstdStream { .. } => self.go_on(link, &chunk.frames, raw_bytes),
            _ => self.frame(&chunk.frames, raw_bytes),
        };
        let raw = raw.map_err(|error| format!("packed records do not unpack: {error}"))?;
        if raw.len() != raw_bytes {
            return Err(format!("records unpack to {} bytes, not {raw_bytes}", raw.len()));
        }
        (chunk.frames, records.packing) = (raw.into(), Packing::Raw);
        Ok(())
    }

    /// The connection is gone, and its stream with it.
    pub(super) fn forget(&mut self, link: Link) {
        self.streams.remove(&link);
    }

    /// All connections are gone.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }

    fn frame(&mut self, packed: &[u8], raw_bytes: usize) -> io::Result<Vec<u8>> {
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        decompressor.decompress(packed, raw_bytes)
    }

    fn go_on(&mut self, link: Link, packed: &[u8], raw_bytes: usize) -> io::Result<Vec<u8>> {
        let decoder = match self.streams.entry(link) {
            Entry::Occupied(stream) => stream.into_mut(),
            Entry::Vacant(none) => none.insert(decoder()?),
        };
        // One more, to see where there is more than was said.
        let mut raw = Vec::with_capacity(raw_bytes.saturating_add(1));
        let mut input = InBuffer::around(packed);
        let mut output = OutBuffer::around(&mut raw);
        while input.pos < packed.len() && output.pos() < output.capacity() {
            decoder.run(&mut input, &mut output)?;
        }
        Ok(raw)
    }
}

fn decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_BYTES.ilog2()))?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use larder_types::{Epoch, Position, SequenceNumber};
    use rand::{RngCore as _, SeedableRng as _};

    use super::*;
    use crate::core::{Session, Tail};

    const LINK: Link = Link(7);

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
        Packer::default().pack(LINK, &mut sent);
        assert!(matches!(sent.packing, Packing::ZstdFrame { .. }));
        assert!(frames(&sent).len() < raw.len() / 2);
        Unpacker::default().unpack(LINK, &mut sent).unwrap();
        assert_eq!(frames(&sent), raw);
    }

    #[test]
    fn small_chunks_go_on_from_those_before_them_on_their_own_connection() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        let (mut first, mut later) = (0, 0);
        for number in 0..200 {
            for link in [Link(1), Link(2)] {
                let raw = format!(
                    r#"{{"name":"Ada","city":"London","visits":{number},"on":{}}}"#,
                    link.0
                );
                let raw = raw.repeat(8).into_bytes();
                let mut sent = records(raw.clone());
                packer.pack(link, &mut sent);
                assert!(matches!(sent.packing, Packing::ZstdStream { .. }));
                *(if number == 0 { &mut first } else { &mut later }) = frames(&sent).len();
                unpacker.unpack(link, &mut sent).unwrap();
                assert_eq!(frames(&sent), raw);
            }
        }
        assert!(later < first / 2, "{first} and {later} bytes");
    }

    #[test]
    fn a_connection_begins_its_stream_anew() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        for _ in 0..3 {
            let mut sent = records(vec![7; 1_000]);
            packer.pack(LINK, &mut sent);
            unpacker.unpack(LINK, &mut sent).unwrap();
            packer.forget(LINK);
            unpacker.forget(LINK);
        }
    }

    #[test]
    fn what_was_sent_is_unpacked_though_it_did_not_pack() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        let mut noise = vec![0; 10_000];
        rand::rngs::SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
        let packings = (0..=UNTRIED_AFTER_RAW + 1).map(|_| {
            let mut sent = records(noise.clone());
            packer.pack(LINK, &mut sent);
            let packing = sent.packing;
            unpacker.unpack(LINK, &mut sent).unwrap();
            assert_eq!(frames(&sent), noise);
            packing != Packing::Raw
        });
        let packed: Vec<_> = packings.collect();
        assert_eq!(packed.iter().filter(|packed| **packed).count(), 2);
        assert_eq!((packed.first(), packed.last()), (Some(&true), Some(&true)));
    }

    #[test]
    fn what_does_not_pack_or_is_small_is_sent_as_it_is() {
        let mut noise = vec![0; 100_000];
        rand::rngs::SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
        for raw in [noise, vec![0; PACKED_BYTES_MIN - 1]] {
            let mut sent = records(raw.clone());
            Packer::default().pack(LINK, &mut sent);
            assert_eq!((sent.packing, frames(&sent)), (Packing::Raw, &raw[..]));
        }
    }

    #[test]
    fn after_what_does_not_pack_the_next_ones_are_not_looked_at() {
        let mut noise = vec![0; 100_000];
        rand::rngs::SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
        let mut packer = Packer::default();
        packer.pack(LINK, &mut records(noise));
        let mut packings = Vec::new();
        for last_crc in 0..=UNTRIED_AFTER_RAW {
            let mut sent = records(vec![7; 100_000]);
            let chunk = sent.chunk.as_mut().unwrap();
            chunk.prev = Tail { last: None, crc: last_crc + 1 };
            packer.pack(LINK, &mut sent);
            packings.push(sent.packing != Packing::Raw);
        }
        let packed = packings.iter().filter(|packed| **packed).count();
        assert_eq!((packed, packings.last()), (1, Some(&true)));
    }

    #[test]
    fn a_length_that_lies_is_refused_before_memory_is_taken() {
        for honest in [10_000, 100_000] {
            let mut sent = records(vec![7; honest as usize]);
            Packer::default().pack(LINK, &mut sent);
            for raw_bytes in [u32::MAX, honest - 1, honest + 1] {
                let packing = match sent.packing {
                    Packing::ZstdStream { .. } => Packing::ZstdStream { raw_bytes },
                    _ => Packing::ZstdFrame { raw_bytes },
                };
                let mut lying = Records { packing, ..sent.clone() };
                assert!(Unpacker::default().unpack(LINK, &mut lying).is_err(), "{raw_bytes}");
            }
        }
    }

    #[test]
    fn noise_in_place_of_a_stream_is_refused() {
        let mut noise = vec![0; 5_000];
        rand::rngs::SmallRng::seed_from_u64(3).fill_bytes(&mut noise);
        let packing = Packing::ZstdStream { raw_bytes: 10_000 };
        let mut sent = Records { packing, ..records(noise) };
        assert!(Unpacker::default().unpack(LINK, &mut sent).is_err());
    }
}
