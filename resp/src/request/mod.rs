//! Requests: read by a server, written by a client.

mod decoder;
mod encode;
mod inline;
mod pipeline;

pub use decoder::Decoder;
pub use encode::encode_request;
pub use pipeline::{Arguments, Pipeline, Request, Requests};
