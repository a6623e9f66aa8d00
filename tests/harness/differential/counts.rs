//! How many of each command a run has compared.

use std::collections::BTreeMap;
use std::fmt;

/// What was compared, by command.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    commands: BTreeMap<&'static str, Count>,
    /// Comparisons of the whole contents of both servers.
    pub contents: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    sent: u64,
    errors: u64,
}

impl Counts {
    pub(crate) fn sent(&mut self, name: &'static str, is_error: bool) {
        let count = self.commands.entry(name).or_default();
        count.sent += 1;
        count.errors += u64::from(is_error);
    }

    /// An error that came for a command in EXEC, after it had been counted when it was queued.
    pub(crate) fn failed_in_exec(&mut self, name: &'static str) {
        self.commands.entry(name).or_default().errors += 1;
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.commands.get(name).map_or(0, |count| count.sent)
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.commands {
            let sum = self.commands.entry(name).or_default();
            sum.sent += count.sent;
            sum.errors += count.errors;
        }
        self.contents += other.contents;
    }

    /// All commands.
    pub fn total(&self) -> u64 {
        self.commands.values().map(|count| count.sent).sum()
    }

    /// The commands that were answered with an error, in percent.
    pub fn error_percent(&self) -> u64 {
        let errors: u64 = self.commands.values().map(|count| count.errors).sum();
        errors * 100 / self.total().max(1)
    }

    /// The commands of the table that were compared fewer than `least` times.
    pub fn rarer_than(&self, least: u64) -> Vec<&'static str> {
        super::commands::specs()
            .map(|spec| spec.name)
            .filter(|name| self.of(name) < least)
            .collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "command              sent  errors | command              sent  errors | command              sent  errors"
        )?;
        let cells: Vec<String> = self
            .commands
            .iter()
            .map(|(name, count)| format!("{name:<18} {:>6}  {:>6}", count.sent, count.errors))
            .collect();
        for row in cells.chunks(3) {
            writeln!(f, "{}", row.join(" | "))?;
        }
        write!(
            f,
            "{} commands, {} % answered with an error; contents compared {} times",
            self.total(),
            self.error_percent(),
            self.contents
        )
    }
}
