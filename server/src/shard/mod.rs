//! A shard at work: its store and the three threads that drive it.
//!
//! ```text
//! connections --Work--> writer thread --batch, Work--> sync thread --Work--> connections
//!                           \--sealed layers--> fold thread
//! ```
//!
//! The writer evaluates what arrived while the sync thread waits for the disk, so that a batch is
//! as large as the disk is slow. Replies leave after the batch that they were evaluated against is
//! durable and visible: also those of reads and refusals, which may rest on writes in flight.

mod evaluate;
mod queue;
mod threads;
mod watch;
mod work;

pub use threads::{Shard, ShardError, Threads};
pub use work::{Run, Task, Transaction, Work};
