//! The part of the configuration that makes a node one of several: who it is, who the others are,
//! and when a write counts.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use larder_types::{AckLevel, NodeId};
use serde::{Deserialize, Serialize};

use crate::{ByteSize, ConfigError, Durability, in_bounds};

/// The other nodes of a cluster. A replica set is small; each costs the master a stream.
const PEERS_MAX: usize = 15;

/// Who this node is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name, which its certificate must carry.
    pub id: NodeId,
    /// The name of the region that it runs in.
    pub region: String,
    /// The UDP address for all that nodes say to each other.
    pub listen: SocketAddr,
    /// The cluster's certificate authority.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Every other node of the cluster.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
}

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its name.
    pub id: NodeId,
    /// The name of its region.
    pub region: String,
    /// Its UDP address.
    pub address: SocketAddr,
    /// Where its clients connect: what a client is told that must go there.
    pub resp: SocketAddr,
}

/// When a write counts, and what is kept for followers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationConfig {
    /// Where a write must be durable before it is acknowledged.
    pub level: AckLevel,
    /// A write that has not reached its level within this time is answered with an error.
    pub ack_timeout_ms: u64,
    /// How long a master may go on without hearing from its followers.
    pub lease_ms: u64,
    /// The node that begins the log of a new cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_master: Option<NodeId>,
    /// States are compared after every so many records, the same on every node; 0 for never.
    pub digest_records: u64,
    /// The log is kept for followers that are away up to this size.
    pub retain_bytes_max: ByteSize,
}

/// What only tests and drills may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabConfig {
    /// Whether the admin port may delay, lose and cut what goes to other nodes.
    pub enabled: bool,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            level: AckLevel::Local,
            ack_timeout_ms: 5_000,
            lease_ms: 3_000,
            first_master: None,
            digest_records: 10_000_000,
            retain_bytes_max: ByteSize(8 << 30),
        }
    }
}

/// Checks the part of a configuration that concerns the cluster.
pub(crate) fn validate(
    node: Option<&NodeConfig>,
    replication: &ReplicationConfig,
    lab: &LabConfig,
    durability: Durability,
) -> Result<(), ConfigError> {
    in_bounds("replication.ack_timeout_ms", replication.ack_timeout_ms, 10, 600_000)?;
    in_bounds("replication.lease_ms", replication.lease_ms, 500, 60_000)?;
    in_bounds("replication.retain_bytes_max", replication.retain_bytes_max.0, 1 << 20, 1 << 44)?;
    if replication.digest_records > 0 {
        in_bounds("replication.digest_records", replication.digest_records, 1_000, 1 << 60)?;
    }
    let Some(node) = node else {
        return validate_alone(replication, lab);
    };
    if durability != Durability::Fsync {
        return Err(ConfigError::invalid(
            "namespace.durability",
            "a node of a cluster acknowledges what is on disk; write \"fsync\", or leave [node] out",
        ));
    }
    node.validate()?;
    let Some(first) = &replication.first_master else {
        return Err(ConfigError::invalid(
            "replication.first_master",
            "is missing; name the node that begins the log of the new cluster, the same in every \
             node's file",
        ));
    };
    let Some(region) = node.region_of(first) else {
        return Err(ConfigError::invalid(
            "replication.first_master",
            format!("{first} is neither this node nor one of node.peers"),
        ));
    };
    node.can_meet(replication.level, first, region)
}

/// Without `[node]` there is nobody to acknowledge but this node.
fn validate_alone(replication: &ReplicationConfig, lab: &LabConfig) -> Result<(), ConfigError> {
    if replication.level != AckLevel::Local || replication.first_master.is_some() {
        return Err(ConfigError::invalid(
            "replication",
            "there is no [node] table, so that nobody replicates; name this node and its peers there",
        ));
    }
    if lab.enabled {
        return Err(ConfigError::invalid(
            "lab.enabled",
            "there is no [node] table, so that there is no other node to be cut off from",
        ));
    }
    Ok(())
}

impl NodeConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.peers.len() > PEERS_MAX {
            return Err(ConfigError::invalid(
                "node.peers",
                format!("{} nodes; at most {PEERS_MAX} beside this one", self.peers.len()),
            ));
        }
        for (_, region) in self.members() {
            // A region's name has the form of a node's.
            if NodeId::new(region).is_none() {
                let reason = format!("{region:?} is not 1 to 63 of a-z, 0-9 and -");
                return Err(ConfigError::invalid("node.region", reason));
            }
        }
        let mut names = BTreeSet::from([&self.id]);
        let mut addresses = BTreeSet::from([self.listen]);
        for peer in &self.peers {
            if peer.id == self.id {
                return Err(ConfigError::invalid(
                    "node.peers.id",
                    format!("{} is this node; name the others only", peer.id),
                ));
            }
            if !names.insert(&peer.id) {
                let reason = format!("{} is named twice", peer.id);
                return Err(ConfigError::invalid("node.peers.id", reason));
            }
            if !addresses.insert(peer.address) {
                let reason = format!("{} belongs to another node too", peer.address);
                return Err(ConfigError::invalid("node.peers.address", reason));
            }
        }
        readable("node.ca", &self.ca)?;
        readable("node.certificate", &self.certificate)?;
        readable("node.key", &self.key)
    }

    /// Every node's name with its region, this node's first.
    pub fn members(&self) -> impl Iterator<Item = (&NodeId, &str)> {
        let peers = self.peers.iter().map(|peer| (&peer.id, peer.region.as_str()));
        std::iter::once((&self.id, self.region.as_str())).chain(peers)
    }

    /// The region of a node of the cluster.
    pub fn region_of(&self, id: &NodeId) -> Option<&str> {
        self.members().find(|(member, _)| *member == id).map(|(_, region)| region)
    }

    /// Another node of the cluster.
    pub fn peer(&self, id: &NodeId) -> Option<&PeerConfig> {
        self.peers.iter().find(|peer| peer.id == *id)
    }

    /// Whether a write at `master` can reach the level at all.
    fn can_meet(&self, level: AckLevel, master: &NodeId, region: &str) -> Result<(), ConfigError> {
        let unmet = self.unmet(level, master, region);
        unmet.map_or(Ok(()), |reason| Err(ConfigError::invalid("replication.level", reason)))
    }

    /// Why a write at `master` could not reach the level, if it could not.
    pub fn unmet(&self, level: AckLevel, master: &NodeId, region: &str) -> Option<String> {
        let nodes = self.members().count();
        let regions: BTreeSet<_> = self.members().map(|(_, region)| region).collect();
        let near = self.members().any(|(id, other)| id != master && other == region);
        match level {
            AckLevel::Near if !near => Some(format!(
                "\"near\" needs another node in {region}, the region of {master}; there is none"
            )),
            AckLevel::Majority if nodes < 3 || regions.len() < 2 => Some(format!(
                "\"majority\" needs at least 3 nodes in at least 2 regions; there are {nodes} in {}",
                regions.len()
            )),
            AckLevel::All if nodes < 2 => Some("\"all\" needs at least 2 nodes; there is 1".into()),
            _ => None,
        }
    }
}

/// What cannot be read at the start would only fail later and less clearly.
fn readable(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(ConfigError::invalid(
            key,
            format!(
                "cannot read {}: {error}; `kv ca init` and `kv ca issue` make the files",
                path.display()
            ),
        )),
    }
}
