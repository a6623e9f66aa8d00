//! Who a replica is: a node's name, and the random id of the disk its data is on.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A node's name within its cluster: 1 to 63 bytes of `[a-z0-9-]`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Bytes of the longest name.
    pub const BYTES_MAX: usize = 63;

    /// The node of this name; `None` where it is empty, too long, or has a byte outside
    /// `[a-z0-9-]`.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=Self::BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed);
        fits.then(|| Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let rule = || de::Error::custom("a node's name is 1 to 63 characters of a-z, 0-9 and -");
        Self::new(&name).ok_or_else(rule)
    }
}

/// Drawn at random when a data directory is made: a replaced disk is another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskId(pub u64);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A replica's identity: what it once acknowledged is on this disk of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The node.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskId,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_rule_are_no_nodes() {
        assert_eq!(NodeId::new("shenzhen-1").map(|node| node.to_string()).unwrap(), "shenzhen-1");
        for name in ["", "Shenzhen", "a.b", "a b", &"x".repeat(NodeId::BYTES_MAX + 1)] {
            assert_eq!(NodeId::new(name), None, "{name:?}");
        }
    }
}
