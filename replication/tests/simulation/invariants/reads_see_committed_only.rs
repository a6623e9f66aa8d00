//! A read shows a state that a master has committed, never one that can vanish; and at a master
//! whose reads rest on its lease it shows every write that was acknowledged before it.

use std::collections::HashSet;

use larder_replication::core::ReadGate;

use super::Invariant;
use crate::{
    book::{RecordId, Values},
    cluster::Cluster,
    history::Fact,
    network::NodeIndex,
};

#[derive(Default)]
pub(super) struct ReadsSeeCommittedOnly {
    committed: HashSet<RecordId>,
    /// The newest write that was acknowledged.
    acknowledged: Option<RecordId>,
}

impl Invariant for ReadsSeeCommittedOnly {
    fn name(&self) -> &'static str {
        "reads_see_committed_only"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        match *fact {
            Fact::Committed { record, master: true, .. } => {
                let path = cluster.book.path(Some(record));
                let new: Vec<_> = path.take_while(|id| !self.committed.contains(id)).collect();
                self.committed.extend(new);
            }
            Fact::Acknowledged { write } => {
                self.acknowledged = Some(cluster.clients.writes[write].record);
            }
            Fact::Read { node, visible: Some(visible), values } => {
                self.read(node, visible, &values, cluster)?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl ReadsSeeCommittedOnly {
    fn read(
        &self,
        node: NodeIndex,
        visible: RecordId,
        values: &Values,
        cluster: &Cluster,
    ) -> Result<(), String> {
        let record = cluster.book.get(visible);
        let position = record.position;
        if !self.committed.contains(&visible) {
            return Err(format!("a read at node {node} sees {position}, which nobody committed"));
        }
        if record.values != *values {
            let expected = record.values;
            return Err(format!("a read at node {node} sees {values:?}, not {expected:?}"));
        }
        let gate = cluster.nodes[node].running().map(|process| process.gate);
        let Some(acknowledged) = self.acknowledged else { return Ok(()) };
        let late = matches!(gate, Some(ReadGate::Until(_)))
            && !cluster.book.holds(Some(visible), acknowledged)
            && !cluster.forced_between(acknowledged, Some(visible));
        if late {
            let acknowledged = cluster.book.position(acknowledged);
            return Err(format!(
                "a read at master {node} sees {position}, not {acknowledged}, acknowledged before"
            ));
        }
        Ok(())
    }
}
