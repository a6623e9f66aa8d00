//! Messages and replica sets to bytes and back.

use bytes::{Bytes, BytesMut};
use larder_types::limits::RECORD_BYTES_MAX;

use super::{Message, read, write};
use crate::core::ReplicaSet;

/// Bytes of one encoded message, at most: a record of the largest size, and room for the rest.
pub const MESSAGE_BYTES_MAX: usize = RECORD_BYTES_MAX + (64 << 10);
/// Entries of a table of epochs in one message, at most. A longer table is sent from its end.
pub const EPOCHS_MAX: usize = 4_096;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {bytes} bytes is beyond the bound of {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It ends early, goes on after its end, or a field has no meaning.
    #[error("malformed message: {field}")]
    Malformed {
        /// The field that could not be read.
        field: &'static str,
    },
    /// Its kind is unknown.
    #[error("unknown kind of message: {0}")]
    UnknownKind(u8),
}

/// Appends the bytes of `message`.
pub fn encode(message: &Message, out: &mut BytesMut) {
    write::message(message, out);
}

/// Reads a message that is exactly `bytes`. Frames and other bulk are slices of it, not copies.
///
/// # Errors
/// Where it is no message; nothing is allocated for a length that the bytes do not hold.
pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: bytes.len() });
    }
    read::message(bytes)
}

/// The body of the log record that holds `set`.
pub fn encode_set(set: &ReplicaSet) -> Bytes {
    let mut out = BytesMut::new();
    write::replica_set(set, &mut out);
    out.freeze()
}

/// Reads the body of a record that holds a replica set.
///
/// # Errors
/// Where it holds none.
pub fn decode_set(body: Bytes) -> Result<ReplicaSet, DecodeError> {
    read::replica_set(body)
}
