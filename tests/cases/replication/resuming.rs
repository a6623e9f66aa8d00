//! A snapshot breaks off, and goes on where it was.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use larder_storage::AtomicFile;
use larder_storage::fs::RealFs;
use larder_storage::snapshot::{MANIFEST_BYTES_MAX, Manifest};
use larder_tests::cluster::{Cluster, Plan, THREE, member};
use larder_tests::deadline::Deadline;
use serde_json::{Value as Json, json};

use crate::support::{SOON, cluster, pour, random_text, wait_for_value};

/// What the master holds, as values that do not compress.
const VALUES: usize = 3_000;
const VALUE_BYTES: usize = 64 << 10;
/// Of the line, bytes a second.
const RATE: u64 = 40 << 20;
/// So that nothing is kept of the log that the snapshot holds.
const LOG: &str = "segment_bytes = 1048576";
const STATE: &str = "layer_bytes = 1048576";
const RETAIN: &str = "retain_bytes_max = \"1 MiB\"";

#[test]
fn a_snapshot_that_breaks_off_goes_on_where_it_was() -> Result<()> {
    let nodes = THREE[..2].to_vec();
    let plan = Plan { nodes, log: LOG, state: STATE, replication: RETAIN, ..Plan::three("local") };
    let Some(mut cluster) = cluster(&plan)? else { return Ok(()) };
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.nodes[1].data())?;
    let text = random_text(VALUES + VALUE_BYTES);
    let value = |number: usize| text[number..number + VALUE_BYTES].to_owned();
    pour(&mut cluster.nodes[0].client()?, "large:", VALUES, value)?;
    let rate = json!({"rate_bytes_per_s": RATE});
    cluster.shape(0, 1, &rate)?;
    cluster.launch(1)?;

    let data = cluster.nodes[1].data().to_owned();
    Deadline::after(SOON).wait_for("half of the snapshot", || {
        Ok(incoming(&data)?.filter(|come| 2 * come.bytes >= come.of))
    })?;
    cluster.cut_off(0)?;
    let slave = cluster.nodes[1].name;
    let gone = |view: &Json| member(view, slave)["session_age_ms"].is_null();
    cluster.wait_for_view(0, "the break to be noticed", SOON, gone)?;
    let come = incoming(&data)?.context("what had come is gone")?;
    let carried = carried_bytes(&cluster)?;
    cluster.shape(0, 1, &rate)?;
    let again = Deadline::after(SOON).wait_for("the snapshot to go on", || {
        Ok(incoming(&data)?.filter(|again| again.id != come.id || again.bytes > come.bytes))
    })?;
    ensure!(again.id == come.id, "another snapshot was begun: {again:?} after {come:?}");
    cluster.wait_until_streaming(0)?;
    let carried = carried_bytes(&cluster)? - carried;
    for number in (0..VALUES).step_by(571) {
        wait_for_value(&cluster.nodes[1], &format!("large:{number}"), &value(number))?;
    }
    let missing = come.of - come.bytes;
    cluster.tell(
        "a snapshot breaks off",
        &format!(
            "{} of {} MiB had come; {} MiB were carried after that",
            come.bytes >> 20,
            come.of >> 20,
            carried >> 20
        ),
    );
    // The log behind the snapshot comes as well, and what the line drops for its rate once more.
    ensure!(carried < missing + come.bytes / 2, "{carried} bytes were carried for {missing}");
    Ok(())
}

/// What has come of a snapshot.
#[derive(Debug)]
struct Come {
    id: u64,
    bytes: u64,
    of: u64,
}

/// What has come of a snapshot at a data directory; `None` where none has begun.
fn incoming(data: &Path) -> Result<Option<Come>> {
    let dir = data.join("incoming");
    let file = AtomicFile::new(&dir, "MANIFEST", 1, 2 * MANIFEST_BYTES_MAX as u64);
    let Some(manifest) = file.read::<Manifest>(&RealFs)? else { return Ok(None) };
    let lengths = manifest.files.iter().map(|file| {
        std::fs::metadata(dir.join("state").join(&file.name)).map_or(0, |found| found.len())
    });
    Ok(Some(Come { id: manifest.id, bytes: lengths.sum(), of: manifest.bytes() }))
}

/// Bytes that the master's line to the slave has carried.
fn carried_bytes(cluster: &Cluster) -> Result<u64> {
    let lines = cluster.nodes[0].get("/lab/shapes")?;
    lines[0]["carried_bytes"].as_u64().with_context(|| format!("no count in {lines}"))
}
