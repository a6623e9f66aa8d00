//! `kv` as people and scripts run it, against a real redis-server and kvd, an admin port, and processes.
#![expect(clippy::unwrap_used, reason = "what a test is built on may panic as the test may")]

mod admin;
mod bench;
mod ca;
mod data;
mod fixture;
mod playground;
mod support;
