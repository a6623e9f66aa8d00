//! A master is killed, or stands still for longer than its lease, while clients write and read.

use std::time::Duration;

use anyhow::{Result, ensure};
use larder_tests::cluster::{LEASE, Plan};
use larder_tests::faults::seed;
use rustix::process::Signal;

use crate::load::Load;
use crate::support::{cluster, let_pass};

/// One way, between any two regions.
const DELAY: Duration = Duration::from_millis(5);

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
