//! What can be wrong with the bytes of a peer.

use thiserror::Error;

/// Why the bytes of a peer cannot be understood. The connection is of no use afterwards: where the
/// next request or reply begins is not known.
///
/// For requests the text is that of Redis 7.0.15, but for the byte that it quotes: that is escaped,
/// for logs. See [`ProtocolError::reply`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An inline request's line is longer than [`crate::Limits::inline_bytes_max`].
    #[error("Protocol error: too big inline request")]
    TooBigInlineRequest,
    /// An inline request has an open quote, or text right after a closing one.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The line after `*` does not end within [`crate::Limits::inline_bytes_max`].
    #[error("Protocol error: too big mbulk count string")]
    TooBigMultibulkCount,
    /// The number after `*` is no number or above [`crate::Limits::args_max`].
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// More arguments than a client may send before it has authenticated.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// The line after `$` does not end within [`crate::Limits::inline_bytes_max`].
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    /// An argument does not begin with `$`.
    #[error("Protocol error: expected '$', got '{}'", .found.escape_ascii())]
    ExpectedDollar {
        /// The byte in the place of `$`.
        found: u8,
    },
    /// The number after `$` is no number or above [`crate::Limits::bulk_bytes_max`].
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// A longer argument than a client may send before it has authenticated.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// A request is longer than [`crate::Limits::request_bytes_max`].
    #[error("Protocol error: request is longer than {bytes_max} bytes, send it in parts")]
    TooBigRequest {
        /// The limit.
        bytes_max: usize,
    },
    /// A browser was made to talk to this port: the request is `POST` or `Host:`. Close the
    /// connection and execute nothing that follows.
    #[error("Protocol error: this port speaks RESP, not HTTP")]
    CrossProtocol,
    /// A reply is longer than [`crate::ReplyLimits::bytes_max`].
    #[error("reply is longer than {bytes_max} bytes, ask for less at once")]
    TooBigReply {
        /// The limit.
        bytes_max: usize,
    },
    /// A reply has more elements than [`crate::ReplyLimits::elements_max`].
    #[error("reply has more than {elements_max} elements, ask for less at once")]
    TooManyElements {
        /// The limit.
        elements_max: usize,
    },
    /// A reply is nested deeper than [`crate::ReplyLimits::depth_max`].
    #[error("reply is nested deeper than {depth_max} levels, is the peer a RESP server?")]
    TooDeepReply {
        /// The limit.
        depth_max: usize,
    },
    /// A reply is not RESP.
    #[error("reply has no valid {what}, is the peer a RESP server?")]
    InvalidReply {
        /// Which part of it is wrong.
        what: &'static str,
    },
}

impl ProtocolError {
    /// The error that a client is sent, without its `-`: as Redis sends it, which quotes a byte as it is.
    pub fn reply(&self) -> Vec<u8> {
        match self {
            Self::ExpectedDollar { found } => {
                [b"ERR Protocol error: expected '$', got '", &[*found][..], b"'"].concat()
            }
            other => format!("ERR {other}").into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_sent_the_byte_that_it_sent_and_a_log_is_written_it_escaped() {
        let error = ProtocolError::ExpectedDollar { found: 0xff };
        assert_eq!(error.reply(), b"ERR Protocol error: expected '$', got '\xff'");
        assert_eq!(error.to_string(), r"Protocol error: expected '$', got '\xff'");
        let other = ProtocolError::InvalidBulkLength;
        assert_eq!(other.reply(), b"ERR Protocol error: invalid bulk length");
    }
}
