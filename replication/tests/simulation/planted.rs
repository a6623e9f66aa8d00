//! The simulator must be able to fail: every planted fault is found, by the invariants alone,
//! within a stated number of seeds.

use std::sync::Mutex;

use larder_replication::core::Planted;

use crate::{run::run, seeds::over};

/// Within how many seeds each fault has to be found.
const fn budget(fault: Planted) -> u64 {
    match fault {
        Planted::AckBeforeFsync
        | Planted::AwaitedByNumber
        | Planted::CutToShorterUpstream
        | Planted::DetachedLeavesDenominator
        | Planted::EmptyDiskVotes
        | Planted::OldEpochCommitted
        | Planted::TrimPastSlave
        | Planted::VisibleBeforeCommitted => 50,
        Planted::ClockStandsStill
        | Planted::PositionWithoutEpoch
        | Planted::TrimmedSkipped
        | Planted::GrantForgotten => 500,
        Planted::RewindWithoutMarker | Planted::StaleSessionAck => 2_000,
        // Two promotions have to cross, and both be elected: it took from 114 to 2,712 seeds so far.
        Planted::SameTermTwice => 10_000,
    }
}

#[test]
fn every_planted_fault_is_found() {
    let missed: Vec<_> = Planted::EACH.into_iter().filter(|&fault| !is_found(fault)).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// A run that panics, or does not come to rest, has found nothing: that takes an invariant.
fn is_found(fault: Planted) -> bool {
    let budget = budget(fault);
    let runs = Mutex::new(0);
    let found = over(0, budget, |seed| {
        *runs.lock().expect("no run panics") += 1;
        match run(seed, Some(fault), false) {
            Err(failure) if !["panic", "settles"].contains(&failure.what) => Err(failure),
            _ => Ok(()),
        }
    });
    let runs = runs.into_inner().expect("no run panics");
    match &found {
        Some(it) => {
            println!("{fault:?}: found after {runs} seeds of {budget}: {}: {}", it.what, it.why);
        }
        None => println!("{fault:?}: NOT found in {budget} seeds"),
    }
    found.is_some()
}
