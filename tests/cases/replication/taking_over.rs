//! A master is lost, hands over, or comes back: what was acknowledged stays, and what parted is kept
//! where people can read it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::{cluster::Plan, deadline::Deadline};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::support::{SOON, cluster, expect_keys, wait_for_value, write_keys};

/// A switchover may refuse writes for so long.
const REFUSED_MAX: Duration = Duration::from_millis(500);

#[test]
fn after_a_forced_promotion_the_old_master_rewinds_and_its_records_are_kept() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    write_keys(&mut cluster.nodes[0].client()?, "shared", 50)?;
    for slave in &cluster.nodes[1..] {
        wait_for_value(slave, "shared49", "49")?;
    }
    // What is written behind cut lines is on the old master's disk alone.
    for slave in [1, 2] {
        cluster.shape(0, slave, Some(&json!({"cut_send": true, "cut_receive": true})))?;
    }
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "shared0", "parted"])?;
    client.expect_ok(&["SET", "lost", "parted"])?;
    let token = String::from_utf8(client.expect_ok(&["KV.TOKEN"])?.text().to_vec())?;
    cluster.kill(0);

    let (status, refusal) =
        cluster.nodes[1].exchange("POST", "/replication/promote", &json!({}))?;
    ensure!(status == 409, "{status} {refusal}");
    let term = refusal["term"].as_u64().with_context(|| format!("{refusal}"))?;
    let force = json!({"force_term": term});
    let promoted = cluster.nodes[1].send("POST", "/replication/promote", &force)?;
    let master = index_of(&promoted["master"])?;
    let other = 3 - master;
    cluster.wait_for_members(master, &[1, 2])?;
    cluster.nodes[master].client()?.expect_ok(&["SET", "after", "1"])?;
    wait_for_value(&cluster.nodes[other], "after", "1")?;

    cluster.launch(0)?;
    cluster.shape(0, 1, None)?;
    cluster.shape(0, 2, None)?;
    cluster.wait_for_members(master, &[0, 1, 2])?;
    wait_for_value(&cluster.nodes[0], "after", "1")?;
    let mut old = cluster.nodes[0].client()?;
    expect_keys(&mut old, "shared", 50)?;
    ensure!(old.call(&["GET", "lost"])?.is_null(), "what parted is taken back");
    let lost = old.call(&["KV.AFTER", &token, "100"])?;
    ensure!(lost.text().starts_with(b"LOST "), "{}", lost.describe());

    let files = cluster.nodes[0].get("/replication/parted")?;
    let name = files[0]["name"].as_str().with_context(|| format!("{files}"))?;
    let shown = cluster.nodes[0].get(&format!("/replication/parted/{name}"))?;
    ensure!(shown.to_string().contains("lost"), "{shown}");
    let view = cluster.nodes[0].get("/replication")?;
    ensure!(view["alerts"].to_string().contains("parted"), "{view}");
    Ok(())
}

#[test]
fn at_majority_nothing_acknowledged_is_lost_with_the_master() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    write_keys(&mut cluster.nodes[0].client()?, "k", 200)?;
    cluster.kill(0);
    // The slaves' grants run out first.
    let promoted = Deadline::after(SOON).wait_for("a promotion without force", || {
        let (status, answer) =
            cluster.nodes[1].exchange("POST", "/replication/promote", &json!({}))?;
        Ok((status == 200).then_some(answer))
    })?;
    let master = index_of(&promoted["master"])?;
    cluster.wait_for_members(master, &[1, 2])?;
    let mut client = cluster.nodes[master].client()?;
    expect_keys(&mut client, "k", 200)?;
    client.expect_ok(&["SET", "after", "1"])?;
    cluster.launch(0)?;
    cluster.wait_for_members(master, &[0, 1, 2])?;
    wait_for_value(&cluster.nodes[0], "after", "1")?;
    expect_keys(&mut cluster.nodes[0].client()?, "k", 200)
}

#[test]
fn at_majority_a_write_without_followers_is_answered_that_nobody_knows() -> Result<()> {
    let plan = Plan { replication: "ack_timeout_ms = 400".into(), ..Plan::three("majority") };
    let Some(cluster) = cluster(&plan)? else { return Ok(()) };
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "a", "1"])?;
    for slave in [1, 2] {
        cluster.shape(0, slave, Some(&json!({"cut_send": true, "cut_receive": true})))?;
    }
    let begun = Instant::now();
    let reply = client.call(&["SET", "a", "2"])?;
    ensure!(reply.is_error(), "{}", reply.describe());
    ensure!(begun.elapsed() < Duration::from_secs(5), "nothing hangs");
    let text = String::from_utf8_lossy(reply.text()).into_owned();
    ensure!(text.starts_with("UNDECIDED ") && text.contains("may yet be applied"), "{text}");
    for slave in [1, 2] {
        cluster.shape(0, slave, None)?;
    }
    wait_for_value(&cluster.nodes[0], "a", "2")
}

#[test]
fn a_switchover_refuses_writes_for_less_than_half_a_second_and_loses_none() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let mut client = cluster.nodes[0].client()?;
    write_keys(&mut client, "k", 100)?;
    let old = cluster.nodes[0].resp;
    let new = cluster.nodes[1].resp;
    // Writes go on at whichever of the two takes them; the gap between two acknowledged is measured.
    let writer = std::thread::spawn(move || -> Result<(usize, Duration)> {
        let (mut written, mut last, mut gap) = (0, Instant::now(), Duration::ZERO);
        let mut clients = [
            larder_tests::client::Client::connect(old)?,
            larder_tests::client::Client::connect(new)?,
        ];
        let (mut at, begun, mut moved_at) = (0, Instant::now(), None::<Instant>);
        loop {
            let value = written.to_string();
            let reply = clients[at].call(&["SET", &format!("w{written}"), &value])?;
            if reply.is_error() {
                at = 1 - at;
                ensure!(begun.elapsed() < SOON, "no node takes writes: {}", reply.describe());
                continue;
            }
            gap = gap.max(last.elapsed());
            last = Instant::now();
            written += 1;
            if at == 1 {
                let since = *moved_at.get_or_insert(last);
                if since.elapsed() > Duration::from_millis(300) {
                    return Ok((written, gap));
                }
            }
            ensure!(begun.elapsed() < SOON, "nothing was handed over");
        }
    });
    cluster.nodes[0].send(
        "POST",
        "/replication/switchover",
        &json!({"to": cluster.nodes[1].name}),
    )?;
    let (written, gap) = writer.join().expect("the writer does not panic")?;
    println!("switchover: {written} writes, none lost; refused for {gap:?}");
    ensure!(gap < REFUSED_MAX, "writes were refused for {gap:?}");
    cluster.wait_for_members(1, &[0, 1, 2])?;
    let mut client = cluster.nodes[1].client()?;
    expect_keys(&mut client, "k", 100)?;
    expect_keys(&mut client, "w", written)?;
    Ok(())
}

#[test]
fn a_master_that_stood_still_for_longer_than_its_lease_acknowledges_nothing_more() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "a", "1"])?;
    cluster.nodes[0].signal(Signal::STOP)?;
    let promoted = Deadline::after(SOON).wait_for("a promotion without force", || {
        let (status, answer) =
            cluster.nodes[1].exchange("POST", "/replication/promote", &json!({}))?;
        Ok((status == 200).then_some(answer))
    })?;
    let master = index_of(&promoted["master"])?;
    cluster.nodes[master].client()?.expect_ok(&["SET", "a", "2"])?;
    client.send_raw(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n")?;
    cluster.nodes[0].signal(Signal::CONT)?;
    let stale = client.reply()?.reply;
    ensure!(stale.is_error() || stale.text() == b"2", "{}", stale.describe());
    cluster.wait_for_members(master, &[0, 1, 2])?;
    wait_for_value(&cluster.nodes[0], "a", "2")
}

fn index_of(name: &Json) -> Result<usize> {
    let names = larder_tests::cluster::THREE;
    names.iter().position(|(known, _)| *name == **known).with_context(|| format!("{name}"))
}
