//! Arguments of `kv playground`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Promote;
use crate::playground::Region;

/// `kv playground`: without a subcommand, runs it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kv playground                          three regions with distances between them
  kv playground --wan none --level majority
  kv playground status                   in a second terminal, like all that follow
  kv playground lag
  kv playground cut tianjin shanghai
  kv playground kill shenzhen
  kv playground promote tianjin
  kv playground start shenzhen
  kv playground heal
  kv playground stop                     the same as Ctrl-C in the first

Round trips: shenzhen-tianjin 40 ms, shenzhen-shanghai 30 ms, tianjin-shanghai 25 ms, made by the nodes
themselves; no privileges are needed. One playground a user runs at a time.")]
pub(crate) struct Playground {
    #[command(flatten)]
    pub(crate) run: Run,
    #[command(subcommand)]
    pub(crate) order: Option<Order>,
}

/// How to run the playground. Options that are not given are `None`, so that one given with an order,
/// where it would mean nothing, is not taken in silence.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Distances between the regions [default: emulated]
    #[arg(long, value_name = "DISTANCES")]
    wan: Option<Wan>,
    /// The first port: Redis clients at PORT to PORT+2, nodes (UDP) from PORT+1000, admin from
    /// PORT+10000 [default: 6380]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=55_000))]
    port: Option<u16>,
    /// Where to keep the data [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// When a write is acknowledged [default: local]
    #[arg(long, value_name = "LEVEL")]
    level: Option<Level>,
    /// The daemon [default: the kvd beside this kv]
    #[arg(long, value_name = "PATH")]
    pub(crate) kvd: Option<PathBuf>,
}

impl Run {
    /// Distances between the regions.
    pub(crate) fn wan(&self) -> Wan {
        self.wan.unwrap_or(Wan::Emulated)
    }

    /// The first port.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(6380)
    }

    /// When a write is acknowledged.
    pub(crate) fn level(&self) -> Level {
        self.level.unwrap_or(Level::Local)
    }

    /// Whether any option is given.
    pub(crate) fn is_given(&self) -> bool {
        let none = Self { wan: None, port: None, data: None, level: None, kvd: None };
        *self != none
    }
}

/// Distances between the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wan {
    /// 25 to 40 ms round trip
    Emulated,
    /// As fast as this machine
    None,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Durable at the master: losing its region can lose the last writes
    Local,
    /// Durable in two of the three regions: losing one loses nothing
    Majority,
}

/// What to do with the playground that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Order {
    /// Who runs, in which role, how late, and which links are cut
    Status,
    /// Write at the master and measure how late it is read in each other region
    Lag(Lag),
    /// Cut the link between two regions, both ways
    Cut {
        /// One region
        a: Region,
        /// The other
        b: Region,
    },
    /// Make every link whole again
    Heal,
    /// End a region's node at once, as a loss of power would (SIGKILL)
    Kill {
        /// The region
        region: Region,
    },
    /// Start a region's node again
    Start {
        /// The region
        region: Region,
    },
    /// Have a region's node make a new master, as kv shard promote
    Promote {
        /// The region
        region: Region,
        #[command(flatten)]
        how: Promote,
    },
    /// End the playground
    Stop,
}

/// Arguments of `kv playground lag`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each write is sent to the master; from that moment on the other regions are asked for it, over and
over, until it is there. That is later than the emulated one-way distance by what the write, its way
through the log and the asking take.

Examples:
  kv playground lag
  kv -o json playground lag --writes 200 --interval-ms 5")]
pub(crate) struct Lag {
    /// How many writes
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) writes: u32,
    /// From one write to the next, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) interval_ms: u64,
}
