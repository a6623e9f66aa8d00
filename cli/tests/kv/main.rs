//! `kv` as people and scripts run it, against a real redis-server.
#![expect(clippy::unwrap_used, reason = "what a test is built on may panic as the test may")]

mod bench;
mod data;
mod support;
