//! A node is killed while it rewinds, and goes on with it when it starts again; one whose records
//! cannot be taken back takes a snapshot.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use larder_storage::Directory;
use larder_storage::rewind::{Rewind, Scope};
use larder_storage::state::DatabaseOptions;
use larder_tests::client::Client;
use larder_tests::cluster::{Cluster, Cut, Node, Plan};
use larder_tests::deadline::Deadline;
use larder_types::SequenceNumber;
use rustix::process::Signal;
use serde_json::{Value as Json, json};

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
/// So slow that the store is closed for longer than clients ask.
const SLOW: u64 = 256 << 10;
/// What clients are told meanwhile.
const LOADING: &str = "LOADING Larder is taking back records that parted from the master's log, \
     key by key or by a snapshot; try again later";
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
    let (master, marker) = part_for_long(&mut cluster, &text, RATE)?;
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
fn clients_of_a_node_that_rewinds_are_told_so_whether_it_began_before_or_after_its_start()
-> Result<()> {
    let Some(mut cluster) = cluster(&Plan { state: STATE, ..Plan::three("local") })? else {
        return Ok(());
    };
    let text = random_text(PARTED + VALUE_BYTES + 1);
    let (master, marker) = part_for_long(&mut cluster, &text, SLOW)?;
    cluster.launch(0)?;
    let mut client = cluster.nodes[0].client()?;
    Deadline::after(SOON).wait_for("the rewind to begin", || Ok(marker.exists().then_some(())))?;
    Deadline::after(SOON).wait_for("the store to be closed", || {
        Ok(client.call(&["PING"])?.is_error().then_some(()))
    })?;
    // It needs the master to go on.
    cluster.cut(master, 0, Cut::OneWay)?;
    expect_loading(&cluster.nodes[0], &mut client)?;
    cluster.kill(0);
    ensure!(stage(&cluster.nodes[0])? != "settled", "its store could be opened");

    cluster.launch(0)?;
    let mut client = cluster.nodes[0].client()?;
    expect_loading(&cluster.nodes[0], &mut client)?;
    cluster.nodes[0].signal(Signal::TERM)?;
    let ended = cluster.nodes[0].server()?.wait_until_ended()?;
    ensure!(ended.success(), "{ended}: {}", cluster.nodes[0].printed());
    cluster.kill(0);

    cluster.launch(0)?;
    let mut client = cluster.nodes[0].client()?;
    expect_loading(&cluster.nodes[0], &mut client)?;
    cluster.heal()?;
    cluster.wait_until_streaming(master)?;
    let expected = value(&text, 0);
    Deadline::after(SOON).wait_for("the client to be served", || {
        Ok((client.call(&["GET", "key:0"])?.text() == expected.as_bytes()).then_some(()))
    })?;
    ensure!(client.call(&["PING"])?.is_simple("PONG"), "PING is refused");
    let info = client.call(&["INFO", "persistence"])?;
    ensure!(info.describe().contains("loading:0"), "{}", info.describe());
    let (ready, said) = cluster.nodes[0].exchange("GET", "/readyz", &Json::Null)?;
    ensure!((ready, &said) == (200, &json!("ready slave\n")), "{ready} {said}");
    let keys = expect_rewound(&cluster, master, PARTED)?;
    cluster.tell("asked while it rewinds", &format!("{LOADING:?}; {keys} keys in the end"));
    Ok(())
}

/// Whoever needs the store is refused at once, and whoever does not is answered.
fn expect_loading(node: &Node, client: &mut Client) -> Result<()> {
    let refused: [&[&str]; 9] = [
        &["PING"],
        &["GET", "key:0"],
        &["MGET", "key:0", "key:1"],
        &["SET", "key:0", "value"],
        &["SCAN", "0"],
        &["DBSIZE"],
        &["WATCH", "key:0"],
        &["WAIT", "1", "0"],
        &["BGSAVE"],
    ];
    for command in refused {
        let reply = client.call(command)?;
        ensure!(reply.text() == LOADING.as_bytes(), "{command:?}: {}", reply.describe());
    }
    client.expect_ok(&["MULTI"])?;
    client.expect_ok(&["TIME"])?;
    let aborted = client.call(&["EXEC"])?;
    let expected = format!("EXECABORT Transaction discarded because of: {LOADING}");
    ensure!(aborted.text() == expected.as_bytes(), "{}", aborted.describe());
    let answered: [&[&str]; 9] = [
        &["HELLO", "2"],
        &["CLIENT", "ID"],
        &["COMMAND", "COUNT"],
        &["CONFIG", "GET", "maxclients"],
        &["ROLE"],
        &["LASTSAVE"],
        &["KV.TOKEN"],
        &["INFO", "everything"],
        &["RESET"],
    ];
    for command in answered {
        client.expect_ok(command)?;
    }
    let info = client.expect_ok(&["INFO", "persistence"])?;
    ensure!(info.describe().contains("loading:1"), "{}", info.describe());
    let asked = |path: &str| node.exchange("GET", path, &Json::Null);
    ensure!(asked("/healthz")? == (200, json!("ok\n")), "{:?}", asked("/healthz")?);
    ensure!(asked("/readyz")? == (503, json!(format!("not ready: {LOADING}\n"))));
    for path in ["/metrics", "/replication", "/replication/parted"] {
        ensure!(asked(path)?.0 == 200, "{path}: {:?}", asked(path)?);
    }
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

/// The value of a key before the nodes parted; that of the next number after it.
fn value(text: &str, number: usize) -> String {
    text[number..number + VALUE_BYTES].to_owned()
}

/// Parts the first node behind values of `text`, which come back to it at so many bytes a second.
/// Returns who leads now, and where the marker of the rewind will be.
fn part_for_long(cluster: &mut Alone, text: &str, rate: u64) -> Result<(usize, PathBuf)> {
    let write =
        |client: &mut Client| pour(client, "key:", PARTED, |number| value(text, number + 1));
    let (master, _) = part(cluster, |number| value(text, number), write)?;
    cluster.shape_one_way(master, 0, &json!({"rate_bytes_per_s": rate}))?;
    Ok((master, cluster.nodes[0].data().join("REWIND")))
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
