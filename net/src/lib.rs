//! How nodes speak to each other: one UDP port a node, QUIC with mutual TLS between nodes of one
//! cluster, framed messages on a few streams, and a socket that can be given the delay, the loss
//! and the cuts of a long line. Knows nothing of keys.
//!
//! ```text
//! Identity::load ──> Endpoint::bind ──> connect / accept ──> Connection
//!                        │                                     │ open / accept
//!                      Shaper                      FrameSender, FrameReceiver
//! ```

pub mod ca;
mod congestion;
mod connection;
mod endpoint;
mod error;
mod frame;
mod hello;
mod identity;
mod registry;
mod shaping;
mod stream;
mod transport;
mod trust;

pub use connection::{Connection, Stats};
pub use endpoint::{Endpoint, Options};
pub use error::{Error, Result};
pub use frame::{FrameDecoder, StreamKind};
pub use hello::{Features, Hello, Versions};
pub use identity::Identity;
pub use shaping::{Shape, ShapeStats, Shaper};
pub use stream::{FrameReceiver, FrameSender};
pub use trust::Refusal;
