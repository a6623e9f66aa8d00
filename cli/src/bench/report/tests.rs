//! The arithmetic of reports, and which warnings they raise.

use std::time::Duration;

use clap::Parser;

use super::super::samples::latencies;
use super::super::workload::Kind;
use super::*;
use crate::args::{Cli, Command};

fn settings(arguments: &[&str]) -> (Target, Bench) {
    let cli = Cli::try_parse_from(["kv", "bench"].iter().chain(arguments)).unwrap();
    match cli.command {
        Command::Bench(bench) => (cli.target, bench),
        other => panic!("not bench: {other:?}"),
    }
}

fn samples(completed: u64) -> Samples {
    let mut samples = Samples::new();
    for n in 0..completed {
        let kind = if n % 2 == 0 { Kind::Read } else { Kind::Write };
        samples.record(kind, Duration::from_micros(n + 1));
    }
    samples.completed = completed;
    samples
}

fn warnings(rate: &str, change: impl FnOnce(&mut Samples)) -> String {
    let (_, settings) = settings(&["--rate", rate, "--seconds", "10"]);
    let mut samples = samples(1000);
    change(&mut samples);
    Run::of(1, &settings, &samples).warnings().join("\n")
}

#[test]
fn percentiles_are_within_three_digits() {
    let mut recorded = latencies();
    for us in 1..=100_000 {
        recorded.record(us).unwrap();
    }
    let p = Percentiles::of(&recorded);
    let pairs = [(p.p50_us, 50_000), (p.p90_us, 90_000), (p.p99_us, 99_000), (p.p99_9_us, 99_900)];
    for (got, exact) in pairs {
        assert!((exact..=exact + exact / 1000 + 1).contains(&got), "{got} for {exact}");
    }
    assert_eq!((p.count, p.min_us), (100_000, 1));
    assert!(p.p99_99_us <= p.max_us);
}

#[test]
fn nothing_measured_is_all_zero() {
    let p = Percentiles::of(&latencies());
    assert_eq!((p.count, p.min_us, p.p50_us, p.max_us), (0, 0, 0, 0));
    assert!(p.mean_us.abs() < f64::EPSILON);
}

#[test]
fn a_rate_that_is_reached_raises_no_warning() {
    assert_eq!(warnings("100", |_| {}), "");
    assert_eq!(warnings("0", |_| {}), "");
}

#[test]
fn a_rate_that_is_missed_is_warned_about() {
    assert!(warnings("102", |_| {}).contains("achieved 100 requests/s of 102 asked"));
}

#[test]
fn what_the_percentiles_lack_is_warned_about() {
    assert!(warnings("100", |s| s.unsent = 7).contains("7 requests were due and never sent"));
    assert!(warnings("100", |s| s.unanswered = 3).contains("3 never answered"));
    assert!(warnings("100", |s| s.missing = 250).contains("50.0 % of the reads found nothing"));
}

#[test]
fn a_late_generator_is_warned_about() {
    assert!(!warnings("100", |s| s.record_late(Duration::from_micros(900))).contains("late"));
    assert!(warnings("100", |s| s.record_late(Duration::from_millis(2))).contains("late"));
}

#[test]
fn errors_are_named_and_cannot_steer_the_terminal() {
    let warned = warnings("100", |s| {
        s.record_errors("MOVED", 2);
        s.record_errors("\x1b[2J", 1);
    });
    assert!(warned.contains("2 requests failed with MOVED"));
    assert!(!warned.contains('\x1b'));
}

#[test]
fn connections_that_were_lost_with_no_request_waiting_are_a_failure_and_warned_about() {
    let (target, settings) = settings(&[]);
    let mut samples = samples(1000);
    let failures = |samples: &Samples| {
        let runs = vec![Run::of(1, &settings, samples)];
        Report::of(&target, &settings, runs, samples).failures()
    };
    assert_eq!(failures(&samples), None);
    samples.lost = 2;
    assert!(failures(&samples).unwrap().contains("2 connections were lost"));
    assert!(warnings("100", |s| s.lost = 2).contains("2 connections were lost"));
}

#[test]
fn the_median_of_runs_is_not_their_mean() {
    assert!((median(vec![1.0, 100.0, 2.0]) - 2.0).abs() < 1e-9);
    assert!((median(vec![4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
    assert!(median(vec![]).abs() < f64::EPSILON);
}

#[test]
fn the_json_report_has_every_run_and_no_password() {
    let (target, settings) = settings(&["--runs", "2", "--password", "s3cret"]);
    let runs = (1..=2).map(|run| Run::of(run, &settings, &samples(1000))).collect();
    let report = Report::of(&target, &settings, runs, &samples(2000));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 2);
    assert_eq!(json["settings"]["connections"], 50);
    assert_eq!(json["runs"][1]["reads"]["count"], 500);
    assert!(json["runs"][0]["writes"]["p99_9_us"].as_u64() >= Some(999));
    assert!(json["latency_is"].as_str().unwrap().contains("intended start"));
    assert!(!json.to_string().contains("s3cret"));
}

#[test]
fn a_line_of_a_run_has_rate_latency_and_errors() {
    let (_, settings) = settings(&["--rate", "100"]);
    let line = Run::of(2, &settings, &samples(1000)).line(3);
    assert!(line.starts_with("run 2/3: 100 requests/s (asked 100), read p50 "), "{line}");
    assert!(line.ends_with("errors 0"), "{line}");
}
