//! A slave's state differs from the master's, as after a flipped bit that no checksum covers: digests
//! tell.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use larder_storage::row::string_row;
use larder_storage::state::{Database, DatabaseOptions, FoldBatch};
use larder_tests::cluster::{Plan, member};
use larder_tests::faults::store::terminate;
use serde_json::Value as Json;

use crate::support::{
    SOON, cluster, expect_same_contents, full_syncs, pour, wait_for_value, write_keys,
};

/// Records between two digests.
const DIGEST_RECORDS: u64 = 1_000;
const DIGESTS: &str = "digest_records = 1000";
/// The slave, and the key that it has wrong.
const SLAVE: usize = 2;
const KEY: &str = "key7";

#[test]
fn a_slave_whose_state_differs_is_noticed_set_aside_and_mended_by_a_snapshot() -> Result<()> {
    let plan = Plan { replication: DIGESTS, ..Plan::three("majority") };
    let Some(mut cluster) = cluster(&plan)? else { return Ok(()) };
    let name = cluster.nodes[SLAVE].name;
    write_keys(&mut cluster.nodes[0].client()?, "key", 500)?;
    wait_for_value(&cluster.nodes[SLAVE], "key499", "499")?;
    terminate(cluster.nodes[SLAVE].server()?)?;
    cluster.nodes[SLAVE].server()?.wait_until_ended()?;
    cluster.kill(SLAVE);
    alter(&cluster.nodes[SLAVE].data().join("state"))?;
    cluster.launch(SLAVE)?;
    cluster.wait_until_streaming(0)?;
    // Neither the start nor the log notices.
    wait_for_value(&cluster.nodes[SLAVE], KEY, "altered")?;

    // One burst, which passes the place of one digest at once.
    let last = cluster.nodes[0].get("/replication")?["durable"].as_u64().context("no tail")?;
    ensure!(last < DIGEST_RECORDS, "the place of a digest was passed before: {last}");
    let count = usize::try_from(DIGEST_RECORDS - last)? + 100;
    pour(&mut cluster.nodes[0].client()?, "more", count, |number| number.to_string())?;
    let aside = |view: &Json| member(view, name)["state"] == "set-aside";
    cluster.wait_for_view(0, "the slave to be set aside", SOON, aside)?;
    let view = cluster.nodes[0].get("/replication")?;
    ensure!(view["alerts"].to_string().contains(name), "{view}");
    let read = cluster.nodes[SLAVE].client()?.call(&["GET", KEY])?;
    ensure!(read.is_error(), "what differs is served: {}", read.describe());
    let other = member(&view, cluster.nodes[1].name);
    ensure!(other["state"] == "streaming", "the other slave is the same: {other}");

    let before = full_syncs(&cluster, SLAVE)?;
    cluster.nodes[0].kv(&["replica", "resync", name])?;
    let mended = |view: &Json| {
        let slave = member(view, name);
        slave["state"] == "streaming" && slave["full_syncs"].as_u64() > Some(before)
    };
    cluster.wait_for_view(0, "a snapshot to mend it", SOON, mended)?;
    wait_for_value(&cluster.nodes[SLAVE], KEY, "7")?;
    let keys = expect_same_contents(&cluster, 0)?;
    cluster.tell(
        "a slave's state differs",
        &format!("set aside with an alert, mended; {keys} keys, the same at every node"),
    );
    Ok(())
}

/// Gives a key another value at the position where the state stands, behind everybody's back.
fn alter(state: &Path) -> Result<()> {
    let database = Database::open(state, &DatabaseOptions::new(8 << 20, 8 << 20))?;
    let applied = database.applied()?.context("nothing was applied")?;
    let mut batch = FoldBatch::new();
    batch.put_row(KEY.as_bytes(), &string_row(applied.hybrid, None, b"altered"));
    database.fold(batch, applied)?;
    database.flush()?;
    Ok(())
}
