//! What must have happened sometimes, or the faults are not what they seem.

/// Something that a whole run of seeds has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    Promotion,
    ForcedPromotion,
    PromotionRefused,
    Switchover,
    SwitchoverUndone,
    SteppedDown,
    RewindOfLog,
    RewindOfKeys,
    RewindOfEverything,
    RewindInterrupted,
    Snapshot,
    SnapshotInterrupted,
    Detached,
    ReadTrimmed,
    LeaseLost,
    ReadRefused,
    WriteTimedOut,
    WriteUnknown,
    RaisedLevelReached,
    RaisedLevelMissed,
    OldMasterFenced,
    NewDiskAdmitted,
    LostAcknowledged,
    MemberRemoved,
    LateMessage,
    AcknowledgedThenParted,
    WaitedFor,
    WaitedForLost,
    PacketLost,
    Overtaken,
    Repeated,
    CutOneWay,
    Isolated,
    Crashed,
    UnsyncedLost,
    Restarted,
    Blackout,
    DiskReplaced,
    DiskRolledBack,
    StoodBeyondLease,
    ClockDrifts,
    AcknowledgedAtLocal,
    AcknowledgedAtNear,
    AcknowledgedAtMajority,
    AcknowledgedAtAll,
}

impl Mark {
    /// Every mark.
    pub(crate) const EACH: [Self; 45] = [
        Self::Promotion,
        Self::ForcedPromotion,
        Self::PromotionRefused,
        Self::Switchover,
        Self::SwitchoverUndone,
        Self::SteppedDown,
        Self::RewindOfLog,
        Self::RewindOfKeys,
        Self::RewindOfEverything,
        Self::RewindInterrupted,
        Self::Snapshot,
        Self::SnapshotInterrupted,
        Self::Detached,
        Self::ReadTrimmed,
        Self::LeaseLost,
        Self::ReadRefused,
        Self::WriteTimedOut,
        Self::WriteUnknown,
        Self::RaisedLevelReached,
        Self::RaisedLevelMissed,
        Self::OldMasterFenced,
        Self::NewDiskAdmitted,
        Self::LostAcknowledged,
        Self::MemberRemoved,
        Self::LateMessage,
        Self::AcknowledgedThenParted,
        Self::WaitedFor,
        Self::WaitedForLost,
        Self::PacketLost,
        Self::Overtaken,
        Self::Repeated,
        Self::CutOneWay,
        Self::Isolated,
        Self::Crashed,
        Self::UnsyncedLost,
        Self::Restarted,
        Self::Blackout,
        Self::DiskReplaced,
        Self::DiskRolledBack,
        Self::StoodBeyondLease,
        Self::ClockDrifts,
        Self::AcknowledgedAtLocal,
        Self::AcknowledgedAtNear,
        Self::AcknowledgedAtMajority,
        Self::AcknowledgedAtAll,
    ];
}

/// How often each mark was reached.
#[derive(Clone, Debug)]
pub(crate) struct Marks([u64; Mark::EACH.len()]);

impl Default for Marks {
    fn default() -> Self {
        Self([0; Mark::EACH.len()])
    }
}

impl Marks {
    pub(crate) fn reach(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    pub(crate) fn reach_often(&mut self, mark: Mark, times: u64) {
        self.0[mark as usize] += times;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    pub(crate) fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }
}
