//! A master is killed, or stands still for longer than its lease, or all nodes are killed, while clients write
//! and read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use larder_tests::cluster::writers::Writers;
use larder_tests::cluster::{LEASE, Node, Plan};
use larder_tests::faults::seed;
use rustix::process::Signal;

use crate::load::Load;
use crate::support::{LOAD_DEADLINE, cluster, expect_kept, let_pass};

/// One way, between any two regions.
const DELAY: Duration = Duration::from_millis(5);
/// What may stay unfolded, before all nodes are killed and after that.
const ROOMY: &str = "layer_bytes = 67108864";
const TIGHT: &str = "layer_bytes = 65536\nunapplied_bytes_max = 65536";

#[test]
fn at_majority_nothing_acknowledged_is_lost_with_the_master_and_keys_stay_linearizable()
-> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    cluster.delay(DELAY)?;
    let load = Load::start(&cluster, seed())?;
    load.wait_for_more(200)?;
    cluster.kill(0);
    let master = cluster.promote(1)?;
    load.wait_for_more(200)?;
    // The old master comes back under load as a slave; then the new one is lost too.
    cluster.launch(0)?;
    cluster.wait_until_streaming(master)?;
    cluster.kill(master);
    let other = 3 - master;
    let last = cluster.promote(other)?;
    load.wait_for_more(200)?;
    cluster.launch(master)?;
    cluster.wait_until_streaming(last)?;
    load.finish(&cluster, last, "kill -9 of the master, twice, at majority")
}

#[test]
fn at_all_nodes_that_were_killed_and_replay_more_than_may_stay_unfolded_commit_again() -> Result<()>
{
    let Some(mut cluster) = cluster(&Plan { state: ROOMY, ..Plan::three("all") })? else {
        return Ok(());
    };
    let nodes = cluster.resp(&[0, 1, 2]);
    let writers = Writers::start(&nodes, 6, "w", "all", cluster.journals.path())?;
    writers.wait_for_more(3_000, LOAD_DEADLINE)?;
    (0..3).for_each(|index| cluster.kill(index));
    for index in 0..3 {
        let file = cluster.nodes[index].configuration();
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replace(ROOMY, TIGHT))?;
        cluster.launch(index)?;
        let replayed = replayed(&cluster.nodes[index])?;
        ensure!(replayed >= 3_000, "{replayed} records were replayed");
    }
    cluster.wait_until_streaming(0)?;
    writers.wait_for_more(500, LOAD_DEADLINE)?;
    let verdict = expect_kept(&cluster, 0, &writers.finish()?)?;
    cluster.tell("kill -9 of all nodes, at all", &verdict.to_string());
    Ok(())
}

#[test]
fn a_master_that_stands_still_for_longer_than_its_lease_acknowledges_nothing_more() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    cluster.delay(DELAY)?;
    let load = Load::start(&cluster, seed())?;
    load.wait_for_more(200)?;
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "a", "1"])?;
    cluster.nodes[0].signal(Signal::STOP)?;
    let master = cluster.promote(1)?;
    cluster.wait_for_members(master, &[1, 2])?;
    cluster.nodes[master].client()?.expect_ok(&["SET", "a", "2"])?;
    // What a client asks of it now is answered when it goes on, long after its lease.
    client.send_raw(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n3\r\n")?;
    load.wait_for_more(100)?;
    cluster.nodes[0].signal(Signal::CONT)?;
    let (read, written) = (client.reply()?.reply, client.reply()?.reply);
    ensure!(read.is_error() || read.text() == b"2", "a stale read: {}", read.describe());
    ensure!(written.is_error(), "two masters acknowledge: {}", written.describe());
    load.wait_for_more(100)?;
    cluster.wait_until_streaming(master)?;
    // It may be stopped for a moment without losing its part.
    let before = cluster.nodes[master].get("/replication")?["term"].clone();
    cluster.nodes[master].signal(Signal::STOP)?;
    let_pass(LEASE / 5)?;
    cluster.nodes[master].signal(Signal::CONT)?;
    load.wait_for_more(100)?;
    ensure!(cluster.nodes[master].get("/replication")?["term"] == before, "another term");
    load.finish(&cluster, master, "SIGSTOP of the master for longer than a lease, at majority")
}

/// Records that the node's start replayed.
fn replayed(node: &Node) -> Result<u64> {
    let metrics = node.get("/metrics")?;
    let line = |line: &str| line.strip_prefix("larder_opening_replayed_records ")?.parse().ok();
    let found = metrics.as_str().and_then(|metrics| metrics.lines().find_map(line));
    found.with_context(|| format!("no count in {metrics}"))
}
