//! What most stories at `majority` write and read meanwhile.

use anyhow::{Result, ensure};
use larder_tests::cluster::registers::Registers;
use larder_tests::cluster::writers::Writers;
use larder_tests::linearizability::{STEPS_MAX, Summary};

use crate::support::{Alone, LOAD_DEADLINE, expect_kept};

/// Writers of keys of their own.
const WRITERS: usize = 4;
/// Keys with a history, and clients of each.
const KEYS: usize = 4;
const CLIENTS: usize = 3;

/// Writers and registers at once.
pub(crate) struct Load {
    writers: Writers,
    registers: Registers,
}

impl Load {
    pub(crate) fn start(cluster: &Alone, seed: u64) -> Result<Self> {
        let nodes = cluster.resp(&[0, 1, 2]);
        let journals = cluster.journals.path();
        println!("replication: LARDER_SEED={seed}");
        Ok(Self {
            writers: Writers::start(&nodes, WRITERS, "w", "majority", journals)?,
            registers: Registers::start(&nodes, KEYS, CLIENTS, seed),
        })
    }

    pub(crate) fn wait_for_more(&self, more: usize) -> Result<()> {
        self.writers.wait_for_more(more, LOAD_DEADLINE)?;
        self.registers.wait_for_more(more, LOAD_DEADLINE)
    }

    /// Stops, and compares what was seen with what every node has.
    pub(crate) fn finish(self, cluster: &Alone, master: usize, story: &str) -> Result<()> {
        let book = self.writers.finish()?;
        let histories = self.registers.finish()?;
        let verdict = expect_kept(cluster, master, &book)?;
        let summary = Summary::of(&histories, STEPS_MAX);
        cluster.tell(story, &format!("{verdict}; {summary}"));
        ensure!(summary.passes(), "not linearizable: {summary}");
        Ok(())
    }
}
