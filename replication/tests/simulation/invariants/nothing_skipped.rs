//! A state is the fold of its log: every record is applied right behind the one before it, and
//! the keys hold what they hold at the position that the state says it is at.

use super::Invariant;
use crate::{cluster::Cluster, history::Fact, network::NodeIndex};

pub(super) struct NothingSkipped;

impl Invariant for NothingSkipped {
    fn name(&self) -> &'static str {
        "nothing_skipped"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        match *fact {
            Fact::Applied { node, before, record } => {
                let record = cluster.book.get(record);
                if record.previous == before {
                    return Ok(());
                }
                let before = before.map(|id| cluster.book.position(id));
                Err(format!("node {node} applied {} behind {before:?}", record.position))
            }
            Fact::Swept | Fact::Settled => {
                (0..cluster.nodes.len()).try_for_each(|node| is_fold(node, cluster))
            }
            _ => Ok(()),
        }
    }
}

/// While a rewind is not over the state holds keys of different positions, and nobody reads it.
fn is_fold(node: NodeIndex, cluster: &Cluster) -> Result<(), String> {
    let this = &cluster.nodes[node];
    let Some(process) = this.running().filter(|_| this.disk.rewind.is_none()) else {
        return Ok(());
    };
    let Some(applied) = process.state.applied else { return Ok(()) };
    let record = cluster.book.get(applied);
    if record.values == process.state.values {
        return Ok(());
    }
    let (found, expected) = (process.state.values, record.values);
    Err(format!("node {node} at {} holds {found:?}, not {expected:?}", record.position))
}
