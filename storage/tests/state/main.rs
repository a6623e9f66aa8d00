//! The state against crashes, damage and its own compactions, and against a model.
#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod database;
mod filter;
mod fixture;
mod model;
mod support;
