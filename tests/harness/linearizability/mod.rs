//! Linearizability of single keys: a history of one register is searched for an order in which every
//! operation takes effect at one moment between its call and its answer (Wing and Gong, with the
//! memory of Lowe). A store is linearizable exactly if each of its keys is, so that keys are
//! checked one by one.

mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use search::{STEPS_MAX, Verdict, check};

/// What an operation did. Every value is written once at most in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the register.
    Write(u64),
    /// Read this; `None` for nothing.
    Read(Option<u64>),
}

/// An operation of a client, timed by one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was done.
    pub action: Action,
    /// When it was called.
    pub called: u64,
    /// When it was answered; `None` where nobody knows what became of it: it may have taken
    /// effect at any time since the call, or never.
    pub answered: Option<u64>,
}

/// What the histories of all keys amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys with a history.
    pub keys: usize,
    /// Operations in them.
    pub operations: usize,
    /// Operations of which nobody knows what became.
    pub unknown: usize,
    /// Keys whose search was given up.
    pub undecided: usize,
    /// Keys that are not linearizable, with where their search ended.
    pub violations: Vec<String>,
}

impl Summary {
    /// Checks every key's history.
    pub fn of(histories: &BTreeMap<String, Vec<Operation>>, steps_max: usize) -> Self {
        let mut summary = Self { keys: histories.len(), ..Self::default() };
        for (key, history) in histories {
            summary.operations += history.len();
            summary.unknown += history.iter().filter(|it| it.answered.is_none()).count();
            match check(history, steps_max) {
                Verdict::Linearizable => {}
                Verdict::Undecided => summary.undecided += 1,
                Verdict::Violation(place) => summary.violations.push(format!("{key}: {place}")),
            }
        }
        summary
    }

    /// Whether no key is known to be wrong, and at most one in a hundred was given up.
    pub fn passes(&self) -> bool {
        self.violations.is_empty() && self.undecided * 100 <= self.keys
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations on {} keys, {} of unknown outcome; {} keys undecided, {} not linearizable",
            self.operations,
            self.keys,
            self.unknown,
            self.undecided,
            self.violations.len()
        )?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}
