//! A shard at work: its store, the one writer, and the two threads beside it.
//!
//! ```text
//! connections --Work--> writer --batch, Work--> sync thread --Work--> connections
//!                          \--sealed layers--> fold thread
//! ```
//!
//! The writer evaluates what arrives while the sync thread waits for the disk, so that a batch is
//! as large as the disk is slow. Replies leave after the batch that they were evaluated against is
//! durable and visible: also those of reads and refusals, which may rest on writes in flight. Where
//! other nodes must have a write too, replies wait for them, for a bounded time.

mod awaiting;
mod combine;
mod evaluate;
mod keeper;
mod mailbox;
mod pause;
mod queue;
mod replicate;
mod threads;
mod watch;
mod work;

pub(crate) use awaiting::undecided;
pub(crate) use evaluate::evaluate_reads;
pub use mailbox::Mailbox;
pub use pause::Ending;
pub use replicate::OrderError;
pub use threads::{Happened, Place, Replicated, Shard, ShardError, ShardOpening, Threads};
pub use watch::WatchedKeys;
pub use work::{Run, Task, Transaction, Work};
