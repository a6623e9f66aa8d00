//! A log whose newest epoch is a master's holds nothing that the master's log does not hold: it is
//! a prefix. And what a slave is given continues what it has.

use super::Invariant;
use crate::{cluster::Cluster, history::Fact, network::NodeIndex};

pub(super) struct PrefixOfMaster;

impl Invariant for PrefixOfMaster {
    fn name(&self) -> &'static str {
        "prefix_of_master"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        match fact {
            Fact::AppendRefused { node, why } => {
                Err(format!("node {node} was given records that do not fit: {why}"))
            }
            Fact::Swept => cluster.masters().into_iter().try_for_each(|it| slaves(it, cluster)),
            Fact::Settled => equal(cluster),
            _ => Ok(()),
        }
    }
}

fn slaves(master: NodeIndex, cluster: &Cluster) -> Result<(), String> {
    let book = &cluster.book;
    let Some(epoch) = cluster.nodes[master].process.as_ref().and_then(|it| it.epoch) else {
        return Ok(());
    };
    let end = cluster.nodes[master].disk.log.last();
    for (node, this) in cluster.nodes.iter().enumerate() {
        if let Some(tip) = this.disk.log.last()
            && book.position(tip).epoch == epoch
            && !book.holds(end, tip)
        {
            let tip = book.position(tip);
            return Err(format!("node {node} ends with {tip}, which its master {master} lacks"));
        }
    }
    Ok(())
}

fn equal(cluster: &Cluster) -> Result<(), String> {
    let ends = || cluster.nodes.iter().map(|node| node.disk.log.last());
    if ends().any(|end| Some(end) != ends().next()) {
        return Err("all have settled, and the logs do not end with the same record".to_owned());
    }
    Ok(())
}
