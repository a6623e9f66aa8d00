//! kvd as a process.

mod bounds;
mod daemon;
mod large_values;
mod reopening;
mod stopping;
mod strangers;
mod support;
mod versions;
mod waiting;
