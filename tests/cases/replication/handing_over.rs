//! A master hands over in order, under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use larder_tests::cluster::Plan;
use larder_tests::cluster::writers::Writers;
use serde_json::json;

use crate::support::{LOAD_DEADLINE, cluster, expect_kept};

/// A switchover may refuse writes for so long.
const REFUSED_MAX: Duration = Duration::from_millis(500);
/// One way, between any two regions.
const DELAY: Duration = Duration::from_millis(15);

#[test]
fn a_switchover_under_load_loses_nothing_and_refuses_writes_for_at_most_half_a_second() -> Result<()>
{
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    cluster.delay(DELAY)?;
    let writers =
        Writers::start(&cluster.resp(&[0, 1, 2]), 4, "w", "local", cluster.journals.path())?;
    let mut master = 0;
    for next in [1, 2, 0] {
        writers.wait_for_more(300, LOAD_DEADLINE)?;
        let to = json!({"to": cluster.nodes[next].name});
        cluster.nodes[master].send("POST", "/replication/switchover", &to)?;
        cluster.wait_until_streaming(next)?;
        master = next;
    }
    writers.wait_for_more(300, LOAD_DEADLINE)?;
    let book = writers.finish()?;
    let verdict = expect_kept(&cluster, master, &book)?;
    let silence = book.longest_silence();
    cluster
        .tell("three switchovers at local", &format!("{verdict}; no write taken for {silence:?}"));
    ensure!(verdict.undecided == 0, "a switchover leaves nobody in doubt: {verdict}");
    ensure!(silence <= REFUSED_MAX, "no write was taken for {silence:?}");
    Ok(())
}
