//! The driver: the only place where the core, the storage and the network meet.
//!
//! ```text
//! net: connections ──Input──┐                      ┌──frames──> net
//! shard: Report, durable ───┼──> Engine ── Core ───┼──Order───> shard's threads
//! operators, waiters ───────┘    one task          └──work────> blocking threads
//! ```
//!
//! One task on a thread of its own owns the core, turns what happens into events, and does what the
//! core asks for. It never blocks: what may block goes to the shard's threads, or to a blocking
//! thread that answers with another input; the steps of rewinds, and what puts snapshots in place, are
//! for one such thread, in order. The driver's thread is its own, so that heartbeats and leases do
//! not wait for clients.

mod clock;
mod engine;
#[cfg(test)]
mod engine_tests;
mod error;
mod feed;
mod handle;
mod links;
mod log_state;
mod packing;
mod perform;
mod port;
mod rewind;
mod served;
mod snapshot;
mod standing;
mod start;
mod works;

pub use clock::Clock;
pub use error::DriverError;
pub use handle::{Driver, Ending, Stats};
pub use port::{Order, Port, Report};
pub use rewind::REWINDING;
pub use start::{Found, Member, Options, Thread, start};
