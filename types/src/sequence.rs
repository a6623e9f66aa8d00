//! Sequence numbers: the dense, 1-based numbering of a log's records.

use std::{fmt, num::NonZeroU64};

use serde::{Deserialize, Serialize};

/// The number of one record in one log. The first record is 1; "no record" is an `Option`, and 0
/// appears only on disk and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SequenceNumber(NonZeroU64);

impl SequenceNumber {
    /// The number of a log's first record.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The greatest number that is believed of another node's log: a million records a second take
    /// more than 290,000 years to it. Behind it there is room for whatever is computed from it.
    pub const REACHABLE_MAX: u64 = 1 << 63;

    /// The sequence number `value`, or `None` for 0, which stands for "no record".
    pub const fn new(value: u64) -> Option<Self> {
        match NonZeroU64::new(value) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number as it is stored and printed.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// Whether a log can have come so far.
    pub const fn is_reachable(self) -> bool {
        self.as_u64() <= Self::REACHABLE_MAX
    }

    /// The number after this one.
    ///
    /// # Panics
    /// When 2^64 - 1 records have been written, which at a million records a second takes more
    /// than 500,000 years.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("sequence numbers are never exhausted"))
    }

    /// The number before this one, or `None` before the first.
    pub const fn prev(self) -> Option<Self> {
        Self::new(self.0.get() - 1)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_has_no_predecessor() {
        assert_eq!(SequenceNumber::FIRST.prev(), None);
        assert_eq!(SequenceNumber::FIRST.next().prev(), Some(SequenceNumber::FIRST));
        assert_eq!(SequenceNumber::new(0), None);
    }

    #[test]
    fn the_greatest_number_that_is_believed_has_a_successor_that_is_not() {
        let greatest = SequenceNumber::new(SequenceNumber::REACHABLE_MAX).unwrap();
        assert!(greatest.is_reachable() && !greatest.next().is_reachable());
    }
}
