//! The control: acknowledged writes are lost for certain, and the checkers, which find nothing wrong in
//! the other stories, find it here.

use anyhow::{Result, ensure};
use larder_tests::cluster::registers::{Histories, Registers};
use larder_tests::cluster::writers::Writers;
use larder_tests::cluster::{Node, Plan};
use larder_tests::linearizability::{Action, Operation, STEPS_MAX, Summary};

use crate::support::{LOAD_DEADLINE, cluster, expect_same, exported};

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
