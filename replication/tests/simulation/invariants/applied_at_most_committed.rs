//! The watermarks keep their order on every node, always: applied is at most visible, visible at
//! most committed, committed at most durable, durable at most appended; trimmed at most flushed,
//! and at most what every replica of the set has.

use larder_replication::core::Alert;
use larder_types::NodeId;

use super::Invariant;
use crate::{
    book::RecordId,
    cluster::Cluster,
    history::Fact,
    network::NodeIndex,
    node::{Node, newest_set},
};

#[derive(Default)]
pub(super) struct AppliedAtMostCommitted {
    /// Replicas that a human was told are, or were, too far behind for the log to be kept for them.
    detached: Vec<NodeId>,
}

impl Invariant for AppliedAtMostCommitted {
    fn name(&self) -> &'static str {
        "applied_at_most_committed"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        match *fact {
            Fact::Alert { alert: Alert::Detached { ref node }, .. } => {
                self.detached.push(node.clone());
                Ok(())
            }
            Fact::CommittedWithoutRecord { node, position } => {
                Err(format!("node {node} made {position} visible, which it does not hold durably"))
            }
            Fact::Applied { node, .. } | Fact::Committed { node, .. } => {
                in_order(node, &cluster.nodes[node], cluster)
            }
            Fact::Trimmed { node, ref records } => self.nobody_needs(node, records, cluster),
            Fact::Swept => {
                let mut nodes = cluster.nodes.iter().enumerate();
                nodes.try_for_each(|(index, node)| in_order(index, node, cluster))
            }
            _ => Ok(()),
        }
    }
}

/// Except where a rewind holds a state that is ahead of a log that was cut.
fn in_order(index: usize, node: &Node, cluster: &Cluster) -> Result<(), String> {
    let Some(process) = node.running().filter(|_| node.disk.rewind.is_none()) else {
        return Ok(());
    };
    let number = |id| cluster.book.number(id);
    let applied = number(process.state.applied);
    let visible = number(node.visible(&cluster.book));
    let committed = number(process.committed).max(applied);
    let durable = number(node.disk.log.last_durable());
    let appended = number(node.disk.log.last());
    let trimmed = number(node.disk.log.base);
    let flushed = number(node.disk.flushed.applied);
    let order = [trimmed, flushed, applied, visible, committed, durable, appended];
    if order.is_sorted() {
        return Ok(());
    }
    Err(format!(
        "node {index}: trimmed, flushed, applied, visible, committed, durable, appended = {order:?}"
    ))
}

impl AppliedAtMostCommitted {
    /// What a master trims no replica of the set needs next, unless one needs more than that.
    fn nobody_needs(
        &self,
        master: NodeIndex,
        trimmed: &[RecordId],
        cluster: &Cluster,
    ) -> Result<(), String> {
        let tip = cluster.nodes[master].disk.log.last_durable();
        let Some(placed) = newest_set(&cluster.book, tip) else { return Ok(()) };
        if cluster.nodes[master].leads().is_none() {
            return Ok(());
        }
        for (index, node) in cluster.nodes.iter().enumerate() {
            let registered = placed.set.member(&node.replica()).is_some();
            if !registered
                || self.detached.contains(&node.name)
                || node.disk.rolled_back == Some(node.replica().disk)
                || node.disk.rewind.is_some()
                || cluster.wants_snapshot(index)
            {
                continue;
            }
            let has = cluster.book.joint(tip, node.disk.log.last_durable());
            let needs = cluster.book.number(has) + 1;
            if let Some(id) = trimmed.iter().find(|&&id| cluster.book.get(id).seq() == needs) {
                let position = cluster.book.position(*id);
                return Err(format!(
                    "master {master} trims {position}, which node {index} needs next"
                ));
            }
        }
        Ok(())
    }
}
