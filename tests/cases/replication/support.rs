//! What the stories share.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::client::{Client, encode_into};
use larder_tests::cluster::writers::{Book, Verdict};
use larder_tests::cluster::{Cluster, Node, Plan, member};
use larder_tests::deadline::Deadline;
use larder_tests::faults::contents::{differences, read_contents};
use larder_tests::process::{kvd_path, skip};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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
    /// The writers' journals: on another file system than any node's data.
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
            let journals = beside(&cluster.nodes)?;
            Ok(Some(Alone { cluster, journals, began, is_told: Cell::new(false), _alone: alone }))
        }
        Err(missing) => {
            skip("replication", &missing);
            Ok(None)
        }
    }
}

/// A directory on another file system than the data of any of these nodes.
fn beside(nodes: &[Node]) -> Result<TempDir> {
    let device = |path: &Path| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.dev());
    let theirs = nodes.iter().map(|node| device(node.data())).collect::<Result<Vec<_>>>()?;
    let places = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    let is_free = |place: &&PathBuf| device(place).is_ok_and(|own| !theirs.contains(&own));
    let place = places.iter().find(is_free);
    let place = place.context("no file system but the nodes' for journals: mount /dev/shm")?;
    Ok(TempDir::with_prefix_in("larder-journals-", place)?)
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

/// Writes keys `PREFIX0` and so on in one pipeline.
pub(crate) fn pour(
    client: &mut Client,
    prefix: &str,
    count: usize,
    value: impl Fn(usize) -> String,
) -> Result<()> {
    let mut wire = Vec::new();
    for batch in (0..count).collect::<Vec<_>>().chunks(500) {
        wire.clear();
        for number in batch {
            encode_into(&mut wire, &["SET", &format!("{prefix}{number}"), &value(*number)]);
        }
        client.send_raw(&wire)?;
        for _ in batch {
            let reply = client.reply()?.reply;
            ensure!(reply.is_simple("OK"), "{}", reply.describe());
        }
    }
    Ok(())
}

/// Letters that do not compress away.
pub(crate) fn random_text(bytes: usize) -> String {
    let random = StdRng::seed_from_u64(1);
    random.sample_iter(Alphanumeric).take(bytes).map(char::from).collect()
}

/// How often a node was given everything, as the first one counts that leads.
pub(crate) fn full_syncs(cluster: &Cluster, index: usize) -> Result<u64> {
    full_syncs_by(cluster, 0, index)
}

/// The same, as `master` counts.
pub(crate) fn full_syncs_by(cluster: &Cluster, master: usize, index: usize) -> Result<u64> {
    let view = cluster.nodes[master].get("/replication")?;
    let slave = member(&view, cluster.nodes[index].name);
    slave["full_syncs"].as_u64().with_context(|| format!("no count in {slave}"))
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
/// Nothing that was acknowledged may be lost.
pub(crate) fn expect_kept(cluster: &Cluster, master: usize, book: &Book) -> Result<Verdict> {
    let verdict = expect_same(cluster, master, book)?;
    verdict.expect_nothing_lost().context("at every node")?;
    Ok(verdict)
}

/// The same, and says what is lost.
pub(crate) fn expect_same(cluster: &Cluster, master: usize, book: &Book) -> Result<Verdict> {
    let mut client = cluster.nodes[master].client()?;
    // A master whose lease has just ended answers no reads until it has another.
    let verdict = Deadline::after(SOON)
        .wait_for("the master to answer", || Ok(book.compare(&mut client).ok()))?;
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

/// Every node holds the very same, once all has arrived. Returns how many keys that are.
pub(crate) fn expect_same_contents(cluster: &Cluster, master: usize) -> Result<usize> {
    let expected = read_contents(&mut cluster.nodes[master].client()?)?;
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let mut client = node.client()?;
        let mut differing = Vec::new();
        Deadline::after(SOON)
            .wait_for("the contents of the master", || {
                // Where it does not answer reads yet, it is asked again.
                differing = match read_contents(&mut client) {
                    Ok(found) => differences(&expected, &found),
                    Err(error) => vec![format!("{error:#}")],
                };
                Ok(differing.is_empty().then_some(()))
            })
            .with_context(|| format!("{} differs: {differing:?}", node.name))?;
    }
    Ok(expected.len())
}

/// The keys that the exports of a node hold, as `kv` shows them.
pub(crate) fn exported(node: &Node) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    let files = node.kv(&["log", "parted", "list"])?;
    for file in files.as_array().context("a list of exports")? {
        let name = file["name"].as_str().with_context(|| format!("no name in {file}"))?;
        let shown = node.kv(&["log", "parted", "show", name])?;
        let records = shown["records"].as_array().context("records")?;
        let effects = records.iter().filter_map(|record| record["effects"].as_array()).flatten();
        keys.extend(effects.filter_map(|effect| effect["key"].as_str().map(str::to_owned)));
    }
    Ok(keys)
}
