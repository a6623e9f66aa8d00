//! What was measured, while it is being measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::workload::Kind;

/// Precision of all histograms, significant digits.
const DIGITS: u8 = 3;

/// More codes of errors than a sensible server has; the rest count as [`OTHER_ERRORS`].
const ERROR_CODES_MAX: usize = 64;

/// Where errors beyond [`ERROR_CODES_MAX`] codes are counted.
const OTHER_ERRORS: &str = "(others)";

/// Longer than any run: three days. Bounds how far a histogram grows.
const LATENCY_US_MAX: u64 = 3 * 86_400 * 1_000_000;

/// Latencies in microseconds, growing as needed.
pub(crate) type Latencies = Histogram<u64>;

/// An empty histogram.
pub(crate) fn latencies() -> Latencies {
    Latencies::new(DIGITS).expect("3 digits are within what a histogram allows")
}

/// The measurements of some connections.
pub(crate) struct Samples {
    /// Latency of reads that were answered without error, microseconds.
    pub(crate) reads: Latencies,
    /// Latency of writes that were answered without error, microseconds.
    pub(crate) writes: Latencies,
    /// By how much requests were sent late though the connection was free, microseconds: the
    /// generator's own fault.
    pub(crate) late: Latencies,
    /// Replies without error within the time that is measured.
    pub(crate) completed: u64,
    /// Reads that found no value.
    pub(crate) missing: u64,
    /// Error replies by their first word, and `LOST` for requests whose connection was lost.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Requests that were due and never sent.
    pub(crate) unsent: u64,
    /// Requests whose reply did not come in time after the end.
    pub(crate) unanswered: u64,
    /// Connections lost.
    pub(crate) lost: u64,
}

impl Samples {
    /// Nothing measured yet.
    pub(crate) fn new() -> Self {
        Self {
            reads: latencies(),
            writes: latencies(),
            late: latencies(),
            completed: 0,
            missing: 0,
            errors: BTreeMap::new(),
            unsent: 0,
            unanswered: 0,
            lost: 0,
        }
    }

    /// Counts one answer without error.
    pub(crate) fn record(&mut self, kind: Kind, latency: Duration) {
        let histogram = match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        };
        record(histogram, latency);
    }

    /// Counts a request that was sent late.
    pub(crate) fn record_late(&mut self, by: Duration) {
        record(&mut self.late, by);
    }

    /// Counts `count` errors of this code.
    pub(crate) fn record_errors(&mut self, code: &str, count: u64) {
        if count == 0 {
            return;
        }
        let known = self.errors.contains_key(code) || self.errors.len() < ERROR_CODES_MAX;
        let code = if known { code } else { OTHER_ERRORS };
        *self.errors.entry(code.to_owned()).or_default() += count;
    }

    /// Adds the measurements of other connections.
    pub(crate) fn add(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.reads, &other.reads),
            (&mut self.writes, &other.writes),
            (&mut self.late, &other.late),
        ] {
            into.add(from).expect("a histogram that grows takes any other");
        }
        self.completed += other.completed;
        self.missing += other.missing;
        self.unsent += other.unsent;
        self.unanswered += other.unanswered;
        self.lost += other.lost;
        for (code, count) in &other.errors {
            self.record_errors(code, *count);
        }
    }
}

fn record(into: &mut Latencies, latency: Duration) {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LATENCY_US_MAX);
    into.record(us).expect("a histogram that grows takes what is bounded");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_keeps_every_sample() {
        let mut sum = Samples::new();
        for latency_us in [1, 100, 10_000_000] {
            let mut part = Samples::new();
            part.record(Kind::Read, Duration::from_micros(latency_us));
            part.record(Kind::Write, Duration::from_micros(7));
            part.record_errors("MOVED", 2);
            part.completed = 2;
            sum.add(&part);
        }
        assert_eq!((sum.reads.len(), sum.writes.len(), sum.completed), (3, 3, 6));
        assert_eq!((sum.reads.min(), sum.writes.max()), (1, 7));
        assert!(sum.reads.equivalent(sum.reads.max(), 10_000_000));
        assert_eq!(sum.errors["MOVED"], 6);
    }

    #[test]
    fn a_server_that_invents_error_codes_costs_bounded_memory() {
        let mut samples = Samples::new();
        for n in 0..1000 {
            samples.record_errors(&format!("E{n}"), 1);
        }
        assert_eq!(samples.errors.len(), ERROR_CODES_MAX + 1);
        assert_eq!(samples.errors.values().sum::<u64>(), 1000);
    }
}
