//! System calls that fail on command, in the unmodified program, by `strace`'s injection.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::process::Missing;

/// The calls by which data reach a disk.
pub const SYNC_CALLS: &str = "fdatasync,fsync";

/// What `strace` wrote of a program's calls.
#[derive(Clone, Debug)]
pub struct Trace {
    report: PathBuf,
}

impl Trace {
    /// A trace whose report will be written to `report`.
    pub fn new(report: PathBuf) -> Self {
        Self { report }
    }

    /// The same program, traced. `injection` is one of `strace`'s, such as
    /// `fdatasync:error=EIO:when=7`; without one, the calls `calls` are only reported.
    ///
    /// The tracer is a process beside it (`-D`), so that the child is the program itself, and ends
    /// with it.
    pub fn command(&self, calls: &str, injection: Option<&str>, program: &Command) -> Command {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-ttt", "-o"]).arg(&self.report);
        command.args(["-e", &format!("trace={calls}")]);
        if let Some(injection) = injection {
            command.args(["-e", &format!("inject={injection}")]);
        }
        command.arg(program.get_program()).args(program.get_args());
        command
    }

    /// How many calls have been reported.
    ///
    /// # Errors
    /// When the report cannot be read.
    pub fn calls(&self) -> Result<usize> {
        Ok(self.read()?.lines().filter(|line| line.contains('(')).count())
    }

    /// When the first injected failure took effect, once there was one.
    ///
    /// # Errors
    /// When the report cannot be read or has another form than `strace -ttt` gives it.
    pub fn injected(&self) -> Result<Option<SystemTime>> {
        let text = self.read()?;
        let Some(line) = text.lines().find(|line| line.contains("(INJECTED)")) else {
            return Ok(None);
        };
        // With -f each line begins with the thread's id.
        let stamp = line.split_whitespace().nth(1).context("a line with a time")?;
        let seconds: f64 = stamp.parse().with_context(|| format!("a time in {line:?}"))?;
        Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
    }

    fn read(&self) -> Result<String> {
        fs::read_to_string(&self.report)
            .with_context(|| format!("reading {}", self.report.display()))
    }
}

/// Whether calls can be injected here, found out by doing it once.
///
/// # Errors
/// Says what is missing and what would provide it.
pub fn available(scratch: &Path) -> std::result::Result<(), Missing> {
    let trace = Trace::new(scratch.join("trial"));
    let mut program = Command::new("sync");
    program.arg(scratch);
    let status = trace
        .command("fsync", Some("fsync:error=EIO"), &program)
        .output()
        .map_err(|error| Missing(format!("strace ({error}): apt-get install strace")))?
        .status;
    if status.success() {
        return Err(Missing("strace cannot make system calls fail here".to_owned()));
    }
    Ok(())
}
