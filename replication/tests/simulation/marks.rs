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
}

impl Mark {
    /// Every mark.
    pub(crate) const EACH: [Self; 28] = [
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
    ];
}

/// How often each mark was reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks([u64; Mark::EACH.len()]);

impl Marks {
    pub(crate) fn reach(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    pub(crate) fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }
}
