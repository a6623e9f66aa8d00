//! A promotion by force leaves records behind; they are kept, shown, and can be written once more.

use anyhow::{Context, Result, ensure};
use larder_tests::{
    cluster::{Cut, Plan},
    deadline::Deadline,
};
use serde_json::{Value as Json, json};

use crate::support::{SOON, cluster, expect_keys, wait_for_value, write_keys};

/// Records that the old master alone has.
const PARTED: usize = 5;

#[test]
fn what_a_forced_promotion_leaves_behind_is_counted_exported_and_written_again() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    write_keys(&mut cluster.nodes[0].client()?, "shared", 50)?;
    for slave in &cluster.nodes[1..] {
        wait_for_value(slave, "shared49", "49")?;
    }
    for slave in [1, 2] {
        cluster.cut(0, slave, Cut::Both)?;
    }
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "shared0", "parted"])?;
    write_keys(&mut client, "lost", PARTED - 1)?;
    let token = String::from_utf8(client.expect_ok(&["KV.TOKEN"])?.text().to_vec())?;
    cluster.kill(0);

    let promote = "/replication/promote";
    let (status, refusal) = cluster.nodes[1].exchange("POST", promote, &json!({}))?;
    ensure!(status == 409, "a promotion that may lose was not refused: {status} {refusal}");
    let term = refusal["term"].as_u64().with_context(|| format!("no term in {refusal}"))?;
    ensure!(refusal["error"].to_string().contains("shenzhen-1"), "who is missing: {refusal}");
    let (status, wrong) =
        cluster.nodes[1].exchange("POST", promote, &json!({"force_term": term + 1}))?;
    ensure!(status == 409 && wrong["term"].is_null(), "a wrong term: {status} {wrong}");
    let promoted = cluster.nodes[1].send("POST", promote, &json!({"force_term": term}))?;
    let master = cluster.index_of(&promoted["master"])?;
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

    // Once more at the node that has the file: it is made the master first.
    let refused = cluster.nodes[0].exchange(
        "POST",
        &format!("/replication/parted/{name}/reapply"),
        &json!({}),
    )?;
    ensure!(refused.0 == 409, "a slave writes: {} {}", refused.0, refused.1);
    let to = json!({"to": cluster.nodes[0].name});
    // A node that has just come back may not be ready to take over: the switchover is undone then.
    Deadline::after(SOON).wait_for("the old master to take over again", || {
        let (status, _) = cluster.nodes[master].exchange("POST", "/replication/switchover", &to)?;
        let leads = || cluster.nodes[0].get("/replication").map(|view| view["role"] == "master");
        Ok((status == 200 || leads()?).then_some(()))
    })?;
    cluster.wait_until_streaming(0)?;
    let reapply = format!("/replication/parted/{name}/reapply");
    let dry = cluster.nodes[0].send("POST", &reapply, &json!({"dry_run": true}))?;
    ensure!(cluster.nodes[0].client()?.call(&["GET", "lost0"])?.is_null(), "{dry}");
    let applied = cluster.nodes[0].send("POST", &reapply, &json!({"dry_run": false}))?;
    for node in &cluster.nodes {
        wait_for_value(node, "shared0", "parted")?;
        expect_keys(&mut node.client()?, "lost", PARTED - 1)?;
    }
    cluster.tell(
        "forced promotion at local",
        &format!("{PARTED} records parted, all exported and written again ({applied})"),
    );
    Ok(())
}

/// The one file of the old master, which holds what parted.
fn the_export(cluster: &larder_tests::cluster::Cluster) -> Result<String> {
    let files = cluster.nodes[0].get("/replication/parted")?;
    ensure!(files.as_array().is_some_and(|files| files.len() == 1), "{files}");
    let file = &files[0];
    ensure!(file["records"] == PARTED, "{file}");
    let view = cluster.nodes[0].get("/replication")?;
    let is_named = |epoch: &Json| epoch.as_str().is_some_and(|epoch| epoch.starts_with("1."));
    ensure!(is_named(&file["epoch"]) && view["epoch"].is_string(), "{file} beside {view}");
    let name = file["name"].as_str().with_context(|| format!("no name in {file}"))?;
    let shown = cluster.nodes[0].get(&format!("/replication/parted/{name}"))?;
    for number in 0..PARTED - 1 {
        ensure!(shown.to_string().contains(&format!("lost{number}")), "{shown}");
    }
    ensure!(
        shown["records"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| is_named(&one["epoch"])))
    );
    ensure!(view["alerts"].to_string().contains("parted"), "{view}");
    Ok(name.to_owned())
}
