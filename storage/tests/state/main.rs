//! The state against crashes, damage and its own compactions, and against a model.
#![cfg(feature = "state")]

mod database;
mod filter;
mod model;
mod support;
