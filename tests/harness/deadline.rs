//! Waiting for a condition with a bound, which is what tests do instead of sleeping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a poll waits before it looks again. Short beside every deadline in use, long enough
/// to leave the processor to whoever is being waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A moment after which waiting has failed.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    allowed: Duration,
}

impl Deadline {
    /// A deadline `allowed` from now.
    pub fn after(allowed: Duration) -> Self {
        Self { started: Instant::now(), allowed }
    }

    /// What is left of it; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.allowed.saturating_sub(self.started.elapsed())
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Polls `condition` until it yields a value. An error of the condition ends the wait at once.
    ///
    /// # Errors
    /// When the deadline passes first (the message says `what` was awaited), or what `condition`
    /// returns.
    pub fn wait_for<T>(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            if let Some(value) = condition()? {
                return Ok(value);
            }
            if self.has_passed() {
                bail!("waited {:?} for {what} in vain", self.allowed);
            }
            std::thread::park_timeout(POLL_INTERVAL.min(self.remaining()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_reported_with_its_name() {
        let deadline = Deadline::after(Duration::from_millis(20));
        let error = deadline.wait_for("rain", || Ok(None::<()>)).unwrap_err();
        assert!(error.to_string().contains("rain"), "{error}");
    }
}
