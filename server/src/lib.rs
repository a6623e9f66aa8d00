//! kvd: the RESP front end, the commands, and the wiring of a node.

pub mod admin;
pub mod budget;
pub mod clients;
pub mod clock;
pub mod command;
pub mod connection;
pub mod files;
pub mod info;
pub mod inspect;
pub mod metrics;
pub mod node;
pub mod process;
pub mod replica;
pub mod run;
pub mod session;
pub mod settings;
pub mod shard;
mod stopping;
