//! Wakes a task at a moment, to microseconds.
//!
//! tokio's own timers count milliseconds: a request sent by them would be late by up to one, which is
//! more than the latency to be measured. A Linux timer behind a file descriptor is exact.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One alarm; each connection has its own.
pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
    set_for: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    /// The system has no file descriptor left.
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for descriptors that may be closed by others: an \
                  OwnedFd is not"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { timer: AsyncFd::with_interest(timer, Interest::READABLE)?, set_for: None })
    }

    /// Sets the alarm for `at`, which may be over; replaces what it was set for.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn set(&mut self, at: Instant) -> io::Result<()> {
        if self.set_for == Some(at) {
            return Ok(());
        }
        // Zero would switch the timer off.
        let wait = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.set_for = Some(at);
        Ok(())
    }

    /// Waits for the alarm. It may come early, when what it was set for before is over: the caller
    /// looks at the clock. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn wait(&mut self) -> io::Result<()> {
        // The descriptor is not read: each expiry is an event of its own, and setting it anew
        // clears the count.
        self.timer.readable().await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_again_and_again_and_never_late_by_much() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut alarm = Alarm::new().unwrap();
            for wait_us in [0, 300, 1, 700, 2000] {
                let at = Instant::now() + Duration::from_micros(wait_us);
                alarm.set(at).unwrap();
                while Instant::now() < at {
                    let ringing = tokio::time::timeout(Duration::from_secs(10), alarm.wait());
                    ringing.await.expect("the alarm must ring").unwrap();
                }
            }
        });
    }
}
