//! Faults against a real `kvd`: full disks, failing syncs, flipped bits, kills, stops, and data
//! directories that are not to be opened.
//!
//! `LARDER_SEED` repeats a run's operations and flips.

mod bits;
mod disk;
mod kills;
mod refusals;
mod sync;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use larder_tests::faults::seed;
use larder_tests::process::{kvd_path, skip};

/// The exit code after an I/O error on the log.
const EXIT_IO: i32 = 74;
/// The exit code for damaged data.
const EXIT_DAMAGED: i32 = 65;

type Case = (&'static str, fn(&Path, u64) -> Result<()>);

/// One after the other: they measure time and share two cores.
const CASES: &[Case] = &[
    ("a second instance is refused by the lock", refusals::a_second_instance),
    ("a format of the future is refused", refusals::a_format_of_the_future),
    ("SIGTERM drains and the restart replays nothing", kills::a_stop_under_load),
    ("kills under load lose nothing", kills::a_storm_of_kills),
    ("a failed sync ends the process", sync::a_failed_sync),
    ("a failed write ends the process", sync::a_failed_write),
    ("a disk that fills up refuses writes until there is room", disk::a_disk_that_fills_up),
    ("a disk of overwrites keeps room for compactions", disk::a_disk_of_overwrites),
    ("a full disk ends the process", disk::a_full_disk),
    ("a flipped bit never shows as wrong data", bits::flipped_bits),
];

#[test]
fn no_fault_loses_or_alters_what_was_acknowledged() -> Result<()> {
    let binary = match kvd_path() {
        Ok(binary) => binary,
        Err(missing) => {
            skip("faults", &missing);
            return Ok(());
        }
    };
    let started = Instant::now();
    let seed = seed();
    println!("faults: LARDER_SEED={seed}, {}", binary.display());
    let chosen = std::env::var("LARDER_FAULT").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&chosen)) {
        let began = Instant::now();
        let outcome = case(&binary, seed);
        println!(
            "{name}: {} in {:?}",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            began.elapsed()
        );
        if let Err(error) = outcome {
            println!("  {error:?}");
            failed.push(*name);
        }
    }
    println!("faults: used {:?}", started.elapsed());
    ensure!(failed.is_empty(), "with LARDER_SEED={seed}: {}", failed.join("; "));
    Ok(())
}
