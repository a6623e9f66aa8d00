//! Nothing durable leaves a log but by being trimmed, unless it is still in the log that takes its
//! place, or a human was told and it has been written to a file first. So of an acknowledged write
//! that a forced promotion passed by, a copy remains wherever it was that was not itself taken
//! away.

use larder_replication::core::Alert;
use larder_types::SequenceNumber;

use super::Invariant;
use crate::{cluster::Cluster, disk::Disk, history::Fact, network::NodeIndex};

#[derive(Default)]
pub(super) struct PartedRecordsExported {
    /// From which record on the log of which node parted, as a human was told.
    told: Vec<(NodeIndex, SequenceNumber)>,
}

impl Invariant for PartedRecordsExported {
    fn name(&self) -> &'static str {
        "parted_records_exported"
    }

    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String> {
        match fact {
            &Fact::Alert {
                node,
                alert: Alert::Parted { from, .. } | Alert::NothingInCommon { from, .. },
            } => {
                self.told.push((node, from));
                Ok(())
            }
            Fact::Removed { node, records, kept, .. } => {
                let disk = &cluster.nodes[*node].disk;
                let gone = records.iter().find(|&&id| {
                    let in_place = cluster.book.holds(*kept, id)
                        || kept.is_none_or(|kept| cluster.book.holds(Some(id), kept))
                            && cluster.is_on_another_log(*node, id);
                    let seq = cluster.book.position(id).seq;
                    let told = |&(at, from): &(NodeIndex, _)| at == *node && from <= seq;
                    !(in_place || disk.exported.contains(&id) && self.told.iter().any(told))
                });
                gone.map_or(Ok(()), |&id| {
                    let position = cluster.book.position(id);
                    Err(format!(
                        "node {node} removed {position}, which is in no export, or told to nobody"
                    ))
                })
            }
            Fact::Settled => acknowledged_are_somewhere(cluster),
            _ => Ok(()),
        }
    }
}

fn acknowledged_are_somewhere(cluster: &Cluster) -> Result<(), String> {
    let book = &cluster.book;
    let tip = cluster.nodes[0].disk.log.last();
    for write in cluster.acknowledged().filter(|write| !book.holds(tip, write.record)) {
        let kept = |disk: &Disk| {
            disk.exported.contains(&write.record) || disk.trimmed.contains(&write.record)
        };
        let mut present = cluster.nodes.iter().map(|node| &node.disk);
        let mut lost = cluster.lost_disks.iter().map(|(_, disk)| disk);
        if !present.any(kept) && !lost.any(|disk| disk.ever_held(book, write.record)) {
            let position = book.position(write.record);
            return Err(format!("{position} was acknowledged, is parted, and in no export"));
        }
    }
    Ok(())
}
