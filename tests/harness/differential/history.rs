//! What was sent, and the report of a difference.

use std::fmt;

use super::draw::Args;
use crate::reply::{Reply, quoted};

/// How many commands of the past a report shows.
const SHOWN: usize = 40;

/// One command that was sent, with the reference's reply.
#[derive(Clone, Debug)]
struct Entry {
    connection: usize,
    args: Args,
    reply: String,
}

/// Every command of a run, in order.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Vec<Entry>,
}

impl History {
    pub(crate) fn push(&mut self, connection: usize, args: &Args, reply: &Reply) {
        self.entries.push(Entry { connection, args: args.clone(), reply: reply.describe() });
    }

    /// The latest commands that share an argument with `args`, or that concern all keys or the
    /// state of `connection`.
    fn concerning(&self, connection: usize, args: &Args) -> Vec<String> {
        let concerns = |entry: &Entry| {
            let name = entry.args[0].to_ascii_uppercase();
            let of_connection = entry.connection == connection
                && matches!(
                    name.as_slice(),
                    b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" | b"RESET" | b"HELLO"
                );
            of_connection
                || name.starts_with(b"FLUSH")
                || entry.args[1..].iter().any(|arg| args[1..].contains(arg))
        };
        let mut lines: Vec<String> = self
            .entries
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, entry)| concerns(entry))
            .take(SHOWN)
            .map(|(i, entry)| {
                format!("  #{i} c{}: {} -> {}", entry.connection, command(&entry.args), entry.reply)
            })
            .collect();
        lines.reverse();
        lines
    }

    pub(crate) fn mismatch(
        &self,
        seed: u64,
        connection: usize,
        args: &Args,
        replies: [&str; 2],
        why: &str,
    ) -> Mismatch {
        Mismatch {
            seed,
            command: command(args),
            reference: replies[0].to_owned(),
            subject: replies[1].to_owned(),
            why: why.to_owned(),
            history: self.concerning(connection, args),
        }
    }
}

fn command(args: &Args) -> String {
    args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ")
}

/// The two servers answered differently.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The seed that leads here.
    pub seed: u64,
    /// The command, readable.
    pub command: String,
    /// What redis-server answered.
    pub reference: String,
    /// What the other answered.
    pub subject: String,
    /// In what they differ.
    pub why: String,
    /// What had been done to the same keys before, the oldest first.
    pub history: Vec<String>,
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the servers differ: {}", self.why)?;
        writeln!(f, "command:   {}", self.command)?;
        writeln!(f, "reference: {}", self.reference)?;
        writeln!(f, "subject:   {}", self.subject)?;
        writeln!(f, "what concerned the same keys before, the last {SHOWN} (and this command):")?;
        for line in &self.history {
            writeln!(f, "{line}")?;
        }
        write!(
            f,
            "replay: LARDER_SEED={} cargo test --release -p larder-tests --test differential -- \
             --nocapture random_commands",
            self.seed
        )
    }
}
