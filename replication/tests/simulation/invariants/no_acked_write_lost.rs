//! An acknowledged write is, when it is acknowledged, where its level says; it stands on one line
//! with every write acknowledged before it; and at the end it is in the log: unless an operator
//! forced a promotion past it. And no copy of one is cut that a master counts on. Nobody is told that a
//! write has got further than it has.

use larder_replication::core::Need;

use super::Invariant;
use crate::{book::RecordId, cluster::Cluster, history::Fact, network::NodeIndex};

#[derive(Default)]
pub(super) struct NoAckedWriteLost {
    newest: Option<RecordId>,
}

impl Invariant for NoAckedWriteLost {
    fn name(&self) -> &'static str {
        "no_acked_write_lost"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        match *fact {
            Fact::Reached { node, record, need, reached, replicas } => {
                was_told_truly(node, record, need, reached, replicas, cluster)
            }
            Fact::Acknowledged { write } => {
                let write = &cluster.clients.writes[write];
                let position = cluster.book.position(write.record);
                let level = cluster.options.level;
                if !cluster.is_held(level, write.record, write.node) {
                    return Err(format!("{position} was acknowledged at {level}, not held so"));
                }
                match self.newest.replace(write.record) {
                    Some(before) if !cluster.on_one_line(before, write.record) => {
                        let before = cluster.book.position(before);
                        Err(format!("{position} is acknowledged, so was {before}; no log has both"))
                    }
                    _ => Ok(()),
                }
            }
            Fact::Removed { node, ref records, kept, cut: true } => {
                still_needed(node, records, kept, cluster)
            }
            Fact::Settled => all_are_there(cluster),
            _ => Ok(()),
        }
    }
}

/// Whoever asked how far a write has got was told no more than there is: nothing of one that the
/// master's log does not hold, whatever is there in its place.
fn was_told_truly(
    master: NodeIndex,
    record: RecordId,
    need: Need,
    reached: bool,
    replicas: u32,
    cluster: &Cluster,
) -> Result<(), String> {
    let position = cluster.book.position(record);
    let is_here = cluster.book.holds(cluster.nodes[master].disk.log.last(), record);
    if !is_here && (reached || replicas > 0) {
        return Err(format!("{replicas} are said to have {position}, which {master} has not"));
    }
    let holders = cluster.holders(record, master);
    if replicas as usize > holders {
        return Err(format!("{replicas} are said to have {position}, not {holders}"));
    }
    let is_met = match need {
        Need::Level(level) => cluster.is_held(level, record, master),
        Need::Replicas(count) => holders >= count as usize,
    };
    match is_met || !reached {
        true => Ok(()),
        false => Err(format!("{position} has not reached {need:?}, as was said")),
    }
}

fn all_are_there(cluster: &Cluster) -> Result<(), String> {
    let tip = cluster.nodes[0].disk.log.last();
    for write in cluster.acknowledged() {
        let there = cluster.book.holds(tip, write.record);
        if !there && !cluster.forced_between(write.record, tip) {
            let (position, level) = (cluster.book.position(write.record), write.level);
            return Err(format!("{position}, acknowledged at {level}, is lost"));
        }
    }
    Ok(())
}

/// Where no operator forced anything, a master's log holds every acknowledged write; so what the
/// newest master still keeps of them has not parted, and no slave cuts it.
fn still_needed(
    node: NodeIndex,
    cut: &[RecordId],
    kept: Option<RecordId>,
    cluster: &Cluster,
) -> Result<(), String> {
    let newest = cluster.nodes.iter().filter(|node| node.leads().is_some());
    let newest = newest.max_by_key(|node| node.leads().map(|epoch| (epoch.term, epoch.run)));
    let Some(master) = newest.filter(|_| cluster.forced_terms.is_empty()) else { return Ok(()) };
    let lost = cluster.acknowledged().map(|write| write.record).find(|id| {
        let gone = cut.contains(id) && !cluster.book.holds(kept, *id);
        gone && master.disk.log.kept().contains(id)
    });
    match lost.map(|id| cluster.book.position(id)) {
        Some(position) => Err(format!("node {node} cut {position}, which is acknowledged")),
        None => Ok(()),
    }
}
