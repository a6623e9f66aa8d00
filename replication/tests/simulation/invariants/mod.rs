//! What must hold whatever happens: one file an invariant.

mod applied_at_most_committed;
mod committed_is_held;
mod epoch_never_reused;
mod no_acked_write_lost;
mod nothing_skipped;
mod one_lease_holder;
mod parted_records_exported;
mod prefix_of_master;
mod reads_see_committed_only;

use crate::{cluster::Cluster, history::Fact};

/// One of them.
pub(crate) trait Invariant {
    /// Its name, which is its file's.
    fn name(&self) -> &'static str;

    /// Judges what has just happened; the error says what should not be.
    fn see(&mut self, fact: &Fact, cluster: &Cluster) -> Result<(), String>;
}

/// Every invariant, with nothing seen yet.
pub(crate) fn every() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(epoch_never_reused::EpochNeverReused::default()),
        Box::new(prefix_of_master::PrefixOfMaster),
        Box::new(nothing_skipped::NothingSkipped),
        Box::new(applied_at_most_committed::AppliedAtMostCommitted::default()),
        Box::new(committed_is_held::CommittedIsHeld::default()),
        Box::new(one_lease_holder::OneLeaseHolder),
        Box::new(reads_see_committed_only::ReadsSeeCommittedOnly::default()),
        Box::new(parted_records_exported::PartedRecordsExported::default()),
        Box::new(no_acked_write_lost::NoAckedWriteLost::default()),
    ]
}
