//! `kv bench`: a load generator that measures what a user would have waited.

mod alarm;
mod load;
mod report;
mod samples;
mod schedule;
mod workload;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::args::{Bench, Format, Target};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output;
use load::{Load, Phase, SharedSamples, Task};
use report::{Report, Run};
use samples::Samples;
use schedule::Schedule;
use workload::{Values, Workload};

/// Requests in flight on each connection while keys are written before the first run.
const POPULATE_PIPELINE: usize = 64;

/// Connections that are being made at a time: below the backlog of a listening socket.
const CONNECTING_MAX: usize = 100;

/// From the last connection to the first request: so that all tasks are there in time.
const START_DELAY: Duration = Duration::from_millis(20);

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);

/// A time that no run reaches.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Runs `kv bench` and prints its report.
///
/// # Errors
/// No connection at the start, a file that cannot be written, or requests that failed (after the
/// report is printed).
pub(crate) fn run(target: &Target, settings: &Bench) -> Result<(), Failure> {
    // Before the load, so that an hour's figures are not lost to a wrong path.
    let file =
        settings.json.as_ref().map(open_report).transpose().map_err(json_failed(settings))?;
    allow_open_files();
    let threads = usize::try_from(settings.threads).unwrap_or(1);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let bench = Measurement {
        target: Arc::new(target.clone()),
        values: Arc::new(Values::new(settings.value_size as usize, settings.seed)),
        settings: settings.clone(),
        shards: threads,
    };
    let report = runtime.block_on(bench.run())?;
    let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)?;
    if let Some(file) = file {
        replace_report(file, &json).map_err(json_failed(settings))?;
    }
    match target.output {
        Format::Json => output::print_line(&json)?,
        Format::Table => {
            output::print_line(&format!(
                "all {} runs: median {:.0} requests/s\n{}\nlatency is {}",
                settings.runs,
                report.achieved_per_s_median,
                report.table(),
                report.latency_is
            ))?;
        }
    }
    report.failures().map_or(Ok(()), |failures| Err(Failure::Unmet(failures)))
}

/// Raises the limit of open files as far as that needs no rights: a connection takes two, and the
/// usual limit is 1024. Where it stays too low, the connection that is too many says so.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Opens the file for the report; what it holds stays until there is another.
fn open_report(path: &PathBuf) -> std::io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(path)
}

fn replace_report(mut file: File, json: &str) -> std::io::Result<()> {
    // A pipe or a terminal has no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    writeln!(file, "{json}")
}

fn json_failed(settings: &Bench) -> impl Fn(std::io::Error) -> Failure {
    let path = settings.json.clone().unwrap_or_default();
    move |source| Failure::Local { what: format!("cannot write {}", path.display()), source }
}

/// What all runs share.
struct Measurement {
    target: Arc<Target>,
    settings: Bench,
    values: Arc<Values>,
    /// Samples are kept in as many parts as there are threads, which then seldom wait for each
    /// other.
    shards: usize,
}

impl Measurement {
    async fn run(&self) -> Result<Report, Failure> {
        if self.settings.populate {
            self.populate().await?;
        }
        let mut runs = Vec::new();
        let mut all = Samples::new();
        for number in 1..=self.settings.runs {
            let samples = self.measure(number).await?;
            let run = Run::of(number, &self.settings, &samples);
            if self.target.output == Format::Table {
                output::print_line(&run.line(self.settings.runs))?;
            }
            for warning in run.warnings() {
                output::note(&format!("warning: {warning}"));
            }
            runs.push(run);
            all.add(&samples);
        }
        Ok(Report::of(&self.target, &self.settings, runs, &all))
    }

    /// One run: connects, warms up, measures.
    async fn measure(&self, number: u64) -> Result<Samples, Failure> {
        let Bench { rate, connections, seconds, warmup_seconds, .. } = self.settings;
        let streams = self.connect().await?;
        let start = Instant::now() + START_DELAY;
        let measure_from = start + Duration::from_secs(warmup_seconds);
        let end = measure_from + Duration::from_secs(seconds);
        let phase = Phase { start, measure_from, end, give_up: end + self.target.timeout() };
        let shards = self.shards();
        let mut tasks = JoinSet::new();
        for (index, stream) in (0..).zip(streams) {
            let workload = Workload::mixed(
                self.settings.keys,
                self.settings.read_ratio,
                self.values.clone(),
                seed_of(self.settings.seed, number, index),
            );
            let load = Load::new(Task {
                target: self.target.clone(),
                phase,
                schedule: Schedule::new(rate, connections, index),
                workload,
                pipeline: self.settings.pipeline as usize,
                reconnects: true,
                samples: shards[index as usize % shards.len()].clone(),
            })?;
            tasks.spawn(load.run(stream));
        }
        let bar = progress(warmup_seconds + seconds, "{bar:30} {pos}/{len} s, run {msg}");
        bar.set_message(number.to_string());
        let seconds_shown = |bar: &ProgressBar| {
            bar.set_position(start.elapsed().as_secs());
            Ok(())
        };
        watch(&mut tasks, &bar, seconds_shown).await?;
        bar.finish_and_clear();
        Ok(sum(&shards))
    }

    /// Writes every key once, as fast as the server takes them.
    async fn populate(&self) -> Result<(), Failure> {
        let Bench { keys, connections, seed, .. } = self.settings;
        let streams = self.connect().await?;
        let now = Instant::now();
        let phase = Phase { start: now, measure_from: now, end: now + FAR, give_up: now + FAR };
        let shards = self.shards();
        let mut tasks = JoinSet::new();
        for (index, stream) in (0..).zip(streams) {
            let part = share_of(keys, connections, index)..share_of(keys, connections, index + 1);
            let load = Load::new(Task {
                target: self.target.clone(),
                phase,
                schedule: None,
                workload: Workload::populate(part, self.values.clone(), seed_of(seed, 0, index)),
                pipeline: POPULATE_PIPELINE,
                reconnects: false,
                samples: shards[index as usize % shards.len()].clone(),
            })?;
            tasks.spawn(load.run(stream));
        }
        let bar = progress(keys, "{bar:30} {pos}/{len} keys written, {eta} left");
        let mut written = (0, Instant::now());
        let timeout = self.target.timeout();
        let stalls = |bar: &ProgressBar| {
            let completed = completed(&shards);
            bar.set_position(completed);
            if completed > written.0 {
                written = (completed, Instant::now());
            }
            if written.1.elapsed() < timeout {
                return Ok(());
            }
            let reason = format!("no key was written for {} ms", timeout.as_millis());
            Err(Failure::Lost { server: self.target.server.to_string(), reason })
        };
        watch(&mut tasks, &bar, stalls).await?;
        bar.finish_and_clear();
        let samples = sum(&shards);
        match samples.errors.first_key_value() {
            None if samples.lost == 0 => Ok(()),
            None => Err(Failure::Lost {
                server: self.target.server.to_string(),
                reason: "the server closed it while keys were being written".to_owned(),
            }),
            Some((code, count)) => Err(Failure::Refused(format!(
                "{code} to {count} requests while keys were being written"
            ))),
        }
    }

    /// Makes all connections, or fails with the first that cannot be made.
    async fn connect(&self) -> Result<Vec<TcpStream>, Failure> {
        let mut streams = Vec::new();
        let mut connecting = JoinSet::new();
        for _ in 0..self.settings.connections {
            if connecting.len() >= CONNECTING_MAX {
                streams.extend(connected(&mut connecting).await?);
            }
            let target = self.target.clone();
            connecting.spawn(async move { Connection::open(&target).await });
        }
        while let Some(stream) = connected(&mut connecting).await? {
            streams.push(stream);
        }
        Ok(streams)
    }

    fn shards(&self) -> Vec<SharedSamples> {
        (0..self.shards).map(|_| Arc::new(Mutex::new(Samples::new()))).collect()
    }
}

async fn connected(
    connecting: &mut JoinSet<Result<Connection, Failure>>,
) -> Result<Option<TcpStream>, Failure> {
    match connecting.join_next().await {
        None => Ok(None),
        Some(joined) => Ok(Some(joined.map_err(task_failed)??.into_stream())),
    }
}

/// Waits for all tasks; meanwhile `tick` moves the bar, and ends the waiting when it fails.
async fn watch(
    tasks: &mut JoinSet<Result<(), Failure>>,
    bar: &ProgressBar,
    mut tick: impl FnMut(&ProgressBar) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                None => return Ok(()),
                Some(joined) => joined.map_err(task_failed)??,
            },
            _ = ticks.tick() => tick(bar)?,
        }
    }
}

fn task_failed(error: tokio::task::JoinError) -> Failure {
    Failure::Local { what: "a task of the load failed".to_owned(), source: error.into() }
}

fn sum(shards: &[SharedSamples]) -> Samples {
    let mut total = Samples::new();
    for shard in shards {
        total.add(&shard.lock().unwrap_or_else(PoisonError::into_inner));
    }
    total
}

fn completed(shards: &[SharedSamples]) -> u64 {
    shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).completed).sum()
}

/// A seed for each run and connection, so that none asks for the same keys as another.
fn seed_of(seed: u64, run: u64, connection: u64) -> u64 {
    // Odd constants spread neighbouring numbers over all 64 bits; the generator mixes further.
    seed ^ run.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ connection.wrapping_mul(0xd1b5_4a32_d192_ed03)
}

/// Where part `index` of `parts` equal parts of `whole` begins.
fn share_of(whole: u64, parts: u64, index: u64) -> u64 {
    let from = u128::from(whole) * u128::from(index) / u128::from(parts);
    u64::try_from(from).unwrap_or(whole)
}

/// A bar on standard error when somebody watches that.
fn progress(length: u64, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_key_once() {
        for (keys, parts) in [(10, 3), (1, 50), (1_000_000_000_000, 7), (50, 50)] {
            assert_eq!(share_of(keys, parts, 0), 0);
            assert_eq!(share_of(keys, parts, parts), keys);
            assert!((0..parts).all(|n| share_of(keys, parts, n) <= share_of(keys, parts, n + 1)));
        }
    }

    #[test]
    fn no_two_connections_or_runs_share_a_seed() {
        let mut seeds: Vec<u64> =
            (0..20).flat_map(|run| (0..500).map(move |c| seed_of(1, run, c))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 20 * 500);
    }
}
