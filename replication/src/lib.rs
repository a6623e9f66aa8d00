//! How a log reaches another node.
//!
//! [`core`] decides everything and does nothing: events in, actions out, on a passed-in clock.
//! [`message`] is what replicas say to each other, and its bytes. The driver (feature `driver`) is
//! the only place where the core, the storage and the network meet.

pub mod core;
#[cfg(feature = "driver")]
pub mod driver;
pub mod message;
