//! What a run did, for a person to read, and as one number to compare with another run's.

use std::{collections::VecDeque, fmt::Debug};

use larder_replication::core::{Action, Event};

use crate::{network::NodeIndex, queue::Time, random::mix};

/// Lines of a trace that are kept.
const LINES_MAX: usize = 20_000;
/// What happens all the time, and is no use to a reader.
const NOISE: [&str; 3] = ["<- Tick", "Ping(", "Pong("];

/// A trace; nothing is written down unless somebody wants it, because that takes longer than the
/// run itself.
#[derive(Default)]
pub(crate) struct Trace {
    wanted: bool,
    hash: u64,
    lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn wanted() -> Self {
        Self { wanted: true, ..Self::default() }
    }

    pub(crate) fn event(&mut self, now: Time, node: NodeIndex, event: &Event) {
        self.add(now, node, "<-", event);
    }

    pub(crate) fn action(&mut self, now: Time, node: NodeIndex, action: &Action) {
        self.add(now, node, "->", action);
    }

    pub(crate) fn note(&mut self, now: Time, node: NodeIndex, note: impl FnOnce() -> String) {
        if self.wanted {
            self.line(format!("{now:>10} {node} ** {}", note()));
        }
    }

    fn add(&mut self, now: Time, node: NodeIndex, arrow: &str, what: &impl Debug) {
        if self.wanted {
            self.line(format!("{now:>10} {node} {arrow} {what:?}"));
        }
    }

    fn line(&mut self, line: String) {
        for chunk in line.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.hash = mix(self.hash ^ u64::from_le_bytes(bytes));
        }
        if NOISE.iter().any(|noise| line.contains(noise)) {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// One number for all that was written down.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The newest lines, oldest first, without the noise.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
