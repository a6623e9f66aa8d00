//! A position is written once: no (epoch, seq) has two contents, and no (term, run) begins twice
//! unless an operator typed its term in.

use larder_types::Epoch;

use super::Invariant;
use crate::{cluster::Cluster, history::Fact};

#[derive(Default)]
pub(super) struct EpochNeverReused {
    begun: Vec<Epoch>,
}

impl Invariant for EpochNeverReused {
    fn name(&self) -> &'static str {
        "epoch_never_reused"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        if let Some(position) = cluster.book.reused {
            return Err(format!("{position} was written twice, with different content"));
        }
        let Fact::Began { node, epoch } = *fact else { return Ok(()) };
        if self.begun.contains(&epoch) {
            return Err(format!("node {node} begins {epoch}, which began before"));
        }
        let same = |other: &&Epoch| (other.term, other.run) == (epoch.term, epoch.run);
        let forced = cluster.forced_terms.contains(&epoch.term);
        if let Some(other) = self.begun.iter().find(same).filter(|_| !forced) {
            return Err(format!("node {node} begins {epoch}, and {other} began before"));
        }
        self.begun.push(epoch);
        Ok(())
    }
}
