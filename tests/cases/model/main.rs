//! Random commands through the port of a real `kvd`, against an ordered map: every reply, and
//! everything that is stored, through kills, stops and flushes. Checkpoints that are gone on with are in
//! the models of the store and of the state (storage/tests): a node alone makes none.
//!
//! `LARDER_SEED` repeats a run, and `LARDER_ENGINE=redis` tries the model itself with redis-server.

mod generate;
mod map;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use larder_tests::client::{Client, encode_into};
use larder_tests::deadline::Deadline;
use larder_tests::faults::contents::{differences, read_contents};
use larder_tests::faults::seed;
use larder_tests::faults::store::{Engine, Setup, flush, terminate};
use larder_tests::process::{Server, skip};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use generate::{Generator, VOLATILE_AHEAD_MS};
use map::Map;

/// The time after which no new round is begun.
const RUN_FOR: Duration = Duration::from_secs(35);
/// Rounds a run at least, each ended by a restart.
const ROUNDS_MIN: usize = 8;
/// Pipelines of a round, at most.
const PIPELINES_MAX: usize = 60;
/// Flushes a run at least: the state is on disk as of a record that is known.
const FLUSHES_MIN: usize = 20;
/// Commands of a pipeline, at most.
const PIPELINE_MAX: usize = 40;

#[test]
fn a_store_and_an_ordered_map_answer_and_hold_the_same() -> Result<()> {
    let engine = match Engine::under_test() {
        Ok(engine) => engine,
        Err(missing) => {
            skip("model", &missing);
            return Ok(());
        }
    };
    let (seed, started) = (seed(), Instant::now());
    println!("model: LARDER_SEED={seed}, {engine:?}");
    let mut run = Run::new(engine, seed)?;
    let mut rounds = 0;
    while rounds < ROUNDS_MIN || started.elapsed() < RUN_FOR {
        run.round().with_context(|| format!("round {rounds} with LARDER_SEED={seed}"))?;
        rounds += 1;
    }
    println!(
        "model: {rounds} restarts ({} by SIGKILL), {} commands, {} comparisons of everything, {} \
         flushes, {} keys at the end; used {:?}",
        run.kills,
        run.commands,
        run.comparisons,
        run.flushes,
        run.map.contents().len(),
        started.elapsed()
    );
    ensure!(run.flushes >= FLUSHES_MIN, "{} flushes", run.flushes);
    Ok(())
}

#[test]
fn an_altered_map_is_noticed() -> Result<()> {
    let engine = match Engine::under_test() {
        Ok(engine) => engine,
        Err(missing) => {
            skip("model", &missing);
            return Ok(());
        }
    };
    let mut run = Run::new(engine, 1)?;
    for _ in 0..20 {
        run.pipeline()?;
    }
    run.compare()?;
    let correct = run.map.clone();
    for alteration in 0..3 {
        run.map = correct.clone();
        ensure!(run.map.alter(alteration), "nothing to alter after {} commands", run.commands);
        ensure!(run.compare().is_err(), "alteration {alteration} was not noticed");
    }
    Ok(())
}

/// A store, and what it must hold.
struct Run {
    setup: Setup,
    server: Server,
    client: Client,
    scratch: TempDir,
    map: Map,
    generator: Generator,
    random: StdRng,
    commands: usize,
    comparisons: usize,
    flushes: usize,
    kills: usize,
}

impl Run {
    fn new(engine: Engine, seed: u64) -> Result<Self> {
        let scratch = TempDir::with_prefix("larder-model-")?;
        let setup = Setup { segment_bytes: 128 << 10, layer_bytes: 64 << 10, ..Setup::new(engine) };
        let server = setup.start(&scratch.path().join("data"))?;
        let client = server.client()?;
        Ok(Self {
            setup,
            server,
            client,
            scratch,
            map: Map::default(),
            generator: Generator::new(seed),
            random: StdRng::seed_from_u64(seed ^ 1),
            commands: 0,
            comparisons: 0,
            flushes: 0,
            kills: 0,
        })
    }

    /// Commands, flushes and comparisons, and a restart at the end.
    fn round(&mut self) -> Result<()> {
        for _ in 0..self.random.random_range(1..=PIPELINES_MAX) {
            self.pipeline()?;
            if self.random.random_ratio(1, 25) {
                self.flush()?;
            }
            if self.random.random_ratio(1, 40) {
                self.compare()?;
            }
        }
        if self.random.random_bool(0.6) {
            self.server.kill();
            self.kills += 1;
        } else {
            terminate(&self.server)?;
            let status = self.server.wait_until_ended()?;
            ensure!(status.success(), "it ended with {status}:\n{}", self.server.stderr());
        }
        self.server = self.setup.start(&self.scratch.path().join("data"))?;
        self.client = self.server.client()?;
        self.compare().context("after the restart")
    }

    /// Has the state flushed, and waits until all that was written is on disk.
    fn flush(&mut self) -> Result<()> {
        if !self.setup.engine.is_kvd() {
            // It may refuse it while another is under way.
            self.client.call(&["BGSAVE"])?;
        } else {
            flush(&mut self.client)?;
        }
        self.flushes += 1;
        Ok(())
    }

    /// Sends some commands at once and compares the replies.
    fn pipeline(&mut self) -> Result<()> {
        let now = now_ms();
        let count = self.random.random_range(1..=PIPELINE_MAX);
        let commands: Vec<_> = (0..count).flat_map(|_| self.generator.commands(now)).collect();
        let mut wire = Vec::new();
        for command in &commands {
            encode_into(&mut wire, command);
        }
        self.client.send_raw(&wire)?;
        for command in &commands {
            let expected = self.map.answer(command, now);
            let found = self.client.reply()?;
            if let Some(expected) = expected {
                ensure!(
                    found.bytes == expected,
                    "{} was answered with {:?} and not with {:?}",
                    shown(command),
                    String::from_utf8_lossy(&found.bytes),
                    String::from_utf8_lossy(&expected)
                );
            } else {
                ensure!(!found.reply.is_error(), "{}: {}", shown(command), found.reply.describe());
            }
        }
        self.commands += commands.len();
        Ok(())
    }

    /// Compares everything, once all that expires soon has expired.
    fn compare(&mut self) -> Result<()> {
        let settled = Deadline::after(Duration::from_millis(2 * VOLATILE_AHEAD_MS)).wait_for(
            "keys to expire",
            || {
                let now = now_ms();
                let soon = now..now + 2 * VOLATILE_AHEAD_MS;
                let mut times = self.map.contents().values().filter_map(|stored| stored.expires_at);
                Ok((!times.any(|at| soon.contains(&at))).then_some(now))
            },
        )?;
        self.map.expire(settled);
        self.comparisons += 1;
        let found = read_contents(&mut self.client)?;
        let differences = differences(self.map.contents(), &found);
        ensure!(
            differences.is_empty(),
            "{} keys expected, {} found; {}",
            self.map.contents().len(),
            found.len(),
            differences.join("; ")
        );
        Ok(())
    }
}

fn shown(command: &[Vec<u8>]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
    words.join(" ")
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
