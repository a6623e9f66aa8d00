//! Frames over one QUIC stream.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};

use crate::{
    Error, FrameDecoder, Result, StreamKind,
    frame::{LENGTH_BYTES, encode_length},
};

/// Pieces that are taken out of a stream at a time.
const PIECES_MAX: usize = 32;
/// A frame this small is copied behind its length, so that both leave as one piece.
const JOINED_BYTES_MAX: usize = 1024;

/// The sending half of a stream. Dropped, it ends the stream after what was sent.
#[derive(Debug)]
pub struct FrameSender {
    kind: StreamKind,
    stream: SendStream,
    /// A frame was begun and not ended: nothing may follow it.
    is_torn: bool,
}

impl FrameSender {
    pub(crate) fn new(kind: StreamKind, stream: SendStream) -> Self {
        Self { kind, stream, is_torn: false }
    }

    /// What the stream is for.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Hands a frame to QUIC; waits while as much is under way as the other side, or the bound of
    /// this one, allows. That it was handed over does not say that it has arrived.
    ///
    /// Not to be dropped before it is done: a half-sent frame makes every later one an error.
    pub async fn send(&mut self, frame: Bytes) -> Result<()> {
        let length = encode_length(self.kind, frame.len())?;
        if self.is_torn {
            return Err(Error::Broken { why: "an earlier frame was sent in part".into() });
        }
        self.is_torn = true;
        if frame.len() <= JOINED_BYTES_MAX {
            let mut joined = Vec::with_capacity(frame.len().saturating_add(LENGTH_BYTES));
            joined.extend_from_slice(&length);
            joined.extend_from_slice(&frame);
            self.stream.write_chunk(joined.into()).await?;
        } else {
            let mut pieces = [Bytes::copy_from_slice(&length), frame];
            self.stream.write_all_chunks(&mut pieces).await?;
        }
        self.is_torn = false;
        Ok(())
    }

    /// Ends the stream after what was sent, and waits until the other side has all of it.
    pub async fn finish(mut self) -> Result<()> {
        if self.stream.finish().is_err() {
            return Err(Error::Broken { why: "the stream has ended already".into() });
        }
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(Error::Broken { why: format!("given up with code {code}") }),
            Err(quinn::StoppedError::ConnectionLost(lost)) => Err(lost.into()),
            Err(other) => Err(Error::Broken { why: other.to_string() }),
        }
    }

    /// Gives the stream up: what has not arrived is not sent any more.
    pub fn reset(mut self) {
        // It fails only when the stream has ended already.
        drop(self.stream.reset(VarInt::from_u32(0)));
    }
}

/// The receiving half of a stream. Dropped, it tells the other side to stop sending.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: RecvStream,
    decoder: FrameDecoder,
    kind: StreamKind,
}

impl FrameReceiver {
    pub(crate) fn new(kind: StreamKind, stream: RecvStream) -> Self {
        Self { stream, decoder: FrameDecoder::new(kind), kind }
    }

    /// What the stream is for.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// The next frame; `None` when the other side has ended the stream after a whole one. May be
    /// dropped at any time without loss.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let mut pieces = [const { Bytes::new() }; PIECES_MAX];
            let Some(count) = self.stream.read_chunks(&mut pieces).await? else {
                if self.decoder.is_between_frames() {
                    return Ok(None);
                }
                return Err(Error::protocol("a stream ends within a frame"));
            };
            for piece in pieces.into_iter().take(count) {
                self.decoder.push(piece);
            }
        }
    }
}
