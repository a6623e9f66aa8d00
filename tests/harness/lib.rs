//! The harness: real processes on loopback, clients that see every byte, and the suites' parts.
pub mod client;
pub mod cluster;
pub mod deadline;
pub mod differential;
pub mod faults;
pub mod hostile;
pub mod linearizability;
pub mod loopmount;
pub mod powercut;
pub mod process;
pub mod redis;
pub mod reply;
