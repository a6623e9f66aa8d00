//! The words every other crate shares: nodes, sequence numbers, epochs, levels of
//! acknowledgement, hybrid time, units and limits.
//!
//! No I/O, no clock of its own, no dependency on another Larder crate.

mod ack;
mod epoch;
mod hybrid;
mod ids;
pub mod limits;
mod names;
mod node;
mod sequence;
mod unit;

pub use ack::{AckLevel, UnknownAckLevel};
pub use epoch::{Epoch, EpochStart, Position};
pub use hybrid::{HybridClock, HybridTime};
pub use ids::{LogId, RegionId};
pub use names::{BadName, ClusterId, NodeId};
pub use node::{DiskId, ReplicaId};
pub use sequence::SequenceNumber;
pub use unit::{UNITS, Unit};
