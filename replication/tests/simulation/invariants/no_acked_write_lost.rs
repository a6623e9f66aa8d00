//! An acknowledged write is, when it is acknowledged, where its level says; it stands on one line
//! with every write acknowledged before it; and at the end it is in the log: unless an operator
//! forced a promotion past it.

use super::Invariant;
use crate::{book::RecordId, cluster::Cluster, history::Fact};

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
            Fact::Acknowledged { write } => {
                let write = &cluster.clients.writes[write];
                let position = cluster.book.position(write.record);
                if !cluster.is_held(write.level, write.record, write.node) {
                    let level = write.level;
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
            Fact::Settled => all_are_there(cluster),
            _ => Ok(()),
        }
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
