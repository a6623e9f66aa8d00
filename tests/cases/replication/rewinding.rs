//! A node is killed while it rewinds, and goes on with it when it starts again; one whose records
//! cannot be taken back takes a snapshot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use larder_storage::Directory;
use larder_storage::rewind::{Rewind, Scope};
use larder_storage::state::DatabaseOptions;
use larder_tests::client::Client;
use larder_tests::cluster::{Cluster, Node, Plan};
use larder_tests::deadline::Deadline;
use larder_types::SequenceNumber;
use serde_json::json;

use crate::support::{
    Alone, SOON, cluster, expect_same_contents, full_syncs_by, let_pass, pour, random_text,
    wait_for_value,
};

/// Keys that the old master alone has written, and of which the new one has other values.
const PARTED: usize = 2_000;
/// Bytes of each.
const VALUE_BYTES: usize = 8 << 10;
/// So that what parts has been folded into the state.
const STATE: &str = "layer_bytes = 1048576";
/// Of the line from the new master, bytes a second: what it has is fetched for longer than any life
/// but the last lasts.
const RATE: u64 = 3 << 20;
/// How long a node lives after its rewind has begun.
const LIVES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(1_500),
];

#[test]
fn a_node_that_is_killed_while_it_rewinds_goes_on_with_it_at_every_start() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan { state: STATE, ..Plan::three("local") })? else {
        return Ok(());
    };
    let text = random_text(PARTED + VALUE_BYTES + 1);
    let value = |number: usize| text[number..number + VALUE_BYTES].to_owned();
    let write = |client: &mut Client| pour(client, "key:", PARTED, |number| value(number + 1));
    let (master, _) = part(&mut cluster, value, write)?;
    cluster.shape_one_way(master, 0, &json!({"rate_bytes_per_s": RATE}))?;
    let marker = cluster.nodes[0].data().join("REWIND");
    let mut killed = Vec::new();
    for life in LIVES {
        cluster.spawn(0)?;
        Deadline::after(SOON)
            .wait_for("the rewind to begin", || Ok(marker.exists().then_some(())))?;
        let_pass(life)?;
        cluster.kill(0);
        killed.push(stage(&cluster.nodes[0])?);
    }
    ensure!(killed.last() == Some(&"fetching"), "it was not killed as it fetched: {killed:?}");
    cluster.launch(0)?;
    cluster.wait_until_streaming(master)?;
    cluster.heal()?;
    expect_no_snapshot(&cluster, master)?;
    let keys = expect_rewound(&cluster, master, PARTED)?;
    cluster.tell(
        "killed while it rewinds",
        &format!("{killed:?}; {PARTED} records parted, exported once; {keys} keys, the same at every node"),
    );
    Ok(())
}

#[test]
fn a_node_that_is_killed_before_its_log_is_cut_cuts_it_when_it_starts() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let write = |client: &mut Client| pour(client, "key:", PARTED, |_| "parted".to_owned());
    let (master, parting) = part(&mut cluster, |number| number.to_string(), write)?;
    // Too short a time to be met by a kill: the marker is made here, as the node makes it.
    let directory = Directory::open(cluster.nodes[0].data())?;
    let at_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let rewind = Rewind::mark(&directory, &options(), parting, at_ms)?;
    ensure!(rewind.marker().scope == Scope::Log && !rewind.marker().cut, "{:?}", rewind.marker());
    drop((rewind, directory));
    cluster.launch(0)?;
    cluster.wait_until_streaming(master)?;
    expect_no_snapshot(&cluster, master)?;
    let keys = expect_rewound(&cluster, master, PARTED)?;
    cluster.tell(
        "killed before its log is cut",
        &format!("{PARTED} records parted, exported once; {keys} keys, the same at every node"),
    );
    Ok(())
}

#[test]
fn a_node_that_alone_has_deleted_every_key_takes_a_snapshot() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan { state: STATE, ..Plan::three("local") })? else {
        return Ok(());
    };
    let text = random_text(PARTED + VALUE_BYTES);
    let value = |number: usize| text[number..number + VALUE_BYTES].to_owned();
    let write = |client: &mut Client| {
        client.expect_ok(&["FLUSHDB"])?;
        pour(client, "own:", PARTED, value)
    };
    let (master, _) = part(&mut cluster, |number| number.to_string(), write)?;
    cluster.launch(0)?;
    cluster.wait_until_streaming(master)?;
    ensure!(full_syncs_by(&cluster, master, 0)? > 0, "no snapshot was taken");
    let keys = expect_rewound(&cluster, master, PARTED + 1)?;
    cluster.tell(
        "every key deleted by the old master alone",
        &format!(
            "{} records parted, exported once; {keys} keys, the same at every node",
            PARTED + 1
        ),
    );
    Ok(())
}

/// Leaves the first node killed, with a history of its own behind what all have. Returns who leads now,
/// and the first record that parted.
fn part(
    cluster: &mut Alone,
    shared: impl Fn(usize) -> String,
    write: impl FnOnce(&mut Client) -> Result<()>,
) -> Result<(usize, SequenceNumber)> {
    let last = (format!("key:{}", PARTED - 1), shared(PARTED - 1));
    pour(&mut cluster.nodes[0].client()?, "key:", PARTED, shared)?;
    for slave in [1, 2] {
        wait_for_value(&cluster.nodes[slave], &last.0, &last.1)?;
    }
    cluster.cut_off(0)?;
    let tail = cluster.nodes[0].get("/replication")?["tail"].as_u64();
    let parting = tail.and_then(SequenceNumber::new).context("a log that is not empty")?;
    write(&mut cluster.nodes[0].client()?)?;
    cluster.kill(0);
    let master = cluster.promote_by_force(1)?;
    cluster.wait_for_members(master, &[1, 2])?;
    cluster.heal()?;
    Ok((master, parting))
}

/// How far the rewind of a killed node has come, which is not over.
fn stage(node: &Node) -> Result<&'static str> {
    let directory = Directory::open(node.data())?;
    let rewind = Rewind::pending(&directory, &options())?.context("the rewind was over already")?;
    Ok(match rewind.marker() {
        marker if marker.settled => "settled",
        marker if marker.cut => "fetching",
        _ => "marked",
    })
}

fn options() -> DatabaseOptions {
    DatabaseOptions::new(8 << 20, 8 << 20)
}

/// The first node has taken back what parted: it was not given everything instead.
fn expect_no_snapshot(cluster: &Cluster, master: usize) -> Result<()> {
    let syncs = full_syncs_by(cluster, master, 0)?;
    ensure!(syncs == 0, "it took {syncs} snapshots instead of rewinding");
    Ok(())
}

/// Nothing is left to be taken back, and what parted was exported once. Returns how many keys all have.
fn expect_rewound(cluster: &Cluster, master: usize, parted: usize) -> Result<usize> {
    let keys = expect_same_contents(cluster, master)?;
    let marker = cluster.nodes[0].data().join("REWIND");
    Deadline::after(SOON).wait_for("the marker to go", || Ok((!marker.exists()).then_some(())))?;
    let files = cluster.nodes[0].kv(&["log", "parted", "list"])?;
    let files = files.as_array().context("a list of exports")?;
    let counts: Vec<_> = files.iter().map(|file| &file["records"]).collect();
    ensure!(counts == [parted], "{files:?}");
    Ok(keys)
}
