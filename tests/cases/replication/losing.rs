//! The control: acknowledged writes are lost for certain, and the checkers, which find nothing wrong in
//! the other stories, find it here.

use anyhow::{Result, ensure};
use larder_tests::client::Client;
use larder_tests::cluster::registers::{Histories, Registers};
use larder_tests::cluster::writers::Writers;
use larder_tests::cluster::{Cluster, Node, Plan};
use larder_tests::deadline::Deadline;
use larder_tests::linearizability::{Action, Operation, STEPS_MAX, Summary};

use serde_json::json;

use crate::support::{LOAD_DEADLINE, SOON, cluster, expect_same, exported, pour};

/// Acknowledged by the old master alone, at least.
const LOST_MIN: usize = 100;
/// Keys with a history.
const KEYS: usize = 3;

#[test]
fn what_a_master_acknowledges_that_is_cut_off_is_found_lost_behind_a_forced_promotion() -> Result<()>
{
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let old = cluster.resp(&[0]);
    let writers = Writers::start(&old, 1, "w", "local", cluster.journals.path())?;
    let registers = Registers::start(&old, KEYS, 1, 0);
    writers.wait_for_more(500, LOAD_DEADLINE)?;
    cluster.cut_off(0)?;
    let mut early = cluster.nodes[0].client()?;
    early.expect_ok(&["SET", "early", "1"])?;
    writers.wait_for_more(LOST_MIN, LOAD_DEADLINE)?;
    registers.wait_for_more(LOST_MIN, LOAD_DEADLINE)?;
    let master = cluster.promote_by_force(1)?;
    // Two masters by now, of which the old one goes on at `local`.
    writers.wait_for_more(LOST_MIN, LOAD_DEADLINE)?;
    let (book, mut histories) = (writers.finish()?, registers.finish()?);
    cluster.nodes[master].client()?.expect_ok(&["SET", "after", "1"])?;
    cluster.heal()?;
    cluster.wait_until_streaming(master)?;

    let verdict = expect_same(&cluster, master, &book)?;
    ensure!(verdict.lost >= 2 * LOST_MIN, "the checker finds too little lost: {verdict}");
    ensure!(verdict.expect_nothing_lost().is_err(), "the checker lets it pass: {verdict}");
    read_each(&cluster.nodes[master], &mut histories)?;
    let summary = Summary::of(&histories, STEPS_MAX);
    ensure!(summary.violations.len() == KEYS, "the checker lets it pass: {summary}");
    let exported = exported(&cluster.nodes[0])?;
    let disappeared: Vec<_> =
        verdict.missing.iter().filter(|id| !exported.contains(*id)).take(5).collect();
    ensure!(disappeared.is_empty(), "lost in silence: {disappeared:?}");
    cluster.tell(
        "control: two masters at local",
        &format!(
            "{verdict}; all of these exported; {} of {KEYS} keys found not linearizable",
            summary.violations.len()
        ),
    );
    expect_not_waited_for(&cluster, master, &mut early, verdict.missing.len())
}

/// The node whose records were taken back leads again, and its log gets as far as it was. Who wrote
/// there before is not told that others have that write.
fn expect_not_waited_for(
    cluster: &Cluster,
    master: usize,
    early: &mut Client,
    missing: usize,
) -> Result<()> {
    let to = json!({"to": cluster.nodes[0].name});
    Deadline::after(SOON).wait_for("the old master to lead again", || {
        let (status, _) = cluster.nodes[master].exchange("POST", "/replication/switchover", &to)?;
        Ok((status == 200).then_some(()))
    })?;
    cluster.wait_until_streaming(0)?;
    let mut late = cluster.nodes[0].client()?;
    pour(&mut late, "late", 2 * missing + 1_000, |number| number.to_string())?;
    let replicas = |client: &mut Client, timeout| {
        Ok::<_, anyhow::Error>(client.call(&["WAIT", "2", timeout])?.integer())
    };
    ensure!(replicas(&mut late, "10000")? == Some(2));
    ensure!(early.call(&["GET", "early"])?.is_null());
    ensure!(replicas(early, "0")? == Some(0), "others have a write that was taken back");
    Ok(())
}

/// One more read of every key, after all that was done to it.
fn read_each(node: &Node, histories: &mut Histories) -> Result<()> {
    let mut client = node.client()?;
    for (key, history) in histories {
        let reply = client.expect_ok(&["GET", key])?;
        let value = std::str::from_utf8(reply.text())?.parse().ok();
        let (called, answered) = (u64::MAX - 1, Some(u64::MAX));
        history.push(Operation { action: Action::Read(value), called, answered });
    }
    Ok(())
}
