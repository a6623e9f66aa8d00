//! What was measured, for people and programs.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use serde::Serialize;

use super::samples::{Latencies, Samples};
use crate::args::{Bench, Target};
use crate::output;

/// Below this share of the asked rate a run is not what was asked for.
const RATE_SHARE_MIN: f64 = 0.99;

/// Above this, the generator itself spoils the figures, microseconds.
const LATE_P99_US_MAX: u64 = 1000;

/// Everything about one call of `kv bench`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Program and version.
    pub(crate) tool: String,
    /// The server's address as given.
    pub(crate) server: String,
    /// When the last run was over, milliseconds since 1970.
    pub(crate) finished_unix_ms: u64,
    /// What "latency" means in this report.
    pub(crate) latency_is: &'static str,
    /// What was asked for.
    pub(crate) settings: Bench,
    /// Each run.
    pub(crate) runs: Vec<Run>,
    /// The median of the runs' rates, replies without error a second.
    pub(crate) achieved_per_s_median: f64,
    /// The samples of all runs together.
    pub(crate) reads: Percentiles,
    /// As `reads`.
    pub(crate) writes: Percentiles,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// Counted from 1.
    pub(crate) run: u64,
    /// Requests a second that were asked for; 0: as fast as possible.
    pub(crate) asked_per_s: u64,
    /// Replies without error a second, within the time that is measured.
    pub(crate) achieved_per_s: f64,
    /// Latency of reads.
    pub(crate) reads: Percentiles,
    /// Reads that found no value.
    pub(crate) reads_missing: u64,
    /// Latency of writes.
    pub(crate) writes: Percentiles,
    /// Error replies by first word; LOST: requests whose connection was lost.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Connections lost, whether requests waited on them or not.
    pub(crate) connections_lost: u64,
    /// Requests that were due and still not sent when the time to wait for replies was over. The
    /// percentiles are better than the truth by these.
    pub(crate) unsent: u64,
    /// Requests that were sent and not answered by then. As `unsent`.
    pub(crate) unanswered: u64,
    /// By how much the generator itself sent late.
    pub(crate) generator_late: Percentiles,
}

/// Percentiles of a histogram, microseconds; all 0 when it is empty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// Samples.
    pub(crate) count: u64,
    min_us: u64,
    mean_us: f64,
    p50_us: u64,
    p75_us: u64,
    p90_us: u64,
    p95_us: u64,
    p99_us: u64,
    p99_9_us: u64,
    p99_99_us: u64,
    max_us: u64,
}

impl Percentiles {
    /// The percentiles of what was recorded.
    pub(crate) fn of(latencies: &Latencies) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile).min(latencies.max());
        Self {
            count: latencies.len(),
            min_us: if latencies.is_empty() { 0 } else { latencies.min() },
            mean_us: (latencies.mean() * 10.0).round() / 10.0,
            p50_us: at(0.5),
            p75_us: at(0.75),
            p90_us: at(0.9),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: latencies.max(),
        }
    }
}

impl Run {
    /// The report of run number `run` of `seconds` seconds.
    pub(crate) fn of(run: u64, settings: &Bench, samples: &Samples) -> Self {
        Self {
            run,
            asked_per_s: settings.rate,
            achieved_per_s: samples.completed as f64 / settings.seconds as f64,
            reads: Percentiles::of(&samples.reads),
            reads_missing: samples.missing,
            writes: Percentiles::of(&samples.writes),
            errors: samples.errors.clone(),
            connections_lost: samples.lost,
            unsent: samples.unsent,
            unanswered: samples.unanswered,
            generator_late: Percentiles::of(&samples.late),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self, runs: u64) -> String {
        let asked = match self.asked_per_s {
            0 => "as fast as possible".to_owned(),
            rate => format!("asked {rate}"),
        };
        let mut line =
            format!("run {}/{runs}: {:.0} requests/s ({asked})", self.run, self.achieved_per_s);
        for (name, percentiles) in [("read", &self.reads), ("write", &self.writes)] {
            if percentiles.count > 0 {
                let Percentiles { p50_us, p99_us, max_us, .. } = percentiles;
                line += &format!(", {name} p50 {p50_us} p99 {p99_us} max {max_us} us");
            }
        }
        let errors: u64 = self.errors.values().sum();
        line + &format!(", errors {errors}")
    }

    /// What makes this run's figures less than they seem.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let run = self.run;
        if self.achieved_per_s < self.asked_per_s as f64 * RATE_SHARE_MIN {
            warnings.push(format!(
                "run {run}: achieved {:.0} requests/s of {} asked: the server (or --connections \
                 times --pipeline) cannot keep up, and latency grows with the length of the run",
                self.achieved_per_s, self.asked_per_s
            ));
        }
        if self.unsent + self.unanswered > 0 {
            warnings.push(format!(
                "run {run}: {} requests were due and never sent, {} never answered: the \
                 percentiles lack them and are too good",
                self.unsent, self.unanswered
            ));
        }
        if self.generator_late.p99_us > LATE_P99_US_MAX {
            warnings.push(format!(
                "run {run}: the generator itself was late (p99 {} us), and latency includes that: \
                 this machine is too busy, or --threads too few",
                self.generator_late.p99_us
            ));
        }
        if self.reads_missing > 0 {
            let share = 100.0 * self.reads_missing as f64 / self.reads.count.max(1) as f64;
            warnings.push(format!(
                "run {run}: {share:.1} % of the reads found nothing; --populate writes all keys \
                 first"
            ));
        }
        for (code, count) in &self.errors {
            let code = output::for_line(code.as_bytes());
            warnings.push(format!("run {run}: {count} requests failed with {code}"));
        }
        if self.connections_lost > 0 {
            warnings.push(format!("run {run}: {} connections were lost", self.connections_lost));
        }
        warnings
    }
}

impl Report {
    /// The report of all runs. `all` holds the samples of all of them.
    pub(crate) fn of(target: &Target, settings: &Bench, runs: Vec<Run>, all: &Samples) -> Self {
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            tool: concat!("kv ", env!("CARGO_PKG_VERSION")).to_owned(),
            server: target.server.to_string(),
            finished_unix_ms: u64::try_from(finished.as_millis()).unwrap_or(u64::MAX),
            latency_is: latency_is(settings),
            settings: settings.clone(),
            achieved_per_s_median: median(runs.iter().map(|run| run.achieved_per_s).collect()),
            reads: Percentiles::of(&all.reads),
            writes: Percentiles::of(&all.writes),
            runs,
        }
    }

    /// The percentiles of all runs as a table.
    pub(crate) fn table(&self) -> Table {
        let header = ["us", "count", "p50", "p90", "p99", "p99.9", "max"];
        let mut table = output::table(&header, 1);
        for (name, p) in [("read", &self.reads), ("write", &self.writes)] {
            if p.count > 0 {
                let figures = [p.count, p.p50_us, p.p90_us, p.p99_us, p.p99_9_us, p.max_us];
                let figures = figures.iter().map(u64::to_string);
                table.add_row(std::iter::once(name.to_owned()).chain(figures).collect::<Vec<_>>());
            }
        }
        table
    }

    /// What failed in all runs; `None` where nothing did.
    pub(crate) fn failures(&self) -> Option<String> {
        let errors: u64 = self.runs.iter().flat_map(|run| run.errors.values()).sum();
        let lost: u64 = self.runs.iter().map(|run| run.connections_lost).sum();
        let failed = format!("{errors} requests failed, {lost} connections were lost");
        (errors + lost > 0).then_some(failed)
    }
}

/// What "latency" means under these settings.
pub(crate) fn latency_is(settings: &Bench) -> &'static str {
    if settings.rate == 0 {
        "service time: from sending to reply, closed loop; says nothing about waiting"
    } else {
        "response time: from the intended start to the reply, open loop"
    }
}

/// The median; of an even count the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests;
