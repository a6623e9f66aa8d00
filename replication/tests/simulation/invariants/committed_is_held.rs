//! What a master commits is on the disks that the namespace's level asks for; what a slave
//! commits, a master has committed; and there is one line of committed records, which forks only
//! where an operator forced a promotion.

use std::collections::HashSet;

use super::Invariant;
use crate::{book::RecordId, cluster::Cluster, history::Fact};

#[derive(Default)]
pub(super) struct CommittedIsHeld {
    /// All that any master has committed.
    committed: HashSet<RecordId>,
    newest: Option<RecordId>,
}

impl Invariant for CommittedIsHeld {
    fn name(&self) -> &'static str {
        "committed_is_held"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        let Fact::Committed { node, record, master } = *fact else { return Ok(()) };
        let position = cluster.book.position(record);
        if !master {
            return match self.committed.contains(&record) {
                true => Ok(()),
                false => Err(format!("slave {node} commits {position}, which no master did")),
            };
        }
        let level = cluster.options.level;
        if !cluster.is_held(level, record, node) {
            return Err(format!("master {node} commits {position}, not held as {level} asks"));
        }
        if let Some(before) = self.newest.replace(record)
            && !cluster.on_one_line(before, record)
        {
            let before = cluster.book.position(before);
            return Err(format!("{position} is committed, so was {before}; no log has both"));
        }
        let path = cluster.book.path(Some(record));
        let new: Vec<_> = path.take_while(|id| !self.committed.contains(id)).collect();
        self.committed.extend(new);
        Ok(())
    }
}
