//! What a line can be like.

use std::{num::NonZeroU64, time::Duration};

use crate::{Error, Result};

/// The longest delay, and the longest jitter.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// The slowest rate, bytes a second: slower ones carry no handshake.
const RATE_MIN: u64 = 1_000;

/// What the line to one node is like. The default is the line as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// What is sent arrives so much later. One way: half of what it adds to a round trip if the
    /// other side does the same.
    pub delay: Duration,
    /// Each datagram takes up to so much longer, at random, and may overtake others. Without it
    /// they keep their order.
    pub jitter: Duration,
    /// The part of the datagrams sent that is lost, 0 to 1.
    pub loss: f64,
    /// Bytes a second that can be sent. What comes faster waits up to 200 ms, then it is dropped.
    pub rate_bytes_per_s: Option<NonZeroU64>,
    /// Nothing that is sent arrives, nor what is under way.
    pub cut_send: bool,
    /// Nothing arrives from there.
    pub cut_receive: bool,
}

impl Shape {
    /// `Err` if no line can be like this.
    pub fn check(&self) -> Result<()> {
        let wrong = |what| Err(Error::Shape { what });
        if self.delay > DELAY_MAX || self.jitter > DELAY_MAX {
            return wrong("delay and jitter are at most 10 s");
        }
        if !(0.0..=1.0).contains(&self.loss) {
            return wrong("loss is a part, from 0 to 1");
        }
        if self.rate_bytes_per_s.is_some_and(|rate| rate.get() < RATE_MIN) {
            return wrong("a rate is at least 1000 bytes a second");
        }
        Ok(())
    }

    /// Whether what is sent goes out as it is.
    pub(crate) fn is_plain_sending(&self) -> bool {
        Self { cut_receive: false, ..*self } == Self::default()
    }
}

/// What became of the datagrams on a shaped line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShapeStats {
    /// Sent on.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
    /// Lost at random.
    pub lost: u64,
    /// Dropped because the line was cut, in either direction.
    pub cut: u64,
    /// Dropped because too much was under way already.
    pub overflowed: u64,
    /// Bytes under way now.
    pub queued_bytes: usize,
}
