//! One cycle: start, load, cut, end, mount again, start again, compare.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use larder_tests::deadline::Deadline;
use larder_tests::faults::contents::read_contents;
use larder_tests::faults::store::Setup;
use larder_tests::loopmount::{Cut, CutKind, LoopMount};
use larder_tests::powercut::operation::Generator;
use larder_tests::powercut::oracle::{Oracle, Promise, Verdict};
use larder_tests::powercut::traffic::{Journal, Traffic};
use larder_tests::process::Server;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Connections that write.
const LANES: usize = 6;
/// Room for everything that a run writes.
const IMAGE_BYTES: u64 = 1 << 30;
/// How long the load before a cut may take.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long a server under load may take to notice that its disk has gone.
const NOTICE_DEADLINE: Duration = Duration::from_secs(10);
/// The exit code after an I/O error on the log.
const EXIT_IO: i32 = 74;

/// A store on a mount of its own, and what it must hold.
pub(crate) struct Cycle {
    setup: Setup,
    /// Declared before the mount, so that it ends before the unmount.
    server: Option<Server>,
    mount: LoopMount,
    oracle: Oracle,
    generators: Vec<Generator>,
    random: StdRng,
    round: usize,
}

/// What comes before a cut, and the cut.
pub(crate) struct Load {
    /// How many operations are acknowledged at least; the number is drawn from this range.
    pub(crate) acknowledged: Range<usize>,
    /// How long it lasts at least.
    pub(crate) lasting: Duration,
    /// What is cut.
    pub(crate) kind: CutKind,
}

/// What one cut showed.
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// Operations sent and unanswered when the cut was issued.
    pub(crate) in_flight: usize,
    /// From the start of the process to its first PONG.
    pub(crate) restart: Duration,
    /// How long before the cut the first lost operation had been acknowledged.
    pub(crate) loss_reach: Option<Duration>,
    /// INFO, before the cut.
    pub(crate) info: String,
    /// Power was cut again while the store was recovering.
    cut_again: bool,
}

impl Cycle {
    /// An empty store.
    pub(crate) fn new(setup: Setup, seed: u64) -> Result<Self> {
        Ok(Self {
            setup,
            server: None,
            mount: LoopMount::create(IMAGE_BYTES)?,
            oracle: Oracle::new(LANES),
            generators: (0..LANES).map(|lane| Generator::new(lane, seed)).collect(),
            random: StdRng::seed_from_u64(seed),
            round: 0,
        })
    }

    /// Loads, cuts, starts again and compares.
    pub(crate) fn run(&mut self, load: &Load, promise: Promise) -> Result<Outcome> {
        let server = match self.server.take() {
            Some(server) => server,
            None => self.setup.start(&self.mount.path().join("data"))?,
        };
        self.server = Some(server);
        let (journals, cut, in_flight, info) = self.load_and_cut(load)?;
        check_answers(&journals, cut)?;
        self.mount.remount()?;
        let cut_again = self.random.random_bool(0.2) && self.cut_while_recovering()?;
        let starting = Instant::now();
        let server = self.server.insert(self.setup.start(&self.mount.path().join("data"))?);
        let restart = starting.elapsed();
        let found = read_contents(&mut server.client()?)?;
        let verdict = self.oracle.settle(&journals, found, promise, cut.issued)?;
        self.round += 1;
        let loss_reach = verdict.first_loss.map(|at| cut.issued.saturating_duration_since(at));
        Ok(Outcome { verdict, in_flight, restart, loss_reach, info, cut_again })
    }

    /// Leaves no process behind, and the mount without power.
    fn load_and_cut(&mut self, load: &Load) -> Result<(Vec<Journal>, Cut, usize, String)> {
        let mut server = self.server.take().context("a running server")?;
        for (lane, generator) in self.generators.iter_mut().enumerate() {
            generator.begin_round(self.round, self.oracle.lane(lane));
        }
        let began = Instant::now();
        let traffic = Traffic::start(server.address(), std::mem::take(&mut self.generators))?;
        let goal = self.random.random_range(load.acknowledged.clone());
        let switch = self.mount.arm()?;
        let mut control = server.client()?;
        if self.random.random_bool(0.5) {
            traffic.wait_for_acknowledged(goal / 2, LOAD_DEADLINE)?;
            // Redis may refuse it while another is under way, which is no matter here.
            control.call(&["BGSAVE"])?;
        }
        let info = String::from_utf8_lossy(control.expect_ok(&["INFO"])?.text()).into_owned();
        traffic
            .wait_for_acknowledged(goal, LOAD_DEADLINE)
            .with_context(|| format!("the store said:\n{}", server.stderr()))?;
        Deadline::after(LOAD_DEADLINE).wait_for("the load to have lasted", || {
            Ok((began.elapsed() >= load.lasting).then_some(()))
        })?;
        let in_flight = traffic.in_flight();
        let cut = switch.cut(load.kind)?;
        let noticed = self.wait_for_the_end(&mut server);
        server.kill();
        let (generators, journals) = traffic.finish()?;
        self.generators = generators;
        noticed.with_context(|| format!("the store said:\n{}", server.stderr()))?;
        Ok((journals, cut, in_flight, info))
    }

    /// The load goes on, so the server meets the dead disk at once, and must end over it.
    fn wait_for_the_end(&self, server: &mut Server) -> Result<()> {
        if !self.setup.engine.is_kvd() {
            return Ok(());
        }
        let status = Deadline::after(NOTICE_DEADLINE)
            .wait_for("the store to end without its disk", || server.exit_status())?;
        if status.code() != Some(EXIT_IO) {
            bail!("it ended with {status}, and not with code {EXIT_IO}");
        }
        Ok(())
    }

    /// Starts it and cuts the power some milliseconds later, whether it is ready by then or not.
    fn cut_while_recovering(&mut self) -> Result<bool> {
        let scratch = tempfile::TempDir::with_prefix("larder-recovering-")?;
        let address = larder_tests::process::free_address()?;
        let data = self.mount.path().join("data");
        let mut command = self.setup.command(&data, address.port(), scratch.path())?;
        let output = std::fs::File::create(scratch.path().join("output"))?;
        command.stdout(output.try_clone()?).stderr(output);
        let switch = self.mount.arm()?;
        let mut child = command.spawn()?;
        let wait = Duration::from_millis(self.random.random_range(2..60));
        let ended = Deadline::after(wait).wait_for("its end", || Ok(child.try_wait()?));
        let cut = switch.cut(CutKind::Everything);
        // It may have ended by itself over the cut.
        let _ = child.kill();
        child.wait()?;
        cut?;
        ensure!(ended.is_err(), "it ended before the second cut: {ended:?}");
        self.mount.remount()?;
        Ok(true)
    }
}

/// No error before the cut, and no acknowledgement of what was sent after it.
fn check_answers(journals: &[Journal], cut: Cut) -> Result<()> {
    for (lane, journal) in journals.iter().enumerate() {
        for (index, entry) in journal.iter().enumerate() {
            match &entry.answer {
                Some((at, Some(error))) if *at < cut.issued => {
                    bail!("lane {lane} operation {index} failed before the cut: {error}")
                }
                Some((_, None)) if entry.sent > cut.done => bail!(
                    "lane {lane} operation {index} was sent {:?} after the cut and acknowledged",
                    entry.sent - cut.done
                ),
                _ => {}
            }
        }
    }
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = &self.verdict;
        write!(
            f,
            "{} acknowledged, {} in flight at the cut, {} not acknowledged of which {} are \
             there, {} lost{}, restart {} ms{}",
            verdict.acknowledged,
            self.in_flight,
            verdict.unacknowledged,
            verdict.unacknowledged_kept,
            verdict.lost,
            self.loss_reach.map_or_else(String::new, |reach| format!(" (of the last {reach:?})")),
            self.restart.as_millis(),
            if self.cut_again { ", cut again while recovering" } else { "" },
        )
    }
}

/// The sums of a run.
#[derive(Default)]
pub(crate) struct Sums {
    cuts: usize,
    acknowledged: usize,
    in_flight: usize,
    unacknowledged_kept: usize,
    pub(crate) lost: usize,
    cut_again: usize,
    restart_max: Duration,
}

impl Sums {
    /// Adds one cut.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.cuts += 1;
        self.acknowledged += outcome.verdict.acknowledged;
        self.in_flight += outcome.in_flight;
        self.unacknowledged_kept += outcome.verdict.unacknowledged_kept;
        self.lost += outcome.verdict.lost;
        self.cut_again += usize::from(outcome.cut_again);
        self.restart_max = self.restart_max.max(outcome.restart);
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cuts (and {} during recovery), {} acknowledged writes, {} in flight at the cuts, \
             {} unacknowledged writes there all the same, {} acknowledged writes lost, restart at \
             most {} ms",
            self.cuts,
            self.cut_again,
            self.acknowledged,
            self.in_flight,
            self.unacknowledged_kept,
            self.lost,
            self.restart_max.as_millis(),
        )
    }
}
