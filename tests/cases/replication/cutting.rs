//! Lines are cut in every way, the rest goes on, and all converge again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::cluster::writers::Writers;
use larder_tests::cluster::{Cut, Plan, member};
use larder_tests::deadline::Deadline;

use crate::support::{LOAD_DEADLINE, SOON, cluster, expect_kept};

/// A path on which nothing comes is noticed within this time.
const NOTICED_MAX: Duration = Duration::from_secs(3);

#[test]
fn whichever_line_is_cut_writes_go_on_at_majority_and_all_converge_after_it_is_healed() -> Result<()>
{
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let writers = Writers::start(&cluster.resp(&[0]), 1, "w", "majority", cluster.journals.path())?;
    let mut noticed_last = Duration::ZERO;
    let cuts = [
        (0, 1, Cut::Both),
        (0, 2, Cut::Both),
        (1, 2, Cut::Both),
        (0, 1, Cut::OneWay),
        (2, 0, Cut::OneWay),
    ];
    for (from, to, cut) in cuts {
        let cutting = Instant::now();
        cluster.cut(from, to, cut)?;
        if from == 0 || to == 0 {
            let slave = cluster.nodes[from.max(to)].name;
            let lost = |view: &serde_json::Value| member(view, slave)["state"] == "disconnected";
            cluster
                .wait_for_view(0, "the dead path to be noticed", NOTICED_MAX, lost)
                .with_context(|| format!("{cut:?} from {from} to {to}"))?;
            noticed_last = noticed_last.max(cutting.elapsed());
        }
        writers.wait_for_more(100, LOAD_DEADLINE)?;
        cluster.heal()?;
        cluster.wait_until_streaming(0)?;
    }
    let verdict = expect_kept(&cluster, 0, &writers.finish()?)?;
    cluster.tell(
        "three lines cut both ways and two one way, at majority",
        &format!("{verdict}; dead paths noticed within {noticed_last:?}"),
    );
    Ok(())
}

#[test]
fn a_master_that_hears_nobody_acknowledges_nothing_and_says_what_is_not_known() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "a", "1"])?;
    cluster.cut_off(0)?;
    let began = Instant::now();
    let reply = client.call(&["SET", "a", "2"])?;
    let text = String::from_utf8_lossy(reply.text()).into_owned();
    ensure!(text.starts_with("UNDECIDED ") && text.contains("may yet be applied"), "{text}");
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(5), "it was answered only after {took:?}");
    let read = Deadline::after(SOON).wait_for("a read without a lease to be refused", || {
        let reply = client.call(&["GET", "a"])?;
        Ok(reply.is_error().then_some(reply))
    })?;
    ensure!(read.text().starts_with(b"TRYAGAIN "), "{}", read.describe());
    cluster.heal()?;
    Deadline::after(SOON).wait_for("the write to be applied after all", || {
        let reply = client.call(&["GET", "a"])?;
        Ok((reply.text() == b"2").then_some(()))
    })?;
    cluster
        .tell("a master cut off, at majority", &format!("undecided after {took:?}, then applied"));
    Ok(())
}
