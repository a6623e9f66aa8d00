//! Writes at the master, reads in the other regions, and what a slave refuses.

use anyhow::{Context, Result, ensure};
use larder_tests::{cluster::Plan, deadline::Deadline};
use serde_json::json;

use crate::support::{SOON, cluster, wait_for_value};

#[test]
fn a_write_in_one_region_is_read_in_the_others() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let [master, slaves @ ..] = &cluster.nodes[..] else { unreachable!("there are three") };
    let mut client = master.client()?;
    client.expect_ok(&["SET", "greeting", "hello"])?;
    client.expect_ok(&["HSET", "user:1", "name", "Ada"])?;
    for slave in slaves {
        wait_for_value(slave, "greeting", "hello")?;
        let mut reader = slave.client()?;
        Deadline::after(SOON).wait_for("the hash", || {
            let reply = reader.call(&["HGET", "user:1", "name"])?;
            Ok((reply.text() == b"Ada").then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_slave_refuses_writes_and_names_the_master() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let (master, slave) = (&cluster.nodes[0], &cluster.nodes[1]);
    let mut client = slave.client()?;
    let refused = client.call(&["SET", "a", "1"])?;
    let text = String::from_utf8_lossy(refused.text()).into_owned();
    ensure!(text.starts_with("READONLY You can't write against a read only replica."), "{text}");
    ensure!(text.contains(&master.resp.to_string()), "{text}");
    // A client that knows clusters is sent to the master.
    client.expect_ok(&["READONLY"])?;
    let moved = client.call(&["SET", "foo", "1"])?;
    ensure!(moved.text() == format!("MOVED 12182 {}", master.resp).as_bytes(), "{moved:?}");
    ensure!(client.call(&["GET", "foo"])?.is_null());
    client.expect_ok(&["READWRITE"])?;
    ensure!(client.call(&["GET", "foo"])?.text().starts_with(b"MOVED 12182 "));

    let role = client.call(&["ROLE"])?;
    ensure!(role.items()[0].text() == b"slave", "{role:?}");
    ensure!(role.items()[2].integer() == Some(master.resp.port().into()), "{role:?}");
    let role = master.client()?.call(&["ROLE"])?;
    ensure!(role.items()[0].text() == b"master" && role.items()[2].items().len() == 2, "{role:?}");
    Ok(())
}

#[test]
fn a_token_of_a_write_is_waited_for_in_another_region() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let shape = json!({"delay_ms": 30.0});
    cluster.shape(0, 1, Some(&shape))?;
    let (master, slave) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (mut writer, mut reader) = (master.client()?, slave.client()?);
    for round in 0..5 {
        let value = round.to_string();
        writer.expect_ok(&["SET", "mine", &value])?;
        let token = String::from_utf8(writer.expect_ok(&["KV.TOKEN"])?.text().to_vec())?;
        let after = reader.call(&["KV.AFTER", &token, "5000"])?;
        ensure!(after.is_simple("OK"), "{}", after.describe());
        ensure!(reader.call(&["GET", "mine"])?.text() == value.as_bytes());
    }
    // A write that is not there yet.
    let token = String::from_utf8(writer.expect_ok(&["KV.TOKEN"])?.text().to_vec())?;
    let (log, rest) = token.split_once(':').context("a token")?;
    let (epoch, seq) = rest.split_once(':').context("a token")?;
    let later = format!("{log}:{epoch}:{}", seq.parse::<u64>()? + 1_000);
    ensure!(reader.call(&["KV.AFTER", &later, "20"])?.is_null());
    // A history that this log never had.
    let (numbers, _) = epoch.split_once('-').context("an epoch")?;
    let parted = format!("{log}:{numbers}-00000000deadbeef:{seq}");
    let lost = reader.call(&["KV.AFTER", &parted, "5000"])?;
    ensure!(lost.text().starts_with(b"LOST "), "{}", lost.describe());
    Ok(())
}

#[test]
fn wait_counts_the_slaves_that_have_a_write() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "a", "1"])?;
    let both = client.call(&["WAIT", "2", "5000"])?;
    ensure!(both.integer() == Some(2), "{}", both.describe());
    client.expect_ok(&["KV.ACK", "all"])?;
    client.expect_ok(&["SET", "a", "2"])?;
    for slave in &cluster.nodes[1..] {
        ensure!(slave.client()?.call(&["GET", "a"])?.text() == b"2", "it is on every disk");
    }
    // With both lines cut, nobody acknowledges.
    for slave in [1, 2] {
        cluster.shape(0, slave, Some(&json!({"cut_send": true, "cut_receive": true})))?;
    }
    client.expect_ok(&["KV.ACK", "local"])?;
    client.expect_ok(&["SET", "a", "3"])?;
    let none = client.call(&["WAIT", "1", "50"])?;
    ensure!(none.integer() == Some(0), "{}", none.describe());
    Ok(())
}

#[test]
fn reads_that_may_be_too_stale_are_refused() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let slave = &cluster.nodes[1];
    let mut client = slave.client()?;
    client.expect_ok(&["KV.MAXLAG", "1500"])?;
    Deadline::after(SOON)
        .wait_for("a fresh read", || Ok((!client.call(&["GET", "a"])?.is_error()).then_some(())))?;
    cluster.shape(0, 1, Some(&json!({"cut_send": true, "cut_receive": true})))?;
    let refused = Deadline::after(SOON).wait_for("a stale read to be refused", || {
        let reply = client.call(&["GET", "a"])?;
        Ok(reply.is_error().then_some(reply))
    })?;
    ensure!(refused.text().starts_with(b"STALE "), "{}", refused.describe());
    client.expect_ok(&["KV.MAXLAG", "0"])?;
    ensure!(!client.call(&["GET", "a"])?.is_error());
    Ok(())
}
