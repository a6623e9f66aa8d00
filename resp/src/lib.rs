//! RESP2 and RESP3, the protocol of Redis: an incremental codec with limits, for server and client.
//!
//! A server takes whole requests out of what it has read with [`Decoder`] and answers with
//! [`ReplyWriter`]; a client writes with [`encode_request`] and reads with [`ReplyDecoder`]. Nothing
//! here does I/O. No memory is ever taken because of a length a peer has declared: only bytes
//! which have arrived cost anything, and how many may arrive is bounded by [`Limits`] and
//! [`ReplyLimits`].
//!
//! Source of the format: the Redis serialization protocol specification; where it is silent
//! (inline quoting, error texts, empty requests), what Redis 7.0.15 does.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod error;
mod limits;
mod number;
mod reply;
mod request;

pub use error::ProtocolError;
pub use limits::{Limits, ReplyLimits};
pub use reply::{Protocol, Replies, ReplyDecoder, ReplyWriter, Value};
pub use request::{Arguments, Decoder, Pipeline, Request, Requests, encode_request};
