//! A cluster of cores in virtual time: thousands of runs, each drawn from a seed, in which
//! everything breaks that can break, and nothing may be lost, reused, skipped or shown too early.
//!
//! `LARDER_SIM_SEED=7 cargo test ...` runs one seed, and prints what it did.
//! `LARDER_SIM_SEEDS=1000000` is the long mode; `LARDER_SIM_FIRST` is its first seed.

mod book;
mod clients;
mod cluster;
mod disk;
mod driver;
mod history;
mod invariants;
mod levels;
mod marks;
mod network;
mod node;
mod operator;
mod options;
mod planted;
mod queue;
mod random;
mod rewind;
mod run;
mod seeds;
mod snapshots;
mod steps;
mod trace;
mod wire;
mod world;
