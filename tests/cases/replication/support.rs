//! What the stories share.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::client::Client;
use larder_tests::cluster::writers::{Book, Verdict};
use larder_tests::cluster::{Cluster, Node, Plan};
use larder_tests::deadline::Deadline;
use larder_tests::process::{kvd_path, skip};
use tempfile::TempDir;

/// How long something may take that follows by itself.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long a number of writes may take that a story needs.
pub(crate) const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// The stories share two cores and have deadlines: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A cluster, while no other runs.
pub(crate) struct Alone {
    cluster: Cluster,
    /// The writers' journals: another directory than any node's.
    pub(crate) journals: TempDir,
    began: Instant,
    is_told: Cell<bool>,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Alone {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if !self.is_told.get() {
            println!(
                "the story was not told to its end; the nodes last printed:\n{}",
                self.printed()
            );
        }
    }
}

impl Alone {
    /// Says how a story ended.
    pub(crate) fn tell(&self, story: &str, what: &str) {
        self.is_told.set(true);
        println!("replication: {story}: {what}; {:.1} s", self.began.elapsed().as_secs_f64());
    }

    /// The addresses for clients of some nodes.
    pub(crate) fn resp(&self, nodes: &[usize]) -> Vec<SocketAddr> {
        nodes.iter().map(|index| self.nodes[*index].resp).collect()
    }
}

/// Waits until no other story is told.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cluster of the plan that is up; `None` where there is no kvd to run.
pub(crate) fn cluster(plan: &Plan) -> Result<Option<Alone>> {
    let alone = alone();
    let began = Instant::now();
    match kvd_path() {
        Ok(binary) => {
            let cluster = Cluster::start(&binary, plan)?;
            let journals = TempDir::with_prefix("larder-journals-")?;
            Ok(Some(Alone { cluster, journals, began, is_told: Cell::new(false), _alone: alone }))
        }
        Err(missing) => {
            skip("replication", &missing);
            Ok(None)
        }
    }
}

/// Lets time pass in which something else is counted or has its effect.
pub(crate) fn let_pass(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    Deadline::after(time + SOON)
        .wait_for("time to pass", || Ok((Instant::now() >= until).then_some(())))
}

/// Waits until the node answers a key with this value.
pub(crate) fn wait_for_value(node: &Node, key: &str, value: &str) -> Result<()> {
    let mut client = node.client()?;
    let mut last = String::new();
    Deadline::after(SOON)
        .wait_for("a value to arrive", || {
            let reply = client.call(&["GET", key])?;
            last = reply.describe();
            Ok((reply.text() == value.as_bytes()).then_some(()))
        })
        .with_context(|| format!("{key} at {} is {last}, not {value}", node.name))
}

/// Writes keys `PREFIX0` and so on; every one is acknowledged.
pub(crate) fn write_keys(client: &mut Client, prefix: &str, count: usize) -> Result<()> {
    for n in 0..count {
        client.expect_ok(&["SET", &format!("{prefix}{n}"), &n.to_string()])?;
    }
    Ok(())
}

/// Every one of these keys is there with its value.
pub(crate) fn expect_keys(client: &mut Client, prefix: &str, count: usize) -> Result<()> {
    for n in 0..count {
        let key = format!("{prefix}{n}");
        let reply = client.call(&["GET", &key])?;
        ensure!(reply.text() == n.to_string().as_bytes(), "{key} is {}", reply.describe());
    }
    Ok(())
}

/// Compares what writers were told with what every node has, once it has what the master has.
pub(crate) fn expect_kept(cluster: &Cluster, master: usize, book: &Book) -> Result<Verdict> {
    let mut client = cluster.nodes[master].client()?;
    // A master whose lease has just ended answers no reads until it has another.
    let verdict = Deadline::after(SOON)
        .wait_for("the master to answer", || Ok(book.compare(&mut client).ok()))?;
    verdict.expect_nothing_lost().context("at the master")?;
    for (index, node) in cluster.nodes.iter().enumerate() {
        if index == master || !node.is_running() {
            continue;
        }
        let mut client = node.client()?;
        let mut last = String::new();
        Deadline::after(SOON)
            .wait_for("the same as at the master", || {
                // Where it does not answer reads yet, it is asked again.
                let found = book.compare(&mut client);
                last = found.as_ref().map_or_else(|e| format!("{e:#}"), Verdict::to_string);
                Ok(found.is_ok_and(|found| found == verdict).then_some(()))
            })
            .with_context(|| format!("{} has: {last}; the master: {verdict}", node.name))?;
    }
    Ok(verdict)
}
