//! At no instant do two nodes hold a lease, each by its own clock.

use larder_replication::core::ReadGate;

use super::Invariant;
use crate::{cluster::Cluster, history::Fact, node::Node};

pub(super) struct OneLeaseHolder;

impl Invariant for OneLeaseHolder {
    fn name(&self) -> &'static str {
        "one_lease_holder"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        if !matches!(fact, Fact::Gate | Fact::Swept) {
            return Ok(());
        }
        let holds = |node: &&Node| {
            let gate = node.running().map(|process| process.gate);
            matches!(gate, Some(ReadGate::Until(end)) if node.clock.read(cluster.now()) < end)
        };
        let holders: Vec<_> = cluster.nodes.iter().filter(holds).map(|node| &node.name).collect();
        match holders.len() {
            0 | 1 => Ok(()),
            _ => Err(format!("{holders:?} hold a lease at once")),
        }
    }
}
