//! The well-behaved client: a SET or a GET every other millisecond, timed from when it was due.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Target;
use crate::client::Client;

/// Far apart for any server.
const INTERVAL: Duration = Duration::from_millis(2);
/// So many are in a window of a second; the p99 is its fifth slowest.
const REQUESTS: u32 = 500;

/// The latencies of one window, sorted.
#[derive(Clone, Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The latency that 99 in 100 requests do not exceed.
    pub fn p99(&self) -> Duration {
        let at = (self.0.len() * 99).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// A window of requests. Each is due at its own time whether or not the last one was answered in
/// time, so that one slow reply counts for all that had to wait behind it.
pub(super) fn window(target: &Target, client: &mut Client) -> Result<Latencies> {
    let started = Instant::now();
    let mut latencies = Vec::with_capacity(REQUESTS as usize);
    for i in 0..REQUESTS {
        let due = started + INTERVAL * i;
        while let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(wait);
        }
        let key = format!("probe:{}", i % 100);
        let reply = if i % 2 == 0 {
            client.call(&["SET", &key, "a value of a well-behaved client"])?
        } else {
            client.call(&["GET", &key])?
        };
        ensure!(!reply.is_error(), "{} was answered at {}", reply.describe(), target.address);
        latencies.push(due.elapsed());
    }
    latencies.sort_unstable();
    Ok(Latencies(latencies))
}
