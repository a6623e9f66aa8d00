//! A promotion by force leaves records behind; they are kept, shown, and can be written once more.

use std::fs;

use anyhow::{Context, Result, ensure};
use larder_tests::{
    cluster::{Cluster, LEASE, Node, Plan, member},
    deadline::Deadline,
};
use serde_json::{Value as Json, json};

use crate::support::{
    SOON, cluster, expect_keys, expect_same_contents, exported, pour, random_text, wait_for_value,
    write_keys,
};

/// Records that the old master alone has.
const PARTED: usize = SMALL + 3;
/// Of these, those of small keys of their own.
const SMALL: usize = 12_000;
/// A large string, and the fields of a large hash.
const LARGE_BYTES: usize = 7 << 20;
const FIELDS: usize = 50_000;

#[test]
fn what_a_forced_promotion_leaves_behind_is_counted_exported_and_written_again() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    write_keys(&mut cluster.nodes[0].client()?, "shared", 50)?;
    for slave in &cluster.nodes[1..] {
        wait_for_value(slave, "shared49", "49")?;
    }
    cluster.cut_off(0)?;
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "shared0", "parted"])?;
    pour(&mut client, "lost", SMALL, |number| number.to_string())?;
    let large = random_text(LARGE_BYTES);
    client.expect_ok(&["SET", "large", &large])?;
    client.expect_ok(&hash())?;
    let token = String::from_utf8(client.expect_ok(&["KV.TOKEN"])?.text().to_vec())?;
    cluster.kill(0);

    let promote = "/replication/promote";
    let (_, refusal) = cluster.nodes[1].exchange("POST", promote, &json!({}))?;
    ensure!(refusal["error"].to_string().contains("shenzhen-1"), "who is missing: {refusal}");
    let over = json!({"force_term": 1});
    let (status, wrong) = cluster.nodes[1].exchange("POST", promote, &over)?;
    ensure!(status == 409 && wrong["term"].is_null(), "a term that is over: {status} {wrong}");
    let master = cluster.promote_by_force(1)?;
    cluster.wait_for_members(master, &[1, 2])?;
    cluster.nodes[master].client()?.expect_ok(&["SET", "after", "1"])?;
    wait_for_value(&cluster.nodes[3 - master], "after", "1")?;

    cluster.launch(0)?;
    cluster.heal()?;
    cluster.wait_until_streaming(master)?;
    wait_for_value(&cluster.nodes[0], "after", "1")?;
    let mut old = cluster.nodes[0].client()?;
    expect_keys(&mut old, "shared", 50)?;
    ensure!(old.call(&["GET", "lost0"])?.is_null(), "what parted is taken back");
    let lost = old.call(&["KV.AFTER", &token, "100"])?;
    ensure!(lost.text().starts_with(b"LOST "), "{}", lost.describe());
    let name = the_export(&cluster)?;

    let applied = write_again(&cluster, master, &name, &large)?;
    cluster.tell(
        "forced promotion at local",
        &format!("{PARTED} records parted, all exported and written again ({applied})"),
    );
    Ok(())
}

/// Writes everything once more at the node that has the file, which is made the master for it.
fn write_again(cluster: &Cluster, master: usize, name: &str, large: &str) -> Result<Json> {
    let path = format!("/replication/parted/{name}/reapply");
    let refused = cluster.nodes[0].exchange("POST", &path, &json!({}))?;
    ensure!(refused.0 == 409, "a slave writes: {} {}", refused.0, refused.1);
    let returned = cluster.nodes[0].name;
    // For one lease a node that has just come back may not take over; the switchover waits for the
    // rest.
    let fit = |view: &Json| {
        let slave = member(view, returned);
        let has_lasted = slave["session_age_ms"].as_f64() > Some(LEASE.as_secs_f64() * 1e3);
        slave["state"] == "streaming" && slave["lag_ms"].is_number() && has_lasted
    };
    cluster.wait_for_view(master, "the old master to be fit to lead again", SOON, fit)?;
    let to = json!({"to": returned});
    cluster.nodes[master].send("POST", "/replication/switchover", &to)?;
    cluster.wait_until_streaming(0)?;
    let reapply = ["log", "parted", "reapply", name];
    let dry = cluster.nodes[0].kv(&[&reapply[..], &["--dry-run"]].concat())?;
    ensure!(cluster.nodes[0].client()?.call(&["GET", "lost0"])?.is_null(), "{dry}");
    // Whoever asked first hangs up once it has begun: it goes on to the end.
    let asked = cluster.nodes[0].ask("POST", &path, &json!({}))?;
    wait_for_value(&cluster.nodes[0], "shared0", "parted")?;
    drop(asked);
    let (status, refused) = cluster.nodes[0].exchange("POST", &path, &json!({}))?;
    // On a fast disk the first has ended by now.
    ensure!(matches!(status, 409 | 200), "two write the same at once: {status} {refused}");
    wait_for_fields(&cluster.nodes[0])?;
    cluster.nodes[0].client()?.expect_ok(&["DEL", "large"])?;
    let applied = Deadline::after(SOON)
        .wait_for("the first to end", || Ok(cluster.nodes[0].kv(&reapply).ok()))?;
    for node in &cluster.nodes {
        wait_for_value(node, "shared0", "parted")?;
        wait_for_value(node, "large", large)?;
        wait_for_fields(node)?;
    }
    expect_keys(&mut cluster.nodes[0].client()?, "lost", SMALL)?;
    expect_same_contents(cluster, 0)?;
    what_may_be_in_the_log_is_written_again_by_force_alone(&cluster.nodes[0], name)?;
    Ok(applied)
}

/// The file as it is where nothing shows that its records parted.
fn what_may_be_in_the_log_is_written_again_by_force_alone(node: &Node, name: &str) -> Result<()> {
    let path = node.data().join("parted").join(format!("{name}.jsonl"));
    let text = fs::read_to_string(&path)?;
    let untold = text.replacen("\"in_common\":true", "\"in_common\":false", 1);
    ensure!(untold != text, "the log parted from another: {:?}", text.lines().next());
    fs::write(&path, untold)?;
    let mut client = node.client()?;
    client.expect_ok(&["SET", "shared0", "newer"])?;
    let path = format!("/replication/parted/{name}/reapply");
    let (status, refused) = node.exchange("POST", &path, &json!({}))?;
    let why = refused["error"].to_string();
    ensure!(status == 409 && why.contains("nobody can tell"), "{status} {refused}");
    let dry = node.kv(&["log", "parted", "reapply", name, "--dry-run"])?;
    ensure!(dry["in_common"] == false && dry["applied"] == 0, "{dry}");
    let newer = client.call(&["GET", "shared0"])?;
    ensure!(newer.text() == b"newer", "nothing is written: {}", newer.describe());
    let forced = node.kv(&["log", "parted", "reapply", name, "--force"])?;
    ensure!(forced["applied"] == PARTED, "{forced}");
    wait_for_value(node, "shared0", "parted")
}

/// The command that writes the large hash.
fn hash() -> Vec<String> {
    let fields = (0..FIELDS).flat_map(|number| [format!("field{number}"), number.to_string()]);
    ["HSET", "hash"].map(str::to_owned).into_iter().chain(fields).collect()
}

fn wait_for_fields(node: &Node) -> Result<()> {
    let mut client = node.client()?;
    Deadline::after(SOON).wait_for("the large hash", || {
        let count = client.call(&["HLEN", "hash"])?.integer();
        Ok((count == Some(i64::try_from(FIELDS)?)).then_some(()))
    })?;
    let last = client.expect_ok(&["HGET", "hash", &format!("field{}", FIELDS - 1)])?;
    ensure!(last.text() == (FIELDS - 1).to_string().as_bytes(), "{}", last.describe());
    Ok(())
}

/// The one file of the old master, which holds what parted.
fn the_export(cluster: &Cluster) -> Result<String> {
    let files = cluster.nodes[0].get("/replication/parted")?;
    ensure!(files.as_array().is_some_and(|files| files.len() == 1), "{files}");
    let file = &files[0];
    ensure!(file["records"] == PARTED, "{file}");
    let view = cluster.nodes[0].get("/replication")?;
    let is_named = |epoch: &Json| epoch.as_str().is_some_and(|epoch| epoch.starts_with("1."));
    ensure!(is_named(&file["epoch"]) && view["epoch"].is_string(), "{file} beside {view}");
    let name = file["name"].as_str().with_context(|| format!("no name in {file}"))?;
    let shown = exported(&cluster.nodes[0])?;
    for number in 0..SMALL {
        ensure!(shown.contains(&format!("lost{number}")), "lost{number} is not shown");
    }
    let file = cluster.nodes[0].get(&format!("/replication/parted/{name}"))?;
    let records = file["records"].as_array();
    ensure!(records.is_some_and(|all| all.iter().all(|one| is_named(&one["epoch"]))));
    ensure!(view["alerts"].to_string().contains("parted"), "{view}");
    Ok(name.to_owned())
}
