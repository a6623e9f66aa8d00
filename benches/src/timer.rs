//! Waiting for a moment to within some tens of microseconds, without a busy loop. A runtime's
//! timers are no finer than a millisecond, which is what these programs are to resolve.

use std::{
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

/// Has the system wake this thread when it is due, not up to 50 us later to save power.
///
/// # Errors
/// The system refuses; waits are a little longer then.
pub fn be_punctual() -> std::io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?)
}

/// Sleeps until then; not at all when that has passed.
pub fn sleep_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > Duration::ZERO {
        thread::sleep(left);
    }
}
