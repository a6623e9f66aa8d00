//! The words every other crate shares: sequence numbers, epochs, hybrid time, units and limits.
//!
//! No I/O, no clock of its own, no dependency on another Larder crate.

mod epoch;
mod hybrid;
mod ids;
pub mod limits;
mod names;
mod sequence;
mod unit;

pub use epoch::{Epoch, Position};
pub use hybrid::{HybridClock, HybridTime};
pub use ids::{LogId, RegionId};
pub use names::{BadName, ClusterId, NodeId};
pub use sequence::SequenceNumber;
pub use unit::{UNITS, Unit};
