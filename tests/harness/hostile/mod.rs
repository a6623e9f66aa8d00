//! Clients that mean harm, and what a well-behaved client notices of them.
//!
//! A [`trial`] measures a well-behaved client's p99 by turns without and with the attack, watches
//! the server's resident memory all the while, and checks afterwards that nobody else was cut off.

pub mod attacks;
mod open_files;
mod probe;
mod resident;
mod trial;

pub use open_files::raise_open_files;
pub use probe::Latencies;
pub use resident::resident_bytes;
pub use trial::{Attack, Bounds, Ongoing, Target, Verdict, trial};
