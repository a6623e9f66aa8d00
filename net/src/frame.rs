//! Frames: a length, little-endian, and that many bytes. The bound of a stream's kind is checked
//! before any memory is taken for a frame, and memory follows what has arrived, never what was
//! announced.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{collections::VecDeque, fmt};

use bytes::{Buf, Bytes, BytesMut};
use larder_types::limits::RECORD_BYTES_MAX;

use crate::{Error, Result};

/// Bytes of a frame's length.
pub(crate) const LENGTH_BYTES: usize = 4;
/// A frame on a control stream.
pub(crate) const CONTROL_FRAME_BYTES_MAX: usize = 1 << 20;
/// A frame on a log or snapshot stream: the largest record, and 64 KiB for what goes with it.
pub(crate) const DATA_FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10);
/// Memory taken for a frame before its bytes are there.
const RESERVE_BYTES_MAX: usize = 64 << 10;

/// What a stream is for. Its number is the stream's first byte and must not change. When the line
/// is full, control goes first, then the log, then snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Small messages that must not wait: heartbeats, acknowledgements, decisions.
    Control = 1,
    /// Records of logs.
    Log = 2,
    /// Bulk: files of snapshots, keys fetched whole.
    Snapshot = 3,
}

impl StreamKind {
    /// Every kind, most urgent first.
    pub const ALL: [Self; 3] = [Self::Control, Self::Log, Self::Snapshot];

    /// The most bytes that a frame on such a stream may hold.
    pub const fn frame_bytes_max(self) -> usize {
        match self {
            Self::Control => CONTROL_FRAME_BYTES_MAX,
            Self::Log | Self::Snapshot => DATA_FRAME_BYTES_MAX,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    pub(crate) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The greater goes first.
    pub(crate) const fn priority(self) -> i32 {
        (self as i32).saturating_neg()
    }
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Log => "log",
            Self::Snapshot => "snapshot",
        })
    }
}

/// The length that precedes a frame.
pub(crate) fn encode_length(kind: StreamKind, bytes: usize) -> Result<[u8; LENGTH_BYTES]> {
    let bytes_max = kind.frame_bytes_max();
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
    length.map(u32::to_le_bytes).ok_or(Error::FrameTooLarge { kind, bytes, bytes_max })
}

/// Takes frames out of a stream that arrives in pieces of any size.
///
/// Holds at most one unfinished frame and the pieces it was given since it last answered `None`.
#[derive(Debug)]
pub struct FrameDecoder {
    kind: StreamKind,
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    /// The frame whose length is known: that length, and what is there of it.
    begun: Option<(usize, BytesMut)>,
}

impl FrameDecoder {
    /// For a stream of this kind.
    pub fn new(kind: StreamKind) -> Self {
        Self { kind, pieces: VecDeque::new(), pieces_bytes: 0, begun: None }
    }

    /// Adds what arrived next. Give it more only when [`FrameDecoder::next_frame`] has answered `None`.
    pub fn push(&mut self, piece: Bytes) {
        self.pieces_bytes = self.pieces_bytes.saturating_add(piece.len());
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// The next frame; `None` until more has arrived. After an error the stream is of no use.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>> {
        let begun = match self.begun.take() {
            Some(begun) => Some(begun),
            None => self.begin()?,
        };
        let Some((length, mut body)) = begun else { return Ok(None) };
        if body.is_empty()
            && let Some(whole) = self.whole(length)
        {
            return Ok(Some(whole));
        }
        while body.len() < length {
            let Some(mut piece) = self.pieces.pop_front() else { break };
            let taken = piece.split_to(piece.len().min(length.saturating_sub(body.len())));
            self.pieces_bytes = self.pieces_bytes.saturating_sub(taken.len());
            body.extend_from_slice(&taken);
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        if body.len() == length {
            return Ok(Some(body.freeze()));
        }
        self.begun = Some((length, body));
        Ok(None)
    }

    /// Whether the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        self.begun.is_none() && self.pieces_bytes == 0
    }

    /// Reads a length, if it is there.
    fn begin(&mut self) -> Result<Option<(usize, BytesMut)>> {
        if self.pieces_bytes < LENGTH_BYTES {
            return Ok(None);
        }
        let mut length = [0; LENGTH_BYTES];
        for byte in &mut length {
            let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
            *byte = piece.get_u8();
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.pieces_bytes = self.pieces_bytes.saturating_sub(LENGTH_BYTES);
        let bytes = u32::from_le_bytes(length) as usize;
        let (kind, bytes_max) = (self.kind, self.kind.frame_bytes_max());
        if bytes > bytes_max {
            return Err(Error::FrameTooLarge { kind, bytes, bytes_max });
        }
        let is_whole = self.pieces.front().is_some_and(|piece| piece.len() >= bytes);
        let reserved = if is_whole { 0 } else { bytes.min(RESERVE_BYTES_MAX) };
        Ok(Some((bytes, BytesMut::with_capacity(reserved))))
    }

    /// A frame that lies in one piece is taken without a copy.
    fn whole(&mut self, length: usize) -> Option<Bytes> {
        if length == 0 {
            return Some(Bytes::new());
        }
        let piece = self.pieces.front_mut().filter(|piece| piece.len() >= length)?;
        let frame = piece.split_to(length);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.pieces_bytes = self.pieces_bytes.saturating_sub(length);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: StreamKind, frame: &[u8]) -> Vec<u8> {
        [&encode_length(kind, frame.len()).unwrap()[..], frame].concat()
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let frames: [&[u8]; 4] = [b"one", b"", b"three", &[7; 3000]];
        let stream: Vec<u8> = frames.iter().flat_map(|f| encoded(StreamKind::Log, f)).collect();
        for size in [1, 2, 3, 5, 1200, stream.len()] {
            let mut decoder = FrameDecoder::new(StreamKind::Log);
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                decoder.push(Bytes::copy_from_slice(piece));
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames);
            assert!(decoder.is_between_frames());
        }
    }

    #[test]
    fn the_bound_of_each_kind_is_the_last_that_passes() {
        for kind in StreamKind::ALL {
            let bound = kind.frame_bytes_max();
            for (bytes, passes) in [(bound - 1, true), (bound, true), (bound + 1, false)] {
                assert_eq!(encode_length(kind, bytes).is_ok(), passes);
                let mut decoder = FrameDecoder::new(kind);
                decoder.push(Bytes::copy_from_slice(&(bytes as u32).to_le_bytes()));
                assert_eq!(decoder.next_frame().is_ok(), passes, "{kind} {bytes}");
            }
        }
    }

    #[test]
    fn a_great_length_alone_takes_little_memory() {
        let mut decoder = FrameDecoder::new(StreamKind::Log);
        decoder.push(Bytes::copy_from_slice(&(16_u32 << 20).to_le_bytes()));
        assert!(decoder.next_frame().unwrap().is_none());
        assert!(decoder.begun.unwrap().1.capacity() <= 2 * RESERVE_BYTES_MAX);
    }
}
