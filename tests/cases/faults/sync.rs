//! Writes and syncs of the log that fail once: nothing is acknowledged after, the process ends.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use larder_tests::deadline::Deadline;
use larder_tests::faults::contents::read_contents;
use larder_tests::faults::injected::{self, SYNC_CALLS, Trace};
use larder_tests::faults::store::{Engine, Setup};
use larder_tests::powercut::operation::Generator;
use larder_tests::powercut::oracle::{Oracle, Promise};
use larder_tests::powercut::traffic::{Journal, Traffic};
use larder_tests::process::skip;
use tempfile::TempDir;

use crate::EXIT_IO;

/// Connections that write.
const LANES: usize = 4;
/// Which of the calls after the start fails.
const FAILING_CALLS: [usize; 3] = [1, 12, 60];
/// How long the tracer may take to write its last lines.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);
/// An answer that was on its way when the call failed may be read so much later.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

pub(crate) fn a_failed_sync(binary: &Path, seed: u64) -> Result<()> {
    for error in ["EIO", "ENOSPC"] {
        fail_calls(binary, seed, SYNC_CALLS, error)?;
    }
    Ok(())
}

pub(crate) fn a_failed_write(binary: &Path, seed: u64) -> Result<()> {
    for error in ["EIO", "ENOSPC"] {
        fail_calls(binary, seed, "pwrite64,pwritev", error)?;
    }
    Ok(())
}

fn fail_calls(binary: &Path, seed: u64, calls: &str, error: &str) -> Result<()> {
    let scratch = TempDir::with_prefix("larder-injected-")?;
    if let Err(missing) = injected::available(scratch.path()) {
        skip("faults: injected errors", &missing);
        return Ok(());
    }
    let setup = Setup::new(Engine::Kvd(binary.to_path_buf()));
    // How many calls a start on an empty directory makes.
    let trace = Trace::new(scratch.path().join("start"));
    let server = setup.start_with(&scratch.path().join("calibration"), |command| {
        trace.command(calls, None, &command)
    })?;
    let start_calls = trace.calls()?;
    drop(server);
    for call in FAILING_CALLS {
        let when = start_calls + call;
        let name = format!("{calls}: {error} at call {when}");
        let acknowledged = fail_one(&setup, &scratch, seed, calls, error, when)
            .with_context(|| format!("injecting {name}"))?;
        println!("  {name}: {acknowledged} acknowledged before, all there");
    }
    Ok(())
}

fn fail_one(
    setup: &Setup,
    scratch: &TempDir,
    seed: u64,
    calls: &str,
    error: &str,
    when: usize,
) -> Result<usize> {
    let data = scratch.path().join(format!("data-{error}-{when}"));
    let trace = Trace::new(scratch.path().join(format!("report-{error}-{when}")));
    let injection = format!("{calls}:error={error}:when={when}");
    let mut server =
        setup.start_with(&data, |command| trace.command(calls, Some(&injection), &command))?;
    let (clock, monotonic) = (SystemTime::now(), Instant::now());
    let mut generators: Vec<_> = (0..LANES).map(|lane| Generator::new(lane, seed)).collect();
    for generator in &mut generators {
        generator.begin_round(0, &larder_tests::faults::contents::Contents::new());
    }
    let traffic = Traffic::start(server.address(), generators)?;
    let status = server.wait_until_ended()?;
    let (_, journals) = traffic.finish()?;
    ensure!(status.code() == Some(EXIT_IO), "it ended with {status}:\n{}", server.stderr());
    let injected = Deadline::after(REPORT_DEADLINE)
        .wait_for("the injected call in the report", || trace.injected())?;
    let injected = monotonic + injected.duration_since(clock).unwrap_or_default();
    check_silence_after(&journals, injected)?;
    let server = setup.start(&data)?;
    let found = read_contents(&mut server.client()?)?;
    let verdict =
        Oracle::new(LANES).settle(&journals, found, Promise::Acknowledged, Instant::now())?;
    Ok(verdict.acknowledged)
}

/// Nothing that was sent after the failure is acknowledged, and nothing at all much later.
fn check_silence_after(journals: &[Journal], failure: Instant) -> Result<()> {
    for entry in journals.iter().flatten() {
        if let Some(at) = entry.acknowledged(Instant::now()) {
            ensure!(entry.sent <= failure, "acknowledged although it was sent after the failure");
            ensure!(
                at <= failure + ON_ITS_WAY,
                "acknowledged {:?} after the failure",
                at - failure
            );
        }
    }
    Ok(())
}
