//! kvd as a process.

mod daemon;
mod reopening;
mod support;
