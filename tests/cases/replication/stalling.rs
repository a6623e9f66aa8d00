//! A slave stands still for a minute, under load, while the line to the other one is bad as well.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use larder_tests::cluster::Plan;
use larder_tests::cluster::writers::Writers;
use larder_tests::faults::seed;
use larder_tests::hostile::resident_bytes;
use rustix::process::Signal;

use crate::shaking::shake;
use crate::support::{
    LOAD_DEADLINE, cluster, expect_kept, full_syncs, let_pass, pour, random_text, wait_for_value,
};

/// How long a slave reads nothing.
const UNREAD: Duration = Duration::from_secs(60);
/// How long writes are counted, with the slave and without it.
const COUNTED: Duration = Duration::from_secs(5);
/// What an acknowledgement at `local` may take meanwhile, on a busy machine.
const SLOWEST_MAX: Duration = Duration::from_secs(1);
/// Written while the slave stands: more than the master may keep in memory for it.
const LARGE_VALUES: usize = 4_000;
const LARGE_BYTES: usize = 64 << 10;
/// How much more memory the master may have resident than with the slave, once the same was written
/// and in the end.
const MORE_BYTES_MAX: u64 = 128 << 20;

#[test]
fn a_slave_that_reads_nothing_for_a_minute_neither_slows_the_master_nor_fills_its_memory()
-> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let seed = seed();
    println!("replication: LARDER_SEED={seed}");
    let pid = cluster.nodes[0].server()?.pid();
    let writers = Writers::start(&cluster.resp(&[0]), 4, "w", "local", cluster.journals.path())?;
    writers.wait_for_more(1_000, LOAD_DEADLINE)?;
    let count = |writers: &Writers| -> Result<usize> {
        let before = writers.acknowledged();
        let_pass(COUNTED)?;
        Ok(writers.acknowledged() - before)
    };
    let text = random_text(LARGE_VALUES + LARGE_BYTES);
    let large = |number: usize| text[number..number + LARGE_BYTES].to_owned();
    // The same load with the slave: what the master needs for the load itself.
    pour(&mut cluster.nodes[0].client()?, "large:", LARGE_VALUES, large)?;
    let poured_with = resident_bytes(pid)?;
    let with = count(&writers)?;
    let (before, syncs) = (resident_bytes(pid)?.max(poured_with), full_syncs(&cluster, 2)?);
    cluster.nodes[2].signal(Signal::STOP)?;
    let stopped = Instant::now();
    pour(&mut cluster.nodes[0].client()?, "more:", LARGE_VALUES, large)?;
    let poured = resident_bytes(pid)?;
    let without = count(&writers)?;
    shake(&cluster, &[0, 1], UNREAD.saturating_sub(stopped.elapsed()), seed)?;
    let (after, continued) = (resident_bytes(pid)?, Instant::now());
    cluster.nodes[2].signal(Signal::CONT)?;
    let book = writers.finish()?;
    cluster.wait_until_streaming(0)?;
    wait_for_value(
        &cluster.nodes[2],
        &format!("more:{}", LARGE_VALUES - 1),
        &large(LARGE_VALUES - 1),
    )?;
    let caught_up = continued.elapsed();
    let verdict = expect_kept(&cluster, 0, &book)?;
    let slowest = book.slowest(stopped, continued);
    let more = poured.max(after).saturating_sub(before);
    cluster.tell(
        "a slave stopped for a minute at local",
        &format!(
            "{verdict}; {with} writes in {COUNTED:?} with it, {without} without, slowest \
             {slowest:?}; {} MiB resident more at the master; caught up within {caught_up:?}",
            more >> 20
        ),
    );
    ensure!(3 * without >= with, "{without} writes beside a slave that stands, {with} before");
    ensure!(slowest <= SLOWEST_MAX, "a write took {slowest:?}");
    ensure!(
        more <= MORE_BYTES_MAX,
        "{before} bytes were resident, then {poured}, {after} after the minute"
    );
    ensure!(full_syncs(&cluster, 2)? == syncs, "it was given a snapshot");
    Ok(())
}
