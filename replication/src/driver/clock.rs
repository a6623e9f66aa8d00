//! The node's monotonic clock, as the core counts it.

use std::time::{Duration, Instant};

use crate::core::Time;

/// Counts from when it was made. Cheap to copy; all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now, a while above zero, so that a little before now is a time too.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { origin: now.checked_sub(Duration::from_secs(60)).unwrap_or(now) }
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
