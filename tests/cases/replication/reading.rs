//! Writes at the master, reads in the other regions, and what a slave refuses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use larder_tests::client::{Client, encoded};
use larder_tests::cluster::{Cluster, Cut, Plan};
use larder_tests::deadline::Deadline;
use larder_tests::reply::Reply;
use serde_json::Value as Json;

use crate::support::{LOAD_DEADLINE, SOON, cluster, wait_for_value};

#[test]
fn a_write_in_one_region_is_read_in_the_others() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("local"))? else { return Ok(()) };
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "greeting", "hello"])?;
    client.expect_ok(&["HSET", "user:1", "name", "Ada"])?;
    for slave in &cluster.nodes[1..] {
        wait_for_value(slave, "greeting", "hello")?;
        let mut reader = slave.client()?;
        Deadline::after(SOON).wait_for("the hash", || {
            let reply = reader.call(&["HGET", "user:1", "name"])?;
            Ok((reply.text() == b"Ada").then_some(()))
        })?;
    }
    a_slave_refuses_writes_and_names_the_master(&cluster)?;
    roles_are_told_as_redis_tells_them(&cluster)?;
    a_token_is_waited_for(&cluster)?;
    wait_counts_slaves(&cluster)?;
    stale_reads_are_refused(&cluster)?;
    a_level_for_which_too_few_are_left_is_refused(&cluster)?;
    cluster.tell("reading", "tokens, WAIT, KV.ACK, KV.MAXLAG, ROLE, INFO and redirections hold");
    Ok(())
}

fn a_slave_refuses_writes_and_names_the_master(cluster: &Cluster) -> Result<()> {
    let master = cluster.nodes[0].resp.to_string();
    let mut client = cluster.nodes[1].client()?;
    let refused = text(&mut client, &["SET", "a", "1"])?;
    ensure!(
        refused.starts_with("READONLY You can't write against a read only replica."),
        "{refused}"
    );
    ensure!(refused.contains(&master), "{refused}");
    // A client that knows clusters is sent to the master.
    client.expect_ok(&["READONLY"])?;
    let moved = text(&mut client, &["SET", "foo", "1"])?;
    ensure!(moved == format!("MOVED 12182 {master}"), "{moved}");
    ensure!(client.call(&["GET", "foo"])?.is_null(), "reads are answered after READONLY");
    client.expect_ok(&["READWRITE"])?;
    let moved = text(&mut client, &["GET", "foo"])?;
    ensure!(moved == format!("MOVED 12182 {master}"), "{moved}");
    Ok(())
}

fn roles_are_told_as_redis_tells_them(cluster: &Cluster) -> Result<()> {
    let (mut master, mut slave) = (cluster.nodes[0].client()?, cluster.nodes[1].client()?);
    let role = slave.call(&["ROLE"])?;
    ensure!(role.items().len() == 5 && role.items()[0].text() == b"slave", "{}", role.describe());
    let port = i64::from(cluster.nodes[0].resp.port());
    ensure!(role.items()[2].integer() == Some(port), "{}", role.describe());
    ensure!(role.items()[3].text() == b"connected", "{}", role.describe());
    Deadline::after(SOON).wait_for("two slaves in ROLE", || {
        let role = master.call(&["ROLE"])?;
        let slaves = role.items().get(2).map_or(0, |slaves| slaves.items().len());
        Ok((role.items()[0].text() == b"master" && slaves == 2).then_some(()))
    })?;
    let info = text(&mut master, &["INFO", "replication"])?;
    ensure!(info.contains("role:master\r") && info.contains("connected_slaves:2\r"), "{info}");
    let info = text(&mut slave, &["INFO", "replication"])?;
    ensure!(info.contains("role:slave\r") && info.contains("master_link_status:up\r"), "{info}");
    ensure!(info.contains(&format!("master_port:{port}\r")), "{info}");
    Ok(())
}

fn a_token_is_waited_for(cluster: &Cluster) -> Result<()> {
    cluster.delay(Duration::from_millis(30))?;
    let (mut writer, mut reader) = (cluster.nodes[0].client()?, cluster.nodes[1].client()?);
    for round in 0..5 {
        let value = round.to_string();
        writer.expect_ok(&["SET", "mine", &value])?;
        let token = text(&mut writer, &["KV.TOKEN"])?;
        let after = reader.call(&["KV.AFTER", &token, "5000"])?;
        ensure!(after.is_simple("OK"), "{}", after.describe());
        let read = reader.call(&["GET", "mine"])?;
        ensure!(read.text() == value.as_bytes(), "read {} after {value}", read.describe());
    }
    let token = text(&mut writer, &["KV.TOKEN"])?;
    let (log, rest) = token.split_once(':').context("a token")?;
    let (epoch, seq) = rest.split_once(':').context("a token")?;
    let later = format!("{log}:{epoch}:{}", seq.parse::<u64>()? + 1_000);
    let waited = reader.call(&["KV.AFTER", &later, "20"])?;
    ensure!(waited.is_null(), "a write that is not there yet: {}", waited.describe());
    let (numbers, _) = epoch.split_once('-').context("an epoch")?;
    let lost = text(
        &mut reader,
        &["KV.AFTER", &format!("{log}:{numbers}-00000000deadbeef:{seq}"), "5000"],
    )?;
    ensure!(lost.starts_with("LOST "), "a history that this log never had: {lost}");
    cluster.heal()
}

fn wait_counts_slaves(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["SET", "a", "1"])?;
    let both = client.call(&["WAIT", "2", "5000"])?;
    ensure!(both.integer() == Some(2), "{}", both.describe());
    client.expect_ok(&["KV.ACK", "all"])?;
    client.expect_ok(&["SET", "a", "2"])?;
    for slave in &cluster.nodes[1..] {
        wait_for_value(slave, "a", "2")?;
    }
    cluster.cut_off(0)?;
    client.expect_ok(&["KV.ACK", "local"])?;
    client.expect_ok(&["SET", "a", "3"])?;
    let none = client.call(&["WAIT", "1", "50"])?;
    ensure!(none.integer() == Some(0), "{}", none.describe());
    cluster.heal()?;
    cluster.wait_until_streaming(0)
}

fn a_level_for_which_too_few_are_left_is_refused(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.nodes[0].client()?;
    client.expect_ok(&["KV.ACK", "majority"])?;
    for slave in &cluster.nodes[1..] {
        cluster.nodes[0].send(
            "DELETE",
            &format!("/replication/members/{}", slave.name),
            &Json::Null,
        )?;
    }
    Deadline::after(SOON).wait_for("a refusal", || {
        let reply = client.call(&["KV.ACK", "majority"])?;
        Ok(reply.text().starts_with(b"ERR no write could reach the level").then_some(()))
    })?;
    client.expect_ok(&["KV.ACK", "local"])?;
    Ok(())
}

fn stale_reads_are_refused(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.nodes[1].client()?;
    client.expect_ok(&["KV.MAXLAG", "1500"])?;
    Deadline::after(SOON)
        .wait_for("a fresh read", || Ok((!client.call(&["GET", "a"])?.is_error()).then_some(())))?;
    cluster.cut(0, 1, Cut::Both)?;
    let refused = Deadline::after(SOON).wait_for("a stale read to be refused", || {
        let reply = client.call(&["GET", "a"])?;
        Ok(reply.is_error().then_some(reply))
    })?;
    ensure!(refused.text().starts_with(b"STALE "), "{}", refused.describe());
    client.expect_ok(&["KV.MAXLAG", "0"])?;
    client.expect_ok(&["GET", "a"])?;
    Ok(())
}

/// Keys of one `MSET`: so many that others are committed while they are read.
const KEYS: usize = 200;
/// How often they are read, and how often at least with another value than before.
const READS: usize = 3_000;
const NEWS: usize = 100;

#[test]
fn keys_that_are_written_together_are_read_together_at_a_slave() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let keys: Vec<String> = (0..KEYS).map(|n| format!("key:{n}")).collect();
    let (mut writer, mut reader) = (cluster.nodes[0].client()?, cluster.nodes[1].client()?);
    set_all(&mut writer, &keys, 0)?;
    wait_for_value(&cluster.nodes[1], "key:0", "0")?;
    let stop = AtomicBool::new(false);
    let (written, (mget, exec)) = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Acquire) {
                round += 1;
                set_all(&mut writer, &keys, round)?;
            }
            anyhow::Ok(round)
        });
        let read = read_together(&mut reader, &keys);
        stop.store(true, Ordering::Release);
        let written = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
        anyhow::Ok((written?, read?))
    })?;
    let what = format!(
        "{written} MSETs of {KEYS} keys; with another value than before {mget} of {READS} MGETs \
         and {exec} EXECs at a slave, each of one record"
    );
    cluster.tell("reading together", &what);
    Ok(())
}

#[test]
fn a_transaction_that_reads_at_a_slave_does_not_wait_for_what_nobody_commits() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let keys = ["a".to_owned(), "b".to_owned()];
    let (mut writer, mut reader) = (cluster.nodes[0].client()?, cluster.nodes[1].client()?);
    set_all(&mut writer, &keys, 1)?;
    wait_for_value(&cluster.nodes[1], "b", "1")?;
    // Somebody who wants to read nothing stale begins while nothing is.
    let (mut strict, mut other) = (cluster.nodes[1].client()?, cluster.nodes[1].client()?);
    for client in [&mut strict, &mut other] {
        client.expect_ok(&["KV.MAXLAG", "1000"])?;
    }
    Deadline::after(SOON)
        .wait_for("a fresh read", || Ok((!strict.call(&["GET", "a"])?.is_error()).then_some(())))?;
    strict.expect_ok(&["MULTI"])?;
    strict.expect_ok(&["GET", "a"])?;
    // The slaves hear the master, which does not hear them.
    cluster.cut(1, 0, Cut::OneWay)?;
    cluster.cut(2, 0, Cut::OneWay)?;
    writer.send_raw(&encoded(&["MSET", "a", "2", "b", "2"]))?;
    let holds = |view: &Json| {
        let committed = view["committed"].as_u64();
        committed.is_some() && view["durable"].as_u64() > committed
    };
    cluster.wait_for_view(1, "a write that is not committed", SOON, holds)?;
    for command in [&["MULTI"][..], &["GET", "a"], &["DBSIZE"], &["GET", "b"]] {
        reader.expect_ok(command)?;
    }
    let began = Instant::now();
    let read = reader.expect_ok(&["EXEC"])?;
    let took = began.elapsed();
    let found: Vec<_> = read.items().iter().map(Reply::describe).collect();
    ensure!(found.len() == 3 && read.items()[1].integer() == Some(2), "{found:?}");
    ensure!(read.items()[0].text() == b"1" && read.items()[2].text() == b"1", "{found:?}");
    Deadline::after(SOON).wait_for("a stale read to be refused", || {
        Ok(other.call(&["GET", "a"])?.is_error().then_some(()))
    })?;
    let refused = text(&mut strict, &["EXEC"])?;
    ensure!(refused.starts_with("STALE "), "{refused}");
    cluster.heal()?;
    // Undecided or done: the slaves have it.
    writer.reply()?;
    wait_for_value(&cluster.nodes[1], "b", "2")?;
    cluster
        .tell("a transaction of reads", &format!("answered by a slave in {took:?}, of one record"));
    Ok(())
}

fn set_all(client: &mut Client, keys: &[String], round: u64) -> Result<()> {
    let value = round.to_string();
    let pairs = keys.iter().flat_map(|key| [key.as_str(), &value]);
    let args: Vec<&str> = std::iter::once("MSET").chain(pairs).collect();
    client.expect_ok(&args).map(drop)
}

/// Reads every key again and again, with one command and with a transaction. Returns how often each
/// of the two answered what it had not before.
fn read_together(client: &mut Client, keys: &[String]) -> Result<(usize, usize)> {
    let args: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    let (mut mget, mut exec) = (News::default(), News::default());
    let deadline = Deadline::after(LOAD_DEADLINE);
    let mut reads = 0;
    while reads < READS || mget.count < NEWS || exec.count < NEWS {
        ensure!(!deadline.has_passed(), "{reads} reads, {} and {} news", mget.count, exec.count);
        mget.note(client.call(&args)?.items())?;
        if reads % 10 == 0 {
            client.expect_ok(&["MULTI"])?;
            for key in keys {
                client.call(&["GET", key])?;
            }
            exec.note(client.call(&["EXEC"])?.items())?;
        }
        reads += 1;
    }
    Ok((mget.count, exec.count))
}

/// Counts answers with another value than the last.
#[derive(Default)]
struct News {
    last: u64,
    count: usize,
}

impl News {
    /// All values of an answer are of one record, and of none before the last.
    fn note(&mut self, values: &[Reply]) -> Result<()> {
        let first = values.first().context("an answer without values")?;
        let differs = values.iter().find(|value| value.text() != first.text());
        let both = differs.map(|other| (first.describe(), other.describe()));
        ensure!(both.is_none() && values.len() == KEYS, "of several records: {both:?}");
        let value: u64 = str::from_utf8(first.text())?.parse()?;
        ensure!(value >= self.last, "{value} after {}", self.last);
        self.count += usize::from(value > self.last);
        self.last = value;
        Ok(())
    }
}

/// The reply's text, which may be an error's.
fn text(client: &mut Client, args: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(client.call(args)?.text()).into_owned())
}
