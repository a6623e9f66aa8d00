//! Replies: written by a server, read by a client.

mod decoder;
mod double;
mod replies;
mod value;
mod writer;

pub use decoder::ReplyDecoder;
pub use replies::Replies;
pub use value::Value;
pub use writer::{Protocol, ReplyWriter};
