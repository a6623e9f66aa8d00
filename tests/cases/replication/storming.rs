//! Everything at once, in an order that a seed decides: nodes are killed and stand still, lines are
//! cut, and an operator promotes and switches over, at the right moments and at the wrong ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use larder_tests::cluster::{Cut, LEASE, Plan};
use larder_tests::deadline::Deadline;
use larder_tests::faults::seed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::load::Load;
use crate::support::{Alone, SOON, cluster, let_pass};

/// How long there is always some trouble, and how much longer at most until all of it has been met.
const STORM: Duration = Duration::from_secs(20);
/// Time between one trouble and the next, milliseconds.
const BETWEEN_MS: std::ops::Range<u64> = 50..900;
/// How often a trouble ends before the next one comes.
const MENDED: f64 = 0.6;

#[test]
fn at_majority_a_storm_of_kills_pauses_cuts_and_switches_loses_nothing_acknowledged() -> Result<()>
{
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let seed = seed();
    let load = Load::start(&cluster, seed)?;
    let random = StdRng::seed_from_u64(seed);
    let mut storm = Storm { cluster, random, hurt: None, cut: false, counts: BTreeMap::new() };
    let storm_over = Deadline::after(STORM);
    let all_met_by = Deadline::after(2 * STORM);
    while !storm_over.has_passed() || !(storm.met_all() || all_met_by.has_passed()) {
        storm.trouble()?;
        let_pass(Duration::from_millis(storm.random.random_range(BETWEEN_MS)))?;
        if storm.random.random_bool(MENDED) {
            storm.mend()?;
        }
        storm.see_to_a_master();
    }
    storm.mend()?;
    let master = storm.wait_for_a_master()?;
    ensure!(storm.met_all(), "one kind of trouble never came: {:?}", storm.counts);
    let Storm { cluster, counts, .. } = storm;
    cluster.wait_until_streaming(master)?;
    load.wait_for_more(200)?;
    load.finish(&cluster, master, &format!("a storm at majority, LARDER_SEED={seed}: {counts:?}"))
}

/// A cluster in trouble: one node and one line at a time at most, so that there is a majority when
/// both have been mended.
struct Storm {
    cluster: Alone,
    random: StdRng,
    hurt: Option<Hurt>,
    cut: bool,
    /// What was done how often.
    counts: BTreeMap<&'static str, usize>,
}

/// A node that does not work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hurt {
    Killed(usize),
    Standing(usize, Instant),
}

impl Storm {
    fn trouble(&mut self) -> Result<()> {
        let node = self.random.random_range(0..3);
        let other = (node + self.random.random_range(1..3)) % 3;
        match self.random.random_range(0..6) {
            0 if self.hurt.is_none() => {
                self.cluster.kill(node);
                self.hurt = Some(Hurt::Killed(node));
                self.count("kill -9");
            }
            1 if self.hurt.is_none() => {
                self.cluster.nodes[node].signal(Signal::STOP)?;
                self.hurt = Some(Hurt::Standing(node, Instant::now()));
                self.count("SIGSTOP");
            }
            2 => self.cut_line(node, other, Cut::Both, "cut both ways")?,
            3 => self.cut_line(node, other, Cut::OneWay, "cut one way")?,
            4 => self.promote(node),
            _ => self.switch_over(other),
        }
        Ok(())
    }

    fn cut_line(&mut self, from: usize, to: usize, cut: Cut, name: &'static str) -> Result<()> {
        if !self.cut && self.works(from) && self.works(to) {
            self.cluster.cut(from, to, cut)?;
            self.cut = true;
            self.count(name);
        }
        Ok(())
    }

    /// Has a node promote; what it refuses is as well.
    fn promote(&mut self, node: usize) {
        if self.works(node) {
            let done = self.cluster.nodes[node].kv(&["shard", "promote", "--yes"]);
            self.count(if done.is_ok() { "promoted" } else { "promotion refused" });
        }
    }

    fn switch_over(&mut self, to: usize) {
        let Some(master) = self.master().filter(|master| *master != to) else { return };
        let to = self.cluster.nodes[to].name;
        let done = self.cluster.nodes[master].kv(&["shard", "switchover", to]);
        self.count(if done.is_ok() { "switched over" } else { "switchover undone" });
    }

    /// Ends what there is of trouble. A node stands for longer than a lease.
    fn mend(&mut self) -> Result<()> {
        match self.hurt.take() {
            Some(Hurt::Killed(node)) => self.cluster.launch(node)?,
            Some(Hurt::Standing(node, since)) => {
                let_pass((since + LEASE * 3 / 2).saturating_duration_since(Instant::now()))?;
                self.cluster.nodes[node].signal(Signal::CONT)?;
            }
            None => {}
        }
        self.cut = false;
        self.cluster.heal()
    }

    /// As an operator does: where nobody leads, somebody is asked to.
    fn see_to_a_master(&mut self) {
        if self.master().is_none() {
            let node = self.random.random_range(0..3);
            self.promote(node);
        }
    }

    /// Who leads once all trouble has ended.
    fn wait_for_a_master(&mut self) -> Result<usize> {
        Deadline::after(SOON).wait_for("a master", || {
            self.see_to_a_master();
            Ok(self.master())
        })
    }

    /// Who leads in the newest term, of the nodes that work.
    fn master(&self) -> Option<usize> {
        let views = (0..3).filter(|node| self.works(*node)).filter_map(|node| {
            let view = self.cluster.nodes[node].get("/replication").ok()?;
            (view["role"] == "master").then_some((view["term"].as_u64()?, node))
        });
        views.max().map(|(_, node)| node)
    }

    fn works(&self, node: usize) -> bool {
        match self.hurt {
            Some(Hurt::Killed(hurt) | Hurt::Standing(hurt, _)) => hurt != node,
            None => true,
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Whether a node was hurt, a line was cut, and another node has become master in order.
    fn met_all(&self) -> bool {
        let kinds = [
            ["kill -9", "SIGSTOP"],
            ["cut both ways", "cut one way"],
            ["promoted", "switched over"],
        ];
        kinds.iter().all(|names| names.iter().any(|name| self.counts.contains_key(name)))
    }
}
