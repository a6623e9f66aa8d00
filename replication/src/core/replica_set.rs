//! The replica set: who counts. Itself a record of the log.

use larder_types::{NodeId, ReplicaId, SequenceNumber};

/// The members of a log's replica set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSet {
    /// In order of their nodes; at most one for each.
    pub members: Vec<Member>,
    /// Nodes that an operator took out: they are not admitted by themselves again.
    pub removed: Vec<NodeId>,
}

/// One replica that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity: another disk of the same node is not a member.
    pub id: ReplicaId,
    /// Its region's name.
    pub region: String,
    /// Whether it counts in majorities.
    pub voter: bool,
}

/// A replica set, and the record that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedSet {
    /// The record's number.
    pub seq: SequenceNumber,
    /// The set.
    pub set: ReplicaSet,
}

impl ReplicaSet {
    /// Members of one set, at most.
    pub const MEMBERS_MAX: usize = 32;
    /// Removed nodes that are remembered, at most.
    pub const REMOVED_MAX: usize = 256;
    /// Bytes of a region's name, at most.
    pub const REGION_BYTES_MAX: usize = 63;

    /// The member with this identity.
    pub fn member(&self, id: &ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// The member that is on this node, whatever its disk.
    pub fn on_node(&self, node: &NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id.node == *node)
    }

    /// Those that count in majorities.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.voter)
    }
}
