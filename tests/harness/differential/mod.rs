//! Random commands against kvd and redis-server side by side.
//!
//! One [`Run`] is one seed: it draws steps (a pipeline on one of several connections, or a
//! scenario such as a scan to its end), sends each to both servers, and compares the replies by
//! the rule of each command. Everything drawn depends on the seed and on the reference's replies
//! alone, so a seed replays.

mod bad_protocol;
mod commands;
mod compare;
mod contents;
mod counts;
mod draw;
mod exceptions;
mod flipper;
mod history;
mod judge;
mod pair;
mod run;
mod scenarios;
mod shape;

pub use commands::compared;
pub use counts::Counts;
pub use exceptions::{ExceptionHits, exceptions};
pub use flipper::Flipper;
pub use history::Mismatch;
pub use pair::Pair;
pub use run::{Mix, Run};
