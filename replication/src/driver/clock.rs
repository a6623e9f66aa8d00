//! The node's monotonic clock, as the core counts it.
//!
//! It goes on while the machine is suspended, unlike that of `std::time::Instant`: a lease must not
//! outlast on the node that holds it what it lasts on those that granted it. What only wakes the
//! driver may stand still meanwhile: what has ended is told by this clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::core::Time;

/// Counts from when it was made. Cheap to copy; all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Tells a time that never goes back, from whatever origin.
    tell: fn() -> Duration,
    origin: Duration,
}

impl Clock {
    /// A clock that begins now, a while above zero, so that a little before now is a time too.
    pub fn start() -> Self {
        Self::told_by(since_boot)
    }

    /// The same, told by another clock.
    pub(super) fn told_by(tell: fn() -> Duration) -> Self {
        Self { tell, origin: tell().saturating_sub(Duration::from_secs(60)) }
    }

    /// Now.
    pub fn now(&self) -> Time {
        let elapsed = (self.tell)().saturating_sub(self.origin);
        Time(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }
}

/// How long the machine has been up, suspended or not.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        io::{self, Write as _},
        process::Command,
    };

    use super::*;

    const HERE: &str =
        "driver::clock::tests::it_counts_as_the_kernel_counts_how_long_the_machine_is_up";

    #[test]
    fn it_counts_as_the_kernel_counts_how_long_the_machine_is_up() {
        let uptime = fs::read_to_string("/proc/uptime").expect("Linux says how long it is up");
        let seconds = uptime.split(' ').next().expect("a number");
        let up = Duration::from_secs_f64(seconds.parse().expect("a number"));
        let told = since_boot();
        let apart = told.abs_diff(up);
        assert!(apart < Duration::from_secs(5), "{told:?} is not {up:?}");
    }

    #[test]
    fn it_counts_the_day_for_which_a_machine_was_suspended() {
        let this = env::current_exe().expect("a path");
        let suspended = || {
            let mut command = Command::new("unshare");
            command.args(["--time", "--boottime", "86400", "--fork"]);
            command
        };
        let allowed = suspended().arg("true").status().is_ok_and(|status| status.success());
        if !allowed {
            let reason = "no time namespace can be made here; run as root";
            assert!(env::var("CI").as_deref() != Ok("true"), "{reason}");
            // Not captured, as what is printed would be.
            let _ = writeln!(io::stderr(), "SKIPPED a suspended machine: {reason}");
            return;
        }
        let output = suspended().arg(this).args(["--exact", HERE]).output();
        let output = output.expect("it could be run before");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}
