//! kvd as a process.

mod bounds;
mod daemon;
mod reopening;
mod strangers;
mod support;
