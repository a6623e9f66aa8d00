//! How much memory a process has resident.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// How often the greatest value is looked for.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// The resident memory of a process in bytes, as `/proc` has it.
///
/// # Errors
/// When the process has ended.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).map(str::trim);
    let kib: u64 = kib.context("no VmRSS: the process has ended")?.parse()?;
    Ok(kib * 1024)
}

/// Samples a process until it is asked for the peak.
pub(super) struct PeakSampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl PeakSampler {
    pub(super) fn start(pid: u32) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A process that has ended is noticed by the trial itself.
                seen.fetch_max(resident_bytes(pid).unwrap_or(0), Ordering::Relaxed);
                std::thread::park_timeout(SAMPLE_INTERVAL);
            }
        });
        Self { stop, peak, thread }
    }

    /// The greatest value seen, in bytes.
    pub(super) fn peak(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // The thread does nothing that can panic.
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed)
    }
}
