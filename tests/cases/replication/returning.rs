//! Slaves come back: far behind, or with nothing at all.

use anyhow::{Result, ensure};
use larder_tests::cluster::{Cluster, Plan, member};
use larder_tests::deadline::Deadline;

use crate::support::{SOON, cluster, expect_keys, full_syncs, pour, wait_for_value, write_keys};

/// Records that a slave is behind.
const BEHIND: usize = 20_000;
/// The same, of the slave whose records are no longer kept.
const BEYOND: usize = 6_000;
/// Bytes of each.
const VALUE_BYTES: usize = 1_000;
/// Small, so that the memory of the log's tail and what is kept of it are soon passed.
const LOG: &str = "segment_bytes = 1048576";
const STATE: &str = "layer_bytes = 1048576";

#[test]
fn a_slave_that_was_away_streams_what_it_missed_from_the_masters_disk() -> Result<()> {
    let plan = Plan { log: LOG, state: STATE, ..Plan::three("local") };
    let Some(mut cluster) = cluster(&plan)? else { return Ok(()) };
    write_keys(&mut cluster.nodes[0].client()?, "before", 100)?;
    wait_for_value(&cluster.nodes[2], "before99", "99")?;
    let before = full_syncs(&cluster, 2)?;
    cluster.kill(2);
    pour(&mut cluster.nodes[0].client()?, "missed", BEHIND, value)?;
    cluster.launch(2)?;
    cluster.wait_until_streaming(0)?;
    expect_same(&cluster, "missed", BEHIND)?;
    expect_keys(&mut cluster.nodes[2].client()?, "before", 100)?;
    let after = full_syncs(&cluster, 2)?;
    ensure!(after == before, "it was given a snapshot: {before} full syncs before, {after} after");
    cluster.tell("a slave far behind", &format!("{BEHIND} records streamed, no full sync"));
    Ok(())
}

#[test]
fn a_slave_with_an_empty_directory_is_given_a_snapshot_and_admitted_anew() -> Result<()> {
    let replication = "retain_bytes_max = \"1 MiB\"";
    let plan = Plan { log: LOG, state: STATE, replication, ..Plan::three("majority") };
    let Some(mut cluster) = cluster(&plan)? else { return Ok(()) };
    write_keys(&mut cluster.nodes[0].client()?, "before", 100)?;
    cluster.kill(2);
    std::fs::remove_dir_all(cluster.nodes[2].data())?;
    pour(&mut cluster.nodes[0].client()?, "missed", BEYOND, value)?;
    let detached = |view: &serde_json::Value| member(view, "shanghai-1")["detached"] == true;
    cluster.wait_for_view(0, "the slave to be detached", SOON, detached)?;
    cluster.launch(2)?;
    cluster.wait_until_streaming(0)?;
    expect_same(&cluster, "missed", BEYOND)?;
    expect_keys(&mut cluster.nodes[2].client()?, "before", 100)?;
    let view = cluster.nodes[0].get("/replication")?;
    let slave = member(&view, cluster.nodes[2].name);
    ensure!(slave["voter"] == true && slave["detached"] == false, "{slave}");
    ensure!(full_syncs(&cluster, 2)? >= 1, "it was given no snapshot: {slave}");
    // Its word counts again: with the other slave away it makes the majority.
    cluster.kill(1);
    write_keys(&mut cluster.nodes[0].client()?, "after", 20)?;
    cluster.kill(0);
    cluster.launch(1)?;
    let master = cluster.promote(2)?;
    cluster.wait_for_members(master, &[1, 2])?;
    expect_keys(&mut cluster.nodes[master].client()?, "after", 20)?;
    cluster.tell("an empty directory", "one full sync, admitted anew, and then promoted");
    Ok(())
}

fn value(number: usize) -> String {
    format!("{number:0VALUE_BYTES$}")
}

/// Waits until the last key is at the third node, and compares some of the rest.
fn expect_same(cluster: &Cluster, prefix: &str, count: usize) -> Result<()> {
    let mut client = cluster.nodes[2].client()?;
    let last = format!("{prefix}{}", count - 1);
    Deadline::after(SOON).wait_for("the last key", || {
        let reply = client.call(&["GET", &last])?;
        Ok((reply.text() == value(count - 1).as_bytes()).then_some(()))
    })?;
    for number in (0..count).step_by(97) {
        let reply = client.call(&["GET", &format!("{prefix}{number}")])?;
        ensure!(reply.text() == value(number).as_bytes(), "{prefix}{number}: {}", reply.describe());
    }
    let (here, there) =
        (client.expect_ok(&["DBSIZE"])?, cluster.nodes[0].client()?.expect_ok(&["DBSIZE"])?);
    ensure!(here == there, "{} keys, {} at the master", here.describe(), there.describe());
    Ok(())
}
