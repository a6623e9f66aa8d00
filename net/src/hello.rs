//! The first thing both sides say on a connection: versions, features, cluster. Little-endian;
//! `docs/format/wire.md` has the table. Its layout must not change with the version.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::{fmt, net::SocketAddr};

use larder_types::ClusterId;

use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"\xf1LRDRNET";
/// Bytes before the cluster's name.
const FIXED_BYTES: usize = 21;
/// A hello, with room for what later versions may add behind the cluster's name.
pub(crate) const HELLO_BYTES_MAX: usize = 1 << 10;

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest that is spoken.
    pub min: u16,
    /// The newest that is spoken.
    pub max: u16,
}

impl Versions {
    /// What this code speaks.
    pub const SPOKEN: Self = Self { min: 1, max: 1 };

    /// The newest version that both speak.
    pub fn shared(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What a node can do beyond its version, a bit each; who speaks over a connection says which
/// bit means what. Both sides use what both offer; unknown bits are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Whether all of these are among them.
    pub const fn contain(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// What both offer.
    pub const fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// What a side says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions it speaks.
    pub versions: Versions,
    /// What it offers.
    pub features: Features,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
}

impl Hello {
    /// As sent.
    pub fn encode(&self) -> Vec<u8> {
        let cluster = self.cluster.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(cluster.len().saturating_add(FIXED_BYTES));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.versions.min.to_le_bytes());
        bytes.extend_from_slice(&self.versions.max.to_le_bytes());
        bytes.extend_from_slice(&self.features.0.to_le_bytes());
        bytes.push(u8::try_from(cluster.len()).expect("a cluster's name is at most 63 bytes"));
        bytes.extend_from_slice(cluster);
        bytes
    }

    /// The inverse of [`Hello::encode`]. What follows the cluster's name is of later versions.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let parts = || {
            let (magic, rest) = bytes.split_first_chunk::<8>()?;
            let (min, rest) = rest.split_first_chunk()?;
            let (max, rest) = rest.split_first_chunk()?;
            let (features, rest) = rest.split_first_chunk()?;
            let (length, rest) = rest.split_first()?;
            Some((magic, min, max, features, rest.get(..usize::from(*length))?))
        };
        let Some((magic, min, max, features, cluster)) = parts() else {
            return Err(Error::protocol(format!("a hello of {} bytes ends early", bytes.len())));
        };
        if *magic != MAGIC {
            return Err(Error::protocol("what should be a hello begins otherwise"));
        }
        let versions = Versions { min: u16::from_le_bytes(*min), max: u16::from_le_bytes(*max) };
        if versions.min > versions.max {
            return Err(Error::protocol(format!("a hello with versions {versions}")));
        }
        let cluster = std::str::from_utf8(cluster).ok().and_then(ClusterId::new);
        let cluster = cluster.ok_or_else(|| Error::protocol("a hello without a cluster's name"))?;
        Ok(Self { versions, features: Features(u64::from_le_bytes(*features)), cluster })
    }

    /// What this side and the other agree on. Both sides come to the same answer.
    pub(crate) fn agree(&self, theirs: &Self, address: SocketAddr) -> Result<(u16, Features)> {
        if self.cluster != theirs.cluster {
            let (ours, theirs) = (self.cluster.clone(), theirs.cluster.clone());
            return Err(Error::Cluster { address, ours, theirs });
        }
        let (ours, their_versions) = (self.versions, theirs.versions);
        let version = ours.shared(their_versions);
        let version = version.ok_or(Error::Version { address, ours, theirs: their_versions })?;
        Ok((version, self.features.shared(theirs.features)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            versions: Versions { min: 1, max: 3 },
            features: Features(5),
            cluster: ClusterId::new("east").unwrap(),
        }
    }

    #[test]
    fn a_hello_is_read_as_written_and_later_additions_are_ignored() {
        let mut bytes = hello().encode();
        assert_eq!(Hello::decode(&bytes).unwrap(), hello());
        bytes.extend_from_slice(b"more");
        assert_eq!(Hello::decode(&bytes).unwrap(), hello());
    }

    #[test]
    fn a_hello_cut_anywhere_is_refused() {
        let bytes = hello().encode();
        for end in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn the_newest_common_version_and_the_common_features_are_agreed_on() {
        let address = ([127, 0, 0, 1], 1).into();
        let theirs =
            Hello { versions: Versions { min: 2, max: 2 }, features: Features(4 | 8), ..hello() };
        assert_eq!(hello().agree(&theirs, address).unwrap(), (2, Features(4)));
        let newer = Hello { versions: Versions { min: 4, max: 9 }, ..hello() };
        assert!(matches!(hello().agree(&newer, address), Err(Error::Version { .. })));
        assert!(matches!(newer.agree(&hello(), address), Err(Error::Version { .. })));
        let west = Hello { cluster: ClusterId::new("west").unwrap(), ..hello() };
        assert!(matches!(hello().agree(&west, address), Err(Error::Cluster { .. })));
    }
}
