//! Lines that lose, delay, reorder and come and go, while everybody writes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::cluster::writers::Writers;
use larder_tests::cluster::{Cluster, Cut, Plan};
use larder_tests::faults::seed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::load::Load;
use crate::support::{LOAD_DEADLINE, cluster, expect_kept, expect_same_contents, let_pass};

/// How long the lines are bad.
const BAD: Duration = Duration::from_secs(10);
/// What one is like lasts so long, milliseconds.
const SPELL_MS: std::ops::Range<u64> = 20..300;
/// The greatest part of the datagrams that is lost.
const LOSS_MAX: f64 = 0.05;
const DELAY_MAX_MS: f64 = 20.0;
const JITTER_MAX_MS: f64 = 20.0;
/// How often what goes one way does not arrive at all.
const CUT: f64 = 0.25;

#[test]
fn at_majority_bad_lines_lose_nothing_acknowledged_and_keys_stay_linearizable() -> Result<()> {
    let Some(cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    let seed = seed();
    let load = Load::start(&cluster, seed)?;
    let shaken = shake(&cluster, &[0, 1, 2], BAD, seed)?;
    cluster.wait_until_streaming(0)?;
    load.wait_for_more(200)?;
    load.finish(&cluster, 0, &format!("{shaken} at majority"))
}

#[test]
fn at_near_bad_lines_lose_nothing_acknowledged_at_any_level_although_the_master_is_lost_then()
-> Result<()> {
    let mut nodes = Plan::three("near").nodes;
    nodes.insert(1, ("shenzhen-2", "shenzhen"));
    let Some(mut cluster) = cluster(&Plan { nodes, ..Plan::three("near") })? else {
        return Ok(());
    };
    let seed = seed();
    println!("replication: LARDER_SEED={seed}");
    let (all, journals) = (cluster.resp(&[0, 1, 2, 3]), cluster.journals.path());
    let near = Writers::start(&all, 3, "near", "near", journals)?;
    let majority = Writers::start(&all, 3, "majority", "majority", journals)?;
    let shaken = shake(&cluster, &[0, 1, 2, 3], BAD, seed)?;
    for writers in [&near, &majority] {
        writers.wait_for_more(200, LOAD_DEADLINE)?;
    }
    // Of the others the one beside it has most then, and no other can take over: in a region of its own
    // a master has nobody near.
    for far in [2, 3] {
        cluster.cut(0, far, Cut::Both)?;
    }
    near.wait_for_more(50, LOAD_DEADLINE)?;
    cluster.kill(0);
    let master = cluster.promote(1)?;
    ensure!(master == 1, "{} took over", cluster.nodes[master].name);
    // Until it is back, the new master is alone in its region, and no write is near.
    cluster.launch(0)?;
    cluster.wait_until_streaming(master)?;
    for writers in [&near, &majority] {
        writers.wait_for_more(200, LOAD_DEADLINE)?;
    }
    let (near, majority) = (near.finish()?, majority.finish()?);
    let near = expect_kept(&cluster, master, &near)?;
    let majority = expect_kept(&cluster, master, &majority)?;
    let keys = expect_same_contents(&cluster, master)?;
    cluster.tell(
        &format!("{shaken} at near"),
        &format!("{near}; at majority {majority}; {keys} keys, the same at every node"),
    );
    Ok(())
}

/// Changes what the lines between some nodes are like, each way by itself, and makes them whole in the
/// end. Returns how often, and how much did not arrive for it.
pub(crate) fn shake(
    cluster: &Cluster,
    nodes: &[usize],
    lasting: Duration,
    seed: u64,
) -> Result<String> {
    let before = not_arrived(cluster, nodes)?;
    let mut random = StdRng::seed_from_u64(seed);
    let (until, mut spells) = (Instant::now() + lasting, 0);
    while Instant::now() < until {
        let from = random.random_range(0..nodes.len());
        let to = (from + random.random_range(1..nodes.len())) % nodes.len();
        let shape = json!({
            "loss": random.random_range(0.0..LOSS_MAX),
            "delay_ms": random.random_range(0.0..DELAY_MAX_MS),
            "jitter_ms": random.random_range(0.0..JITTER_MAX_MS),
            "cut_send": random.random_bool(CUT),
        });
        cluster.shape_one_way(nodes[from], nodes[to], &shape)?;
        let_pass(Duration::from_millis(random.random_range(SPELL_MS)))?;
        spells += 1;
    }
    for (at, one) in nodes.iter().enumerate() {
        for other in &nodes[at + 1..] {
            cluster.shape(*one, *other, &json!({}))?;
        }
    }
    let after = not_arrived(cluster, nodes)?;
    let [lost, cut] = [after[0] - before[0], after[1] - before[1]];
    ensure!(lost > 0 && cut > 0, "no line was bad: {lost} datagrams lost, {cut} cut");
    Ok(format!("{spells} spells of bad lines with {lost} datagrams lost and {cut} cut"))
}

/// Datagrams that the lines of some nodes have lost at random, and those that met a cut.
fn not_arrived(cluster: &Cluster, nodes: &[usize]) -> Result<[u64; 2]> {
    let mut sums = [0, 0];
    for node in nodes {
        let lines = cluster.nodes[*node].get("/lab/shapes")?;
        for line in lines.as_array().context("a list of lines")? {
            for (sum, count) in sums.iter_mut().zip(["lost", "cut"]) {
                *sum += line[count].as_u64().with_context(|| format!("no {count} in {line}"))?;
            }
        }
    }
    Ok(sums)
}
