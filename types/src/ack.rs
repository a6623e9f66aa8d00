//! Levels of acknowledgement: on how many disks a write is before it is answered.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// When a write is answered. Ordered by strength.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum AckLevel {
    /// Durable on the master.
    #[default]
    Local,
    /// And on one more node of the master's region.
    Near,
    /// On a majority of the voters, in at least two regions.
    Majority,
    /// On every voter.
    All,
}

impl AckLevel {
    /// Every level, from the weakest to the strongest.
    pub const EACH: [Self; 4] = [Self::Local, Self::Near, Self::Majority, Self::All];

    /// The level's name in configuration, commands and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Near => "near",
            Self::Majority => "majority",
            Self::All => "all",
        }
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the level is one of local, near, majority and all")]
pub struct UnknownAckLevel;

impl FromStr for AckLevel {
    type Err = UnknownAckLevel;

    fn from_str(name: &str) -> Result<Self, UnknownAckLevel> {
        let named = |level: &Self| level.as_str().eq_ignore_ascii_case(name);
        Self::EACH.into_iter().find(named).ok_or(UnknownAckLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_are_printed_and_ordered_by_strength() {
        for level in AckLevel::EACH {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!(AckLevel::EACH.is_sorted());
        assert_eq!("most".parse::<AckLevel>(), Err(UnknownAckLevel));
    }
}
