//! The process of a node: starting it so that it never outlives the playground, and asking it to end.

use std::env::ArgsOs;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};

use crate::failure::Failure;
use crate::output;

/// This very program, also where its file has been replaced since it was started.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The first argument of a process that is to be a node. No command that a person gives.
const BECOME_NODE: &str = "become-playground-node";
/// Of what a node wrote last, so much is shown.
const SHOWN_BYTES_MAX: u64 = 2048;

/// A node's process. Ended when dropped.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    child: Child,
    log: PathBuf,
}

impl NodeProcess {
    /// Starts kvd with a configuration. What it writes is added to the file `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(kvd: &Path, config: &Path, log: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::local(format!("cannot write {}", log.display()), source);
        let output = File::options().create(true).append(true).open(log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let child = Command::new(THIS_PROGRAM)
            .args([BECOME_NODE, &getpid().as_raw_nonzero().to_string()])
            .args([kvd, config])
            // Ctrl-C is for the playground, which then ends its nodes one and all.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| Failure::Process(format!("cannot start a process: {error}")))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        // The only failure is a process that is not ours to wait for.
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end in order. Nothing happens when it has ended already.
    pub(crate) fn terminate(&mut self) {
        if self.exit_status().is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // Not waited for yet, so the id is its own still.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends it at once, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of what it wrote, for people.
    pub(crate) fn last_words(&self) -> String {
        let words = tail(&self.log).unwrap_or_default();
        let words = output::for_terminal(words.trim_ascii());
        format!("the end of {}:\n{words}", self.log.display())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = fs::metadata(path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(SHOWN_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where the playground started this very process to be a node, with [`BECOME_NODE`], its own id, the
/// daemon and its configuration: turns it into kvd, to be killed by the system when its parent ends,
/// however that ends. The store loses nothing by it. `None` where a person started it; otherwise it
/// returns only when it fails.
pub(crate) fn become_node(mut arguments: ArgsOs) -> Option<Failure> {
    if arguments.nth(1)? != BECOME_NODE {
        return None;
    }
    let parent: i32 = arguments.next()?.to_str()?.parse().ok()?;
    let (kvd, config) = (arguments.next()?, arguments.next()?);
    let failed = |error: io::Error| {
        Some(Failure::Process(format!("cannot run {}: {error}", kvd.to_string_lossy())))
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return failed(error.into());
    }
    // Where the parent ended before the line above, nothing would end this process.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Some(Failure::Process("the playground has ended".to_owned()));
    }
    failed(Command::new(&kvd).arg("--config").arg(config).exec())
}
