//! Ends of the process under load: by SIGKILL, which loses nothing that the operating system has,
//! and by SIGTERM, which drains.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_tests::faults::contents::read_contents;
use larder_tests::faults::store::{Engine, Setup, terminate};
use larder_tests::powercut::operation::Generator;
use larder_tests::powercut::oracle::{Oracle, Promise};
use larder_tests::powercut::traffic::{Journal, Traffic};
use larder_tests::process::Server;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// Connections that write.
const LANES: usize = 6;
/// How often it is killed.
const KILLS: usize = 20;
/// How often it is stopped.
const STOPS: usize = 3;
/// How long the load before an end may take.
const LOAD_DEADLINE: Duration = Duration::from_secs(20);
/// What a start after a stop may take: nothing is to be replayed.
const RESTART_MAX: Duration = Duration::from_secs(2);

pub(crate) fn a_storm_of_kills(binary: &Path, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rounds = Rounds::new(binary, seed)?;
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let goal = random.random_range(200..4_000);
        let round = rounds.run(goal, |server| {
            server.kill();
            Ok(())
        });
        acknowledged += round.with_context(|| format!("kill {kill}"))?;
    }
    println!("  {KILLS} kills, {acknowledged} acknowledged writes, 0 lost");
    Ok(())
}

pub(crate) fn a_stop_under_load(binary: &Path, seed: u64) -> Result<()> {
    let mut rounds = Rounds::new(binary, seed)?;
    for stop in 0..STOPS {
        let round = rounds.run(3_000, |server| {
            terminate(server)?;
            let status = server.wait_until_ended()?;
            ensure!(status.success(), "it ended with {status}:\n{}", server.stderr());
            Ok(())
        });
        let acknowledged = round.with_context(|| format!("stop {stop}"))?;
        ensure!(rounds.restart <= RESTART_MAX, "the restart took {:?}", rounds.restart);
        let info = rounds.server.client()?.expect_ok(&["INFO"])?;
        let info = String::from_utf8_lossy(info.text()).into_owned();
        ensure!(info.contains("opening_replayed_records:0\r"), "records were replayed:\n{info}");
        println!("  {acknowledged} acknowledged, restart in {:?}", rounds.restart);
    }
    Ok(())
}

/// Load and end, again and again on one data directory.
struct Rounds {
    setup: Setup,
    server: Server,
    scratch: TempDir,
    oracle: Oracle,
    generators: Vec<Generator>,
    round: usize,
    /// What the last start took.
    restart: Duration,
}

impl Rounds {
    fn new(binary: &Path, seed: u64) -> Result<Self> {
        let scratch = TempDir::with_prefix("larder-kills-")?;
        let setup = Setup::new(Engine::Kvd(binary.to_path_buf()));
        let server = setup.start(&scratch.path().join("data"))?;
        Ok(Self {
            setup,
            server,
            scratch,
            oracle: Oracle::new(LANES),
            generators: (0..LANES).map(|lane| Generator::new(lane, seed)).collect(),
            round: 0,
            restart: Duration::ZERO,
        })
    }

    /// Loads, ends the server, starts it again and compares. Returns how many operations were
    /// acknowledged.
    fn run(&mut self, goal: usize, end: impl FnOnce(&mut Server) -> Result<()>) -> Result<usize> {
        for (lane, generator) in self.generators.iter_mut().enumerate() {
            generator.begin_round(self.round, self.oracle.lane(lane));
        }
        let traffic = Traffic::start(self.server.address(), std::mem::take(&mut self.generators))?;
        traffic.wait_for_acknowledged(goal, LOAD_DEADLINE)?;
        end(&mut self.server)?;
        let (generators, journals) = traffic.finish()?;
        self.generators = generators;
        check_no_errors(&journals)?;
        let starting = Instant::now();
        self.server = self.setup.start(&self.scratch.path().join("data"))?;
        self.restart = starting.elapsed();
        let found = read_contents(&mut self.server.client()?)?;
        let verdict =
            self.oracle.settle(&journals, found, Promise::Acknowledged, Instant::now())?;
        self.round += 1;
        Ok(verdict.acknowledged)
    }
}

/// An end may leave operations unanswered; it does not answer them with an error.
fn check_no_errors(journals: &[Journal]) -> Result<()> {
    let error = journals.iter().flatten().find_map(|entry| match &entry.answer {
        Some((_, Some(error))) => Some(error),
        _ => None,
    });
    ensure!(error.is_none(), "a write was answered with {error:?}");
    Ok(())
}
