//! Disks fail: one is full, power is cut at one node and at all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use larder_tests::cluster::writers::Writers;
use larder_tests::cluster::{Node, Plan};
use larder_tests::deadline::Deadline;
use larder_tests::faults::seed;
use larder_tests::loopmount::{self, CutKind, LoopMount};
use larder_tests::process::skip;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value as Json;

use crate::support::{
    Alone, LOAD_DEADLINE, SOON, cluster, expect_kept, expect_same_contents, exported, let_pass,
    random_text, wait_for_value,
};

/// A disk that power is cut of.
const DISK_BYTES: u64 = 512 << 20;
/// How often power is cut again before a cluster has recovered, and how long it had power by then,
/// milliseconds.
const RELAPSES: usize = 5;
const LIT_MS: std::ops::Range<u64> = 20..1_500;
/// The disk that fills up, and what is in the way at first.
const SMALL_DISK_BYTES: u64 = 192 << 20;
const BALLAST_BYTES: usize = 124 << 20;
/// More than the small disk has room for.
const LARGE_VALUES: usize = 700;
const LARGE_BYTES: usize = 64 << 10;
/// What a slave says whose disk is nearly full, and how it ends where its log cannot be written.
const WAITS: &str = "records of the master wait for room on the disk";
const FAILED_IO: i32 = 74;

#[test]
fn a_full_disk_at_a_slave_does_not_stop_the_master_and_the_slave_comes_back() -> Result<()> {
    let Some(mut mounts) = mounts(1, SMALL_DISK_BYTES)? else { return Ok(()) };
    let mount = mounts.remove(0);
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![7; BALLAST_BYTES])?;
    std::fs::File::open(&ballast)?.sync_all()?;
    let data = BTreeMap::from([(1, mount.path().join("data"))]);
    // The mount outlives the cluster.
    let Some(mut cluster) = cluster(&Plan { data, ..Plan::three("majority") })? else {
        return Ok(());
    };
    let mut client = cluster.nodes[0].client()?;
    let writers = Writers::start(&cluster.resp(&[0]), 2, "w", "majority", cluster.journals.path())?;
    let large = random_text(LARGE_VALUES + LARGE_BYTES);
    for number in 0..LARGE_VALUES {
        client
            .expect_ok(&["SET", &format!("large:{number}"), &large[number..number + LARGE_BYTES]])
            .with_context(|| format!("after {number} large values\n{}", cluster.printed()))?;
    }
    writers.wait_for_more(200, LOAD_DEADLINE)?;
    let told = Deadline::after(SOON)
        .wait_for("the slave to tell of its full disk", || full(&mut cluster.nodes[1]))
        .with_context(|| cluster.printed())?;
    writers.wait_for_more(200, LOAD_DEADLINE)?;
    // Ended here: what a fast master writes meanwhile would fill the small disk again.
    let book = writers.finish()?;
    std::fs::remove_file(ballast)?;
    if cluster.nodes[1].server()?.exit_status()?.is_some() {
        cluster.kill(1);
        cluster.launch(1)?;
    }
    cluster.wait_until_streaming(0)?;
    let verdict = expect_kept(&cluster, 0, &book)?;
    ensure!(verdict.refused + verdict.undecided == 0, "the master did not go on: {verdict}");
    let last = LARGE_VALUES - 1;
    wait_for_value(&cluster.nodes[1], &format!("large:{last}"), &large[last..last + LARGE_BYTES])?;
    cluster.tell("a full disk at a slave, at majority", &format!("{told}; {verdict}"));
    drop(cluster);
    Ok(())
}

#[test]
fn at_majority_nothing_acknowledged_is_lost_when_power_is_cut_at_the_master_and_then_at_all()
-> Result<()> {
    let Some(mounts) = mounts(3, DISK_BYTES)? else { return Ok(()) };
    let data = mounts.iter().map(|mount| mount.path().join("data")).enumerate().collect();
    let Some(mut cluster) = cluster(&Plan { data, ..Plan::three("majority") })? else {
        return Ok(());
    };
    let nodes = cluster.resp(&[0, 1, 2]);
    let writers = Writers::start(&nodes, 6, "one", "majority", cluster.journals.path())?;
    writers.wait_for_more(1_000, LOAD_DEADLINE)?;
    mounts[0].arm()?.cut(CutKind::Everything)?;
    cluster.kill(0);
    let master = cluster.promote(1)?;
    writers.wait_for_more(500, LOAD_DEADLINE)?;
    mounts[0].remount()?;
    cluster.launch(0)?;
    cluster.wait_until_streaming(master)?;
    let verdict = expect_kept(&cluster, master, &writers.finish()?)?;
    cluster.tell("power cut at the master, at majority", &verdict.to_string());

    let writers = Writers::start(&nodes, 6, "all", "majority", cluster.journals.path())?;
    writers.wait_for_more(1_000, LOAD_DEADLINE)?;
    let (cut, until) = black_out(&mut cluster, &mounts, Duration::ZERO)?;
    for index in 0..3 {
        cluster.launch(index)?;
    }
    cluster.wait_until_streaming(master)?;
    writers.wait_for_more(100, LOAD_DEADLINE)?;
    let mut book = writers.finish()?;
    // What a sync under way at the cut was answered with says nothing (see `loopmount`).
    book.doubt(cut, until);
    let verdict = expect_kept(&cluster, master, &book)?;
    cluster.tell("power cut at all nodes, at majority", &verdict.to_string());
    drop(cluster);
    Ok(())
}

#[test]
fn at_majority_nothing_acknowledged_is_lost_when_power_is_cut_again_while_nodes_recover_and_rewind()
-> Result<()> {
    let Some(mounts) = mounts(3, DISK_BYTES)? else { return Ok(()) };
    let data = mounts.iter().map(|mount| mount.path().join("data")).enumerate().collect();
    let Some(mut cluster) = cluster(&Plan { data, ..Plan::three("majority") })? else {
        return Ok(());
    };
    let seed = seed();
    println!("replication: LARDER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let nodes = cluster.resp(&[0, 1, 2]);
    let writers = Writers::start(&nodes, 6, "w", "majority", cluster.journals.path())?;
    writers.wait_for_more(1_000, LOAD_DEADLINE)?;
    // What the master appends from here on it has to take back behind another one.
    cluster.cut_off(0)?;
    let next = cluster.nodes[0].get("/replication")?["tail"].as_u64().context("a tail")?;
    let mut client = cluster.nodes[0].client()?;
    client.send_raw(b"*3\r\n$3\r\nSET\r\n$5\r\nalone\r\n$1\r\n1\r\n")?;
    let ahead = |view: &Json| view["durable"].as_u64() >= Some(next);
    cluster.wait_for_view(0, "a record that nobody else has", SOON, ahead)?;
    mounts[0].arm()?.cut(CutKind::Everything)?;
    cluster.kill(0);
    let master = cluster.promote(1)?;
    writers.wait_for_more(300, LOAD_DEADLINE)?;
    mounts[0].remount()?;
    let mut dark = Vec::new();
    for _ in 0..RELAPSES {
        let lit = Duration::from_millis(random.random_range(LIT_MS));
        dark.push(black_out(&mut cluster, &mounts, lit)?);
    }
    for index in 0..3 {
        cluster.launch(index)?;
    }
    cluster.wait_until_streaming(master)?;
    writers.wait_for_more(100, LOAD_DEADLINE)?;
    let mut book = writers.finish()?;
    for (cut, until) in dark {
        book.doubt(cut, until);
    }
    let verdict = expect_kept(&cluster, master, &book)?;
    let keys = expect_same_contents(&cluster, master)?;
    let parted = exported(&cluster.nodes[0])?.len();
    ensure!(parted > 0, "the old master had nothing to take back");
    cluster.tell(
        &format!("power cut at the master, then {RELAPSES} times at all nodes as they start"),
        &format!("{verdict}; {parted} keys taken back; {keys} keys, the same at every node"),
    );
    drop(cluster);
    Ok(())
}

/// What a node has told of its full disk; `None` where it has told nothing, or has room for all of it.
fn full(node: &mut Node) -> Result<Option<&'static str>> {
    if let Some(status) = node.server()?.exit_status()? {
        ensure!(status.code() == Some(FAILED_IO), "it ended with {status}:\n{}", node.printed());
        return Ok(Some("it ended"));
    }
    let last = format!("large:{}", LARGE_VALUES - 1);
    let read = node.client().and_then(|mut client| client.call(&["GET", &last]));
    let lacks = read.is_ok_and(|reply| reply.text().len() != LARGE_BYTES);
    Ok((lacks && node.printed().contains(WAITS)).then_some("it waited for room"))
}

/// Starts the nodes that do not run, cuts the power of all of them meanwhile or soon after, and
/// gives it back. Returns when it was dark.
fn black_out(
    cluster: &mut Alone,
    mounts: &[LoopMount],
    lit: Duration,
) -> Result<(Instant, Instant)> {
    let switches = mounts.iter().map(LoopMount::arm).collect::<Result<Vec<_>>>()?;
    let cutting = std::thread::spawn(move || {
        let_pass(lit)?;
        let cut = Instant::now();
        for switch in switches {
            switch.cut(CutKind::Everything)?;
        }
        Ok((cut, Instant::now()))
    });
    for index in 0..3 {
        if !cluster.nodes[index].is_running() {
            // It may have no power any more before it is ready.
            let _ = cluster.launch(index);
        }
    }
    let dark = cutting.join().map_err(|_| anyhow!("nobody cut the power"))?;
    for index in 0..3 {
        cluster.kill(index);
    }
    for mount in mounts {
        mount.remount()?;
    }
    dark
}

/// File systems of their own; `None` where they cannot be made.
fn mounts(count: usize, bytes: u64) -> Result<Option<Vec<LoopMount>>> {
    if let Err(missing) = loopmount::available() {
        skip("replication: disks", &missing);
        return Ok(None);
    }
    (0..count).map(|_| LoopMount::create(bytes)).collect::<Result<Vec<_>>>().map(Some)
}
