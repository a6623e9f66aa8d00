//! Many seeds.

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use larder_replication::core::Planted;

use crate::{
    marks::{Mark, Marks},
    run::{Failure, run},
};

/// Seeds of a usual run.
const SEEDS: u64 = 5_000;
/// One seed in so many is run twice.
const TWICE: u64 = 50;
/// A whole run reaches every mark; a shorter one is not asked to.
const MARKS_FROM: u64 = 2_000;

/// What many seeds have seen.
#[derive(Default)]
struct Sum {
    marks: Marks,
    acknowledged: u64,
    reads: u64,
    twice: u64,
}

#[test]
fn whatever_breaks_the_invariants_hold_and_the_cluster_comes_to_rest() {
    if let Some(seed) = setting("LARDER_SIM_SEED") {
        return run(seed, planted(), true).map(|_| ()).unwrap_or_else(|it| panic!("{}", tell(&it)));
    }
    let (first, count) = (setting("LARDER_SIM_FIRST").unwrap_or(0), setting("LARDER_SIM_SEEDS"));
    let count = count.unwrap_or(SEEDS);
    let sum = Mutex::new(Sum::default());
    let found = over(first, count, |seed| {
        let seen = run(seed, None, false)?;
        let twice = seed % TWICE == 0;
        if twice {
            same_again(seed)?;
        }
        let mut sum = sum.lock().expect("no run panics");
        sum.marks.add(&seen.marks);
        sum.acknowledged += seen.acknowledged;
        sum.reads += seen.reads;
        sum.twice += u64::from(twice);
        Ok(())
    });
    let sum = sum.into_inner().expect("no run panics");
    println!(
        "{count} seeds, {} of them twice: {} acknowledged writes, {} reads",
        sum.twice, sum.acknowledged, sum.reads
    );
    for mark in Mark::EACH {
        println!("{:>10} {mark:?}", sum.marks.count(mark));
    }
    if let Some(failure) = found {
        panic!("{}", tell(&failure));
    }
    let missed: Vec<_> = Mark::EACH.into_iter().filter(|&it| sum.marks.count(it) == 0).collect();
    assert!(count < MARKS_FROM || missed.is_empty(), "never reached: {missed:?}");
    assert!(sum.twice >= count / TWICE, "only {} were run twice", sum.twice);
}

/// The same seed does the same, to the last message.
fn same_again(seed: u64) -> Result<(), Failure> {
    let (one, other) = (run(seed, None, true)?, run(seed, None, true)?);
    let why = || "two runs of one seed differ".to_owned();
    match one.trace == other.trace {
        true => Ok(()),
        false => Err(Failure { seed, at: 0, what: "deterministic", why: why() }),
    }
}

/// Runs seeds on every core until one fails, and gives the failure with the least seed.
pub(crate) fn over(
    first: u64,
    count: u64,
    run: impl Fn(u64) -> Result<(), Failure> + Sync,
) -> Option<Failure> {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if let Err(failure) = run(seed) {
                        stop.store(true, Ordering::Relaxed);
                        failures.lock().expect("no run panics").push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().expect("no run panics").into_iter().min_by_key(|failure| failure.seed)
}

fn tell(failure: &Failure) -> String {
    let Failure { seed, at, what, why } = failure;
    format!(
        "seed {seed}, after {} ms: {what}: {why}\nreplay: LARDER_SIM_SEED={seed} \
         LARDER_SIM_TRACE=200 cargo test --release -p larder-replication --no-default-features \
         --features planted-bugs --test simulation -- --nocapture",
        at / 1_000
    )
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

/// The fault to plant in a single seed, by its name.
fn planted() -> Option<Planted> {
    let name = env::var("LARDER_SIM_PLANTED").ok()?;
    Planted::EACH.into_iter().find(|fault| format!("{fault:?}") == name)
}
