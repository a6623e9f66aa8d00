//! Power cuts on a real file system: under load, with writes in flight, every acknowledged write
//! must be there afterwards, and what is there must be a prefix of the history. A control that
//! acknowledges before it syncs must lose, or the suite would prove nothing.
//!
//! `LARDER_SEED` repeats a run's operations, `LARDER_CUTS` sets how many cuts there are, and
//! `LARDER_ENGINE=redis` tries the suite itself with redis-server.

mod cycle;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::faults::seed;
use larder_tests::faults::store::{Durability, Engine, Setup};
use larder_tests::loopmount::{self, CutKind, LoopMount};
use larder_tests::powercut::oracle::Promise;
use larder_tests::process::skip;

use cycle::{Cycle, Load, Sums};

/// Cuts that spare nothing.
const CUTS: usize = 32;
/// After so many of them comes one that spares the journal of the file system.
const CUTS_PER_JOURNAL_CUT: usize = 4;
/// Acknowledged operations before a cut, at least and at most.
const ACKNOWLEDGED: std::ops::Range<usize> = 1_000..6_000;
/// How many cuts the control may need until it has lost.
const CONTROL_CUTS: usize = 5;
/// Milliseconds between two syncs in the control.
const CONTROL_INTERVAL_MS: u64 = 1_000;
/// Long enough for syncs within it.
const CONTROL_LOAD: Duration = Duration::from_millis(2_600);
/// How far beyond its interval the control's loss may reach: a sync that was under way.
const CONTROL_SLACK: Duration = Duration::from_millis(500);
/// What a start may take by contract.
const RESTART_MAX: Duration = Duration::from_secs(5);

/// The tests measure time and share two cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn engine() -> Option<Engine> {
    let engine = loopmount::available().and_then(|()| Engine::under_test());
    engine.map_err(|missing| skip("powercut", &missing)).ok()
}

#[test]
fn a_cut_keeps_what_was_synced_and_loses_what_was_not() -> Result<()> {
    if engine().is_none() {
        return Ok(());
    }
    let mount = LoopMount::create(64 << 20)?;
    let synced = mount.path().join("synced");
    std::fs::write(&synced, "kept")?;
    std::fs::File::open(&synced)?.sync_all()?;
    std::fs::File::open(mount.path())?.sync_all()?;
    std::fs::write(mount.path().join("unsynced"), "lost")?;
    mount.arm()?.cut(CutKind::Everything)?;
    ensure!(std::fs::write(mount.path().join("later"), "x").is_err(), "written after the cut");
    mount.remount()?;
    ensure!(std::fs::read(&synced)? == b"kept", "what was synced is not there");
    ensure!(!mount.path().join("unsynced").exists(), "what was not synced is there");
    Ok(())
}

#[test]
fn every_acknowledged_write_survives_a_power_cut() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(engine) = engine() else {
        return Ok(());
    };
    let started = Instant::now();
    let seed = seed();
    let cuts = std::env::var("LARDER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    println!("powercut: LARDER_SEED={seed}, {cuts} cuts, {engine:?}");
    // Many segments a cut, each made ahead out of one that was trimmed.
    let setup = Setup { segment_bytes: 256 << 10, ..Setup::new(engine) };
    let mut cycle = Cycle::new(setup, seed)?;
    let mut sums = Sums::default();
    for cut in 0..cuts + cuts / CUTS_PER_JOURNAL_CUT {
        let spares_the_journal = cut % (CUTS_PER_JOURNAL_CUT + 1) == CUTS_PER_JOURNAL_CUT;
        let kind = if spares_the_journal { CutKind::DataAlone } else { CutKind::Everything };
        let load = Load { acknowledged: ACKNOWLEDGED, lasting: Duration::ZERO, kind };
        let outcome = cycle
            .run(&load, Promise::Acknowledged)
            .with_context(|| format!("cut {cut} ({kind:?}) with LARDER_SEED={seed}"))?;
        println!("cut {cut} ({kind:?}): {outcome}");
        ensure!(outcome.verdict.lost == 0, "{} acknowledged writes are lost", outcome.verdict.lost);
        ensure!(outcome.verdict.acknowledged >= ACKNOWLEDGED.start, "too little load");
        ensure!(outcome.in_flight > 0, "nothing was in flight at the cut");
        ensure!(outcome.restart <= RESTART_MAX, "the restart took {:?}", outcome.restart);
        sums.add(&outcome);
    }
    println!("powercut: {sums}; used {:?}", started.elapsed());
    Ok(())
}

#[test]
fn the_interval_level_loses_within_its_bound_and_says_so() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(engine) = engine() else {
        return Ok(());
    };
    let started = Instant::now();
    let seed = seed();
    println!("powercut control: LARDER_SEED={seed}, {engine:?}");
    let is_kvd = engine.is_kvd();
    let durability = Durability::Interval(CONTROL_INTERVAL_MS);
    // Large, because sealing a segment and folding a layer sync as well.
    let (segment_bytes, layer_bytes) = (1 << 30, 64 << 20);
    let setup = Setup { durability, segment_bytes, layer_bytes, ..Setup::new(engine) };
    let mut cycle = Cycle::new(setup, seed)?;
    let mut sums = Sums::default();
    for cut in 0..CONTROL_CUTS {
        let load =
            Load { acknowledged: ACKNOWLEDGED, lasting: CONTROL_LOAD, kind: CutKind::Everything };
        let outcome = cycle
            .run(&load, Promise::Prefix)
            .with_context(|| format!("control cut {cut} with LARDER_SEED={seed}"))?;
        println!("control cut {cut}: {outcome}");
        if is_kvd {
            ensure!(
                outcome.info.contains(&format!("power_loss_window_ms:{CONTROL_INTERVAL_MS}\r")),
                "INFO does not say how much a loss of power can cost:\n{}",
                outcome.info
            );
            let bound = Duration::from_millis(CONTROL_INTERVAL_MS) + CONTROL_SLACK;
            let reach = outcome.loss_reach.unwrap_or_default();
            ensure!(reach <= bound, "a write was lost {reach:?} after it had been acknowledged");
            let verdict = &outcome.verdict;
            ensure!(verdict.lost < verdict.acknowledged, "nothing was synced in {CONTROL_LOAD:?}");
        }
        sums.add(&outcome);
        if sums.lost > 0 {
            break;
        }
    }
    println!("powercut control: {sums}; used {:?}", started.elapsed());
    ensure!(sums.lost > 0, "nothing was lost without syncing: the cuts cut nothing");
    Ok(())
}
