//! kvd as a process.

mod bounds;
mod daemon;
mod reopening;
mod stopping;
mod strangers;
mod support;
mod versions;
mod waiting;
