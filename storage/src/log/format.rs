//! The bytes of a segment file: constants, and the coding of its four kinds of frame.
//!
//! Pure functions over slices, no I/O. `docs/format/log.md` is the same as byte tables; a change
//! here is a change of [`VERSION`]. Little-endian throughout.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use crc32fast::Hasher;
pub use larder_types::EpochStart;
use larder_types::{Epoch, HybridTime, LogId, RegionId, SequenceNumber, limits};

/// First bytes of every segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"\xf1LRDRSEG";
/// First bytes of a mark. Read as a record's length it is above every bound, so the first four
/// bytes of a frame tell which kind it is.
pub const MARK_MAGIC: [u8; 8] = *b"\xf1LRDRMRK";
/// First bytes of a footer; told from a record in the same way.
pub const FOOTER_MAGIC: [u8; 8] = *b"\xf1LRDRFTR";
/// The version of the format that this code reads and writes.
pub const VERSION: u32 = 1;

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 96;
/// Largest header length a version may name: the bound before a checksum is computed over it.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Bytes of a record before its body.
pub const RECORD_HEADER_BYTES: usize = 48;
/// Bytes of a mark.
pub const MARK_BYTES: usize = 48;
/// Bytes of a footer without its table of epochs.
pub const FOOTER_FIXED_BYTES: usize = 48;
/// Bytes of one entry in a footer's table of epochs.
pub const FOOTER_EPOCH_BYTES: usize = 24;
/// Bytes at a footer's end that lead to its start: length and checksum.
pub const FOOTER_TRAILER_BYTES: usize = 8;

/// Where the checksum of a record stands; what it covers is what comes before and after it.
const RECORD_CRC_AT: usize = 4;
const MARK_CRC_AT: usize = 8;

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Effects of one atomic write; the body is the store's.
    Data,
    /// Opens an epoch: the record's epoch is the new one, the body the one before (16 bytes) or
    /// empty if there was none.
    Epoch,
    /// The replica set from here on; the body is replication's. Belongs to the epoch in effect.
    Replicas,
}

impl RecordKind {
    /// The kind as it is stored.
    pub const fn as_u8(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Epoch => 2,
            Self::Replicas => 3,
        }
    }

    /// The inverse of [`RecordKind::as_u8`].
    pub const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Data),
            2 => Some(Self::Epoch),
            3 => Some(Self::Replicas),
            _ => None,
        }
    }
}

/// Where a chain of records stands: what the next record has to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPoint {
    /// The number the next record has.
    pub next: SequenceNumber,
    /// The checksum of the record before; 0 before the first.
    pub crc: u32,
    /// The epoch in effect, `None` before the first.
    pub epoch: Option<EpochStart>,
    /// The greatest stamp so far.
    pub hybrid: HybridTime,
}

impl ChainPoint {
    /// Where a new log begins.
    pub const START: Self =
        Self { next: SequenceNumber::FIRST, crc: 0, epoch: None, hybrid: HybridTime::ZERO };

    /// The last record's number as it is stored: 0 for none.
    pub fn last_stored(&self) -> u64 {
        self.next.as_u64().saturating_sub(1)
    }
}

/// The checksums of one log: seeded with its identity, so that frames of another log never pass.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    seed: u32,
}

impl Sums {
    /// Checksums for the log `id`.
    pub fn new(id: LogId) -> Self {
        Self { seed: crc32fast::hash(id.as_bytes()) }
    }

    /// The checksum of a whole record frame.
    pub fn record(self, frame: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.seed);
        hasher.update(&frame[..RECORD_CRC_AT]);
        hasher.update(&frame[RECORD_CRC_AT + 4..]);
        hasher.finalize()
    }

    /// The checksum of bytes that count only at this place: a copy of a mark inside a value is
    /// no mark.
    fn placed(self, segment: SequenceNumber, offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.seed);
        hasher.update(&segment.as_u64().to_le_bytes());
        hasher.update(&offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// A segment's header: what it is part of, and the place in the chain it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The log's identity.
    pub id: LogId,
    /// The region whose log this is.
    pub origin: RegionId,
    /// The state of the chain before the segment's first record; `chain.next` is the segment's
    /// base and its file's name.
    pub chain: ChainPoint,
}

/// What the first bytes of a segment file hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRead {
    /// A header of this version.
    Valid(Header),
    /// A whole header of another version.
    OtherVersion(u32),
    /// Anything else.
    Damaged {
        /// The checksum that the bytes ask for.
        expected: u32,
        /// The checksum that stands there.
        found: u32,
    },
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let epoch = self.chain.epoch.map_or([0; 16], |start| start.epoch.encode());
        let epoch_first = self.chain.epoch.map_or(0, |start| start.first.as_u64());
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        out[16..32].copy_from_slice(self.id.as_bytes());
        out[32..40].copy_from_slice(&self.chain.next.as_u64().to_le_bytes());
        out[40..48].copy_from_slice(&self.chain.last_stored().to_le_bytes());
        out[48..52].copy_from_slice(&self.chain.crc.to_le_bytes());
        out[52..54].copy_from_slice(&self.origin.0.to_le_bytes());
        out[56..72].copy_from_slice(&epoch);
        out[72..80].copy_from_slice(&epoch_first.to_le_bytes());
        out[80..88].copy_from_slice(&self.chain.hybrid.as_u64().to_le_bytes());
        let crc = crc32fast::hash(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header. Every version keeps magic, version, length, and a checksum of all that
    /// stands before it in its last four bytes, so that a newer file is told from a damaged one.
    pub fn decode(bytes: &[u8]) -> HeaderRead {
        let length = u32_at(bytes, 12).unwrap_or(0) as usize;
        if !bytes.starts_with(&SEGMENT_MAGIC)
            || !(20..=HEADER_BYTES_MAX).contains(&length)
            || bytes.len() < length
        {
            return HeaderRead::Damaged { expected: 0, found: 0 };
        }
        let crc_at = length.saturating_sub(4);
        let expected = crc32fast::hash(&bytes[..crc_at]);
        let found = u32_at(bytes, crc_at).unwrap_or(0);
        if expected != found {
            return HeaderRead::Damaged { expected, found };
        }
        let version = u32_at(bytes, 8).unwrap_or(0);
        if version != VERSION {
            return HeaderRead::OtherVersion(version);
        }
        match Self::decode_fields(bytes, length) {
            Some(header) => HeaderRead::Valid(header),
            None => HeaderRead::Damaged { expected, found },
        }
    }

    fn decode_fields(bytes: &[u8], length: usize) -> Option<Self> {
        if length != HEADER_BYTES {
            return None;
        }
        let next = SequenceNumber::new(u64_at(bytes, 32)?)?;
        let chain = ChainPoint {
            next,
            crc: u32_at(bytes, 48)?,
            epoch: SequenceNumber::new(u64_at(bytes, 72)?)
                .map(|first| Some(EpochStart { epoch: epoch_at(bytes, 56)?, first }))
                .unwrap_or(None),
            hybrid: HybridTime::from_u64(u64_at(bytes, 80)?),
        };
        if u64_at(bytes, 40)? != chain.last_stored() {
            return None;
        }
        Some(Self {
            id: LogId::from_bytes(array_at(bytes, 16)?),
            origin: RegionId(u16::from_le_bytes(array_at(bytes, 52)?)),
            chain,
        })
    }
}

/// A record's fields before its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the whole frame.
    pub length: u32,
    /// The frame's checksum.
    pub crc: u32,
    /// The checksum of the record before.
    pub prev_crc: u32,
    /// What the record is for, as stored.
    pub kind: u8,
    /// The region that wrote it first.
    pub origin: RegionId,
    /// Its number.
    pub seq: SequenceNumber,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its stamp.
    pub hybrid: HybridTime,
}

/// Whether `length` can be a record frame's.
pub const fn record_length_fits(length: u32) -> bool {
    length as usize >= RECORD_HEADER_BYTES && length as usize <= limits::RECORD_BYTES_MAX
}

impl RecordHeader {
    /// Fills in the header and the checksum of the frame that `frame` is; returns the checksum.
    pub(crate) fn seal(&self, sums: Sums, frame: &mut [u8]) -> u32 {
        let head: &mut [u8; RECORD_HEADER_BYTES] =
            frame.first_chunk_mut().expect("a frame is reserved with room for its header");
        head[..4].copy_from_slice(&self.length.to_le_bytes());
        head[8..12].copy_from_slice(&self.prev_crc.to_le_bytes());
        head[12] = self.kind;
        head[13] = 0;
        head[14..16].copy_from_slice(&self.origin.0.to_le_bytes());
        head[16..24].copy_from_slice(&self.seq.as_u64().to_le_bytes());
        head[24..40].copy_from_slice(&self.epoch.encode());
        head[40..48].copy_from_slice(&self.hybrid.as_u64().to_le_bytes());
        let crc = sums.record(frame);
        frame[RECORD_CRC_AT..RECORD_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// The fields of a frame whose checksum has been checked; `None` if its number is 0.
    pub fn decode(frame: &[u8]) -> Option<Self> {
        Some(Self {
            length: u32_at(frame, 0)?,
            crc: u32_at(frame, RECORD_CRC_AT)?,
            prev_crc: u32_at(frame, 8)?,
            kind: *frame.get(12)?,
            origin: RegionId(u16::from_le_bytes(array_at(frame, 14)?)),
            seq: SequenceNumber::new(u64_at(frame, 16)?)?,
            epoch: epoch_at(frame, 24)?,
            hybrid: HybridTime::from_u64(u64_at(frame, 40)?),
        })
    }
}

/// Names the tail that was durable when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The number of the last durable record; `None` before the first.
    pub durable: Option<SequenceNumber>,
    /// That record's checksum; 0 before the first.
    pub crc: u32,
    /// That record's epoch; zeros before the first.
    pub epoch: Epoch,
    /// The greatest stamp so far.
    pub hybrid: HybridTime,
}

impl Mark {
    /// The mark's bytes for this place.
    pub fn encode(&self, sums: Sums, segment: SequenceNumber, offset: u64) -> [u8; MARK_BYTES] {
        let mut out = [0; MARK_BYTES];
        out[..8].copy_from_slice(&MARK_MAGIC);
        out[12..16].copy_from_slice(&self.crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.durable.map_or(0, |seq| seq.as_u64()).to_le_bytes());
        out[24..40].copy_from_slice(&self.epoch.encode());
        out[40..48].copy_from_slice(&self.hybrid.as_u64().to_le_bytes());
        let crc = sums.placed(segment, offset, &out[MARK_CRC_AT + 4..]);
        out[MARK_CRC_AT..MARK_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a mark that stands at `offset`.
    ///
    /// # Errors
    /// The checksum that was expected and the one that was found.
    pub fn decode(
        bytes: &[u8; MARK_BYTES],
        sums: Sums,
        segment: SequenceNumber,
        offset: u64,
    ) -> Result<Self, (u32, u32)> {
        let expected = sums.placed(segment, offset, &bytes[MARK_CRC_AT + 4..]);
        let found = u32_at(bytes, MARK_CRC_AT).unwrap_or(0);
        if expected != found || !bytes.starts_with(&MARK_MAGIC) {
            return Err((expected, found));
        }
        let fields = || {
            Some(Self {
                durable: SequenceNumber::new(u64_at(bytes, 16)?),
                crc: u32_at(bytes, 12)?,
                epoch: epoch_at(bytes, 24)?,
                hybrid: HybridTime::from_u64(u64_at(bytes, 40)?),
            })
        };
        fields().ok_or((expected, found))
    }
}

/// Seals a segment. Written after every record before it was made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Records in the segment; at least 1.
    pub count: u64,
    /// The last record's number.
    pub last: SequenceNumber,
    /// The last record's checksum.
    pub crc: u32,
    /// The greatest stamp in the log up to the last record.
    pub hybrid: HybridTime,
    /// The epochs opened in the segment, in order.
    pub epochs: Vec<EpochStart>,
}

impl Footer {
    /// The footer's bytes for this place.
    pub fn encode(&self, sums: Sums, segment: SequenceNumber, offset: u64) -> Vec<u8> {
        let length = self.encoded_bytes();
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.last.as_u64().to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&(self.epochs.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.hybrid.as_u64().to_le_bytes());
        for start in &self.epochs {
            out.extend_from_slice(&start.epoch.encode());
            out.extend_from_slice(&start.first.as_u64().to_le_bytes());
        }
        out.extend_from_slice(&(length as u32).to_le_bytes());
        let crc = sums.placed(segment, offset, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Bytes of the encoded footer.
    pub fn encoded_bytes(&self) -> usize {
        FOOTER_FIXED_BYTES.saturating_add(self.epochs.len().saturating_mul(FOOTER_EPOCH_BYTES))
    }

    /// Reads a footer that stands at `offset` and is exactly `bytes`.
    pub fn decode(bytes: &[u8], sums: Sums, segment: SequenceNumber, offset: u64) -> Option<Self> {
        let table_end = bytes.len().checked_sub(FOOTER_TRAILER_BYTES)?;
        let (covered, crc) = bytes.split_at_checked(table_end.saturating_add(4))?;
        let epochs = u32_at(bytes, 28)? as usize;
        let length = epochs.checked_mul(FOOTER_EPOCH_BYTES)?.checked_add(FOOTER_FIXED_BYTES)?;
        if !bytes.starts_with(&FOOTER_MAGIC)
            || length != bytes.len()
            || u32_at(bytes, table_end)? as usize != length
            || sums.placed(segment, offset, covered) != u32_at(crc, 0)?
        {
            return None;
        }
        let table = bytes.get(FOOTER_FIXED_BYTES - FOOTER_TRAILER_BYTES..table_end)?;
        let epochs = table
            .chunks_exact(FOOTER_EPOCH_BYTES)
            .map(|entry| {
                let first = SequenceNumber::new(u64_at(entry, 16)?)?;
                Some(EpochStart { epoch: epoch_at(entry, 0)?, first })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            count: u64_at(bytes, 8)?,
            last: SequenceNumber::new(u64_at(bytes, 16)?)?,
            crc: u32_at(bytes, 24)?,
            hybrid: HybridTime::from_u64(u64_at(bytes, 32)?),
            epochs,
        })
    }

    /// The length of the footer that begins with `start`, which holds at least its first 32
    /// bytes.
    pub fn length(start: &[u8]) -> Option<usize> {
        let epochs = u32_at(start, 28)? as usize;
        epochs.checked_mul(FOOTER_EPOCH_BYTES)?.checked_add(FOOTER_FIXED_BYTES)
    }
}

/// The name of the segment file with this base.
pub fn segment_name(base: SequenceNumber) -> String {
    format!("{:020}.seg", base.as_u64())
}

/// The base in a segment file's name; `None` if it is not exactly what [`segment_name`] gives.
pub fn segment_base(name: &str) -> Option<SequenceNumber> {
    let digits = name.strip_suffix(".seg")?;
    let base = SequenceNumber::new(digits.parse().ok()?)?;
    (segment_name(base) == name).then_some(base)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn epoch_at(bytes: &[u8], at: usize) -> Option<Epoch> {
    array_at(bytes, at).map(Epoch::decode)
}
