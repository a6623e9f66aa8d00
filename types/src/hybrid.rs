//! Hybrid logical time (Kulkarni et al., 2014): wall-clock milliseconds that never go back.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stamp of 48 bits of milliseconds since the Unix epoch and a 16 bit counter.
///
/// It is a value's *version*: the token of compare-and-set, and the order of last-writer-wins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct HybridTime(u64);

impl HybridTime {
    /// Before every stamp a clock gives.
    pub const ZERO: Self = Self(0);

    /// The stamp with this millisecond and counter; milliseconds beyond 48 bits (the year 10889)
    /// are cut to that bound.
    pub const fn new(millis: u64, counter: u16) -> Self {
        let millis = if millis > Self::MILLIS_MAX { Self::MILLIS_MAX } else { millis };
        Self((millis << 16) | counter as u64)
    }

    const MILLIS_MAX: u64 = (1 << 48) - 1;

    /// The stamp as it is stored.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`HybridTime::as_u64`].
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Display for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.0 & 0xffff)
    }
}

/// Gives stamps that grow strictly, whatever the wall clock does.
#[derive(Clone, Debug)]
pub struct HybridClock {
    last: HybridTime,
}

impl HybridClock {
    /// A clock whose first stamp is above `floor`: a log's greatest stamp.
    pub const fn starting_above(floor: HybridTime) -> Self {
        Self { last: floor }
    }

    /// The next stamp, at least `wall_millis` and greater than every stamp before it. When the
    /// counter runs over, the millisecond moves ahead of the wall.
    pub fn tick(&mut self, wall_millis: u64) -> HybridTime {
        self.last = HybridTime::new(wall_millis, 0).max(HybridTime(self.last.0.saturating_add(1)));
        self.last
    }

    /// The greatest stamp given so far.
    pub const fn last(&self) -> HybridTime {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_when_the_wall_clock_steps_back() {
        let mut clock = HybridClock::starting_above(HybridTime::ZERO);
        let first = clock.tick(1_000);
        let second = clock.tick(1_000);
        let after_step_back = clock.tick(10);
        assert!(first < second && second < after_step_back);
        assert_eq!(after_step_back.millis(), 1_000);
    }

    #[test]
    fn a_full_counter_moves_into_the_next_millisecond() {
        let mut clock = HybridClock::starting_above(HybridTime::new(5, u16::MAX));
        assert_eq!(clock.tick(5), HybridTime::new(6, 0));
    }
}
