//! What the playground consists of: regions, their nodes, ports and distances.

use std::fmt;

use clap::ValueEnum;
use larder_types::NodeId;
use serde::{Deserialize, Serialize};

use crate::args::{ServerAddress, Wan};

/// From the first port, which is that of the first region's Redis clients, to the first at which
/// nodes speak to each other.
const TO_NODES: u16 = 1000;
/// From the first port to the first admin port.
const TO_ADMIN: u16 = 10_000;

/// A region, with one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Region {
    /// The first master
    Shenzhen,
    /// 40 ms from shenzhen
    Tianjin,
    /// 30 ms from shenzhen, 25 ms from tianjin
    Shanghai,
}

impl Region {
    /// All of them, in the order of their ports.
    pub(crate) const ALL: [Self; 3] = [Self::Shenzhen, Self::Tianjin, Self::Shanghai];

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shenzhen => "shenzhen",
            Self::Tianjin => "tianjin",
            Self::Shanghai => "shanghai",
        }
    }

    /// The name of its node.
    pub(crate) fn node(self) -> NodeId {
        NodeId::new(&format!("{self}-1")).expect("letters, a dash and a digit are a name")
    }

    /// The other regions.
    pub(crate) fn others(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |other| *other != self)
    }

    /// Its place in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// From one region to another, milliseconds, one way.
pub(crate) fn one_way_ms(wan: Wan, a: Region, b: Region) -> f64 {
    let round_trip_ms = match (wan, a.min(b), a.max(b)) {
        (Wan::Emulated, Region::Shenzhen, Region::Tianjin) => 40.0,
        (Wan::Emulated, Region::Shenzhen, Region::Shanghai) => 30.0,
        (Wan::Emulated, Region::Tianjin, Region::Shanghai) => 25.0,
        (Wan::None | Wan::Emulated, ..) => 0.0,
    };
    round_trip_ms / 2.0
}

/// The ports of all nodes: consecutive ones of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports(
    /// The first, at most 55,000.
    pub(crate) u16,
);

impl Ports {
    /// Where Redis clients connect.
    pub(crate) fn resp(self, region: Region) -> ServerAddress {
        self.address(0, region)
    }

    /// Where nodes speak to each other, UDP.
    pub(crate) fn nodes(self, region: Region) -> ServerAddress {
        self.address(TO_NODES, region)
    }

    /// The admin port.
    pub(crate) fn admin(self, region: Region) -> ServerAddress {
        self.address(TO_ADMIN, region)
    }

    fn address(self, kind: u16, region: Region) -> ServerAddress {
        let port = self.0.saturating_add(kind).saturating_add(region.index() as u16);
        ServerAddress { host: "127.0.0.1".to_owned(), port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_of_the_ports_are_the_same() {
        for first in [1024, 6380, 55_000] {
            let ports = Ports(first);
            let mut all: Vec<u16> = Region::ALL
                .into_iter()
                .flat_map(|region| [ports.resp(region), ports.nodes(region), ports.admin(region)])
                .map(|address| address.port)
                .collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 9, "{all:?}");
        }
    }

    #[test]
    fn a_distance_is_the_same_in_both_directions() {
        for a in Region::ALL {
            for b in a.others() {
                let there = one_way_ms(Wan::Emulated, a, b);
                assert!(there > 0.0, "{a} {b}");
                assert_eq!(there.to_bits(), one_way_ms(Wan::Emulated, b, a).to_bits());
                assert_eq!(one_way_ms(Wan::None, a, b).to_bits(), 0.0_f64.to_bits());
            }
        }
    }
}
