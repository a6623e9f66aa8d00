//! The table of commands under comparison: how each one's arguments are drawn, and by which rule
//! its replies are compared.

mod connection;
mod hashes;
mod keyspace;
mod server;
mod strings;

use super::compare::Rule;
use super::draw::{Args, Draw};

/// How a drawn command may be spoilt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoiling {
    /// Arguments dropped, added, replaced, or ended with a NUL, where a C string ends.
    Any,
    /// Dropped, added, or ended with a NUL: a replaced one could block, kill or flood a server.
    Count,
    /// Left as drawn: what the command draws is wrong often enough, or dangerous when changed.
    Never,
}

/// One command, or one subcommand where it behaves as a command of its own.
pub(crate) struct Spec {
    /// Its words in capitals, as they are sent and counted.
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
    pub(crate) spoiling: Spoiling,
    /// Whether it may be sent inside MULTI.
    pub(crate) queues: bool,
    /// Whether it touches nothing but keys; the self-tests use only these.
    pub(crate) data: bool,
    /// How often it is drawn beside the others.
    pub(crate) weight: usize,
    /// The arguments after the name.
    pub(crate) draw: fn(&mut Draw) -> Args,
}

impl Spec {
    const fn data(name: &'static str, rule: Rule, draw: fn(&mut Draw) -> Args) -> Self {
        Self { name, rule, spoiling: Spoiling::Any, queues: true, data: true, weight: 10, draw }
    }

    const fn other(name: &'static str, rule: Rule, draw: fn(&mut Draw) -> Args) -> Self {
        Self { name, rule, spoiling: Spoiling::Any, queues: true, data: false, weight: 3, draw }
    }

    const fn spoiling(mut self, spoiling: Spoiling) -> Self {
        self.spoiling = spoiling;
        self
    }

    const fn outside_transactions(mut self) -> Self {
        self.queues = false;
        self
    }

    const fn weight(mut self, weight: usize) -> Self {
        self.weight = weight;
        self
    }

    /// The command drawn whole, before it is spoilt.
    pub(crate) fn command(&'static self, draw: &mut Draw) -> Planned {
        let mut args: Args = self.name.split(' ').map(|word| draw.cased(word.as_bytes())).collect();
        let words = args.len();
        args.extend((self.draw)(draw));
        Planned { spec: self, args, words }
    }
}

/// A command about to be sent.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) spec: &'static Spec,
    pub(crate) args: Args,
    /// How many of `args` are its name.
    words: usize,
}

impl Planned {
    /// Drops, adds, replaces or ends an argument, as far as the command allows.
    pub(crate) fn spoil(&mut self, draw: &mut Draw) {
        let has_arguments = self.args.len() > self.words;
        match (self.spec.spoiling, draw.below(5)) {
            (Spoiling::Never, _) => {}
            (_, 0) if has_arguments => {
                self.args.pop();
            }
            (_, 1) if has_arguments => self.args.truncate(self.words),
            (Spoiling::Any, 2 | 3) if has_arguments => {
                let at = self.words + draw.below(self.args.len() - self.words);
                self.args[at] = draw.junk();
            }
            (_, 4) if has_arguments => {
                let at = self.words + draw.below(self.args.len() - self.words);
                self.args[at].push(0);
            }
            _ => self.args.push(draw.junk()),
        }
    }
}

/// Every command of the comparison.
pub(crate) fn specs() -> impl Iterator<Item = &'static Spec> {
    strings::SPECS
        .iter()
        .chain(hashes::SPECS)
        .chain(keyspace::SPECS)
        .chain(connection::SPECS)
        .chain(server::SPECS)
}

/// The names of what is compared, in capitals: commands, and subcommands behind their command.
pub fn compared() -> impl Iterator<Item = &'static str> {
    specs().map(|spec| spec.name)
}

/// The entry of that name.
///
/// # Panics
/// When the table has none: names are written in the source, beside the table.
pub(crate) fn spec(name: &str) -> &'static Spec {
    specs().find(|spec| spec.name == name).unwrap_or_else(|| panic!("no command {name}"))
}

/// A command with the arguments given.
pub(crate) fn planned(name: &str, arguments: Args) -> Planned {
    let mut args: Args = name.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    let words = args.len();
    args.extend(arguments);
    Planned { spec: spec(name), args, words }
}
