//! A line between two nodes that is as long, as lossy, as slow or as cut as wanted, inside of
//! this process and without privileges. For tests, drills and the playground.
//!
//! ```text
//! quinn ── ShapedSocket::try_send ── no shape for the address: straight to the socket
//!                                 └─ Link::admit: lost, or due at a time ── queue ── the carrier
//!                                                                              thread sends it
//! ```
//!
//! Each side shapes what it sends; what it must not receive it drops as it arrives.

mod carrier;
mod link;
mod shape;
mod socket;
#[cfg(test)]
mod tests;

pub use carrier::Shaper;
pub use shape::{Shape, ShapeStats};

pub(crate) use socket::ShapedSocket;
