//! COMMAND: the table of commands, as clients that learn it at connecting ask for it.

use std::iter::once;

use larder_resp::{ReplyWriter, Request};

use super::{
    Command, CommandError, Outcome,
    connection::SLOW,
    expect_room, hints,
    pattern::{MATCH_STEPS_MAX, Pattern, is_word},
    server::LOADING,
    table::{Subcommand, help, lookup, run_subcommand, subcommand, table},
};
use crate::{node::Node, session::Session};

pub(super) static COMMAND: &[Subcommand] = &[
    subcommand("count", 2, LOADING, SLOW, command_count),
    subcommand("docs", -2, LOADING, SLOW, command_docs),
    subcommand("help", 2, LOADING, SLOW, command_help),
    subcommand("info", -2, LOADING, SLOW, command_info),
    subcommand("list", -2, LOADING, SLOW, command_list),
];

/// What COMMAND tells of: a command, or one subcommand of it.
#[derive(Clone, Copy)]
struct Entry {
    command: &'static Command,
    subcommand: Option<&'static Subcommand>,
}

impl Entry {
    const fn of(command: &'static Command) -> Self {
        Self { command, subcommand: None }
    }

    fn subcommands(self) -> impl ExactSizeIterator<Item = Self> {
        let Self { command, subcommand } = self;
        let rows = if subcommand.is_none() { command.subcommands() } else { &[] };
        rows.iter().map(move |row| Self { command, subcommand: Some(row) })
    }

    /// The entry with this name, which may be `command|subcommand`.
    fn find(name: &[u8]) -> Option<Self> {
        let Some(bar) = name.iter().position(|&byte| byte == b'|') else {
            return lookup(name).map(Self::of);
        };
        let word = &name[bar + 1..];
        let mut subcommands = Self::of(lookup(&name[..bar])?).subcommands();
        subcommands.find(|entry| entry.subcommand.is_some_and(|row| is_word(word, row.name)))
    }

    fn name(self) -> String {
        let Self { command, subcommand } = self;
        subcommand.map_or_else(
            || command.name.to_owned(),
            |subcommand| format!("{}|{}", command.name, subcommand.name),
        )
    }

    const fn categories(self) -> &'static [&'static str] {
        match self.subcommand {
            None => self.command.categories,
            Some(subcommand) => subcommand.categories,
        }
    }

    fn describe(self, reply: &mut ReplyWriter<'_>) {
        let Self { command, subcommand } = self;
        let name = self.name();
        let (arity, flags) =
            subcommand.map_or((command.arity, command.flags), |row| (row.arity, row.flags));
        let keys = match subcommand {
            None => [command.first_key, command.last_key, command.step],
            Some(_) => [0; 3],
        };
        reply.array(10);
        reply.bulk(name.as_bytes());
        reply.integer(arity.into());
        words(flags, reply);
        keys.iter().for_each(|&position| reply.integer(position.into()));
        words(self.categories(), reply);
        let tips = hints::tips(&name);
        reply.set(tips.len());
        tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
        describe_keys(&name, keys, reply);
        let subcommands = self.subcommands();
        match subcommands.len() {
            0 => reply.set(0),
            some => reply.array(some),
        }
        subcommands.for_each(|subcommand| subcommand.describe(reply));
    }
}

/// What COMMAND LIST is narrowed down by.
enum Filter<'a> {
    Nothing,
    /// There are no modules.
    Module,
    Category(&'a [u8]),
    Name(Pattern<'a>),
}

impl<'a> Filter<'a> {
    fn new(kind: &[u8], value: &'a [u8]) -> Result<Self, CommandError> {
        if is_word(kind, "module") {
            Ok(Self::Module)
        } else if is_word(kind, "aclcat") {
            Ok(Self::Category(value))
        } else if is_word(kind, "pattern") {
            Ok(Self::Name(Pattern::of_client(value)?.ignoring_case()))
        } else {
            Err(CommandError::Syntax)
        }
    }

    /// Whether COMMAND LIST names the entry. Takes what that costs off `steps`.
    fn admits(&self, entry: Entry, steps: &mut u64) -> Result<bool, CommandError> {
        Ok(match self {
            Self::Nothing => true,
            Self::Module => false,
            Self::Category(name) => entry
                .categories()
                .iter()
                .any(|category| is_word(name, category.trim_start_matches('@'))),
            Self::Name(pattern) => pattern
                .matches_within(entry.name().as_bytes(), steps)
                .ok_or(CommandError::TooManySteps)?,
        })
    }
}

fn words(words: &[&str], reply: &mut ReplyWriter<'_>) {
    reply.set(words.len());
    words.iter().for_each(|word| reply.simple(word));
}

/// Where the keys of a command are and what it does to them, in the form that has room for more
/// than the three numbers: one range of arguments, or none.
fn describe_keys(name: &str, [first, last, step]: [i32; 3], reply: &mut ReplyWriter<'_>) {
    if first == 0 {
        reply.set(0);
        return;
    }
    reply.set(1);
    let note = hints::note(name);
    reply.map(3 + usize::from(note.is_some()));
    if let Some(note) = note {
        reply.bulk(b"notes");
        reply.bulk(note.as_bytes());
    }
    reply.bulk(b"flags");
    words(hints::key_flags(name), reply);
    // The last key counts from the first, or from the end.
    let last = if last < 0 { last } else { last - first };
    describe_part("begin_search", "index", &[("index", first)], reply);
    let range = [("lastkey", last), ("keystep", step), ("limit", 0)];
    describe_part("find_keys", "range", &range, reply);
}

fn describe_part(name: &str, kind: &str, spec: &[(&str, i32)], reply: &mut ReplyWriter<'_>) {
    reply.bulk(name.as_bytes());
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(spec.len());
    for (name, value) in spec {
        reply.bulk(name.as_bytes());
        reply.integer((*value).into());
    }
}

pub(super) fn command(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    if request.len() > 1 {
        return run_subcommand(request, session, node, reply);
    }
    describe_all(reply)
}

fn describe_all(reply: &mut ReplyWriter<'_>) -> Outcome {
    reply.array(table().len());
    for command in table() {
        expect_room(reply, 1)?;
        Entry::of(command).describe(reply);
    }
    Ok(())
}

fn command_count(
    _: Request<'_>,
    _: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    reply.integer(i64::try_from(table().len()).unwrap_or(i64::MAX));
    Ok(())
}

/// The documentation of Redis' commands is not carried here.
fn command_docs(_: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    reply.map(0);
    Ok(())
}

fn command_info(
    request: Request<'_>,
    _: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    if request.len() == 2 {
        return describe_all(reply);
    }
    reply.array(request.len() - 2);
    for name in request.iter().skip(2) {
        // It may be named again and again. One entry is a few KiB.
        expect_room(reply, 1)?;
        match Entry::find(name) {
            Some(entry) => entry.describe(reply),
            None => reply.null(),
        }
    }
    Ok(())
}

fn command_list(
    request: Request<'_>,
    _: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let filter = match (request.len(), request.get(2)) {
        (2, _) => Filter::Nothing,
        (5, Some(word)) if is_word(word, "filterby") => {
            Filter::new(request.arg(3), request.arg(4))?
        }
        _ => return Err(CommandError::Syntax),
    };
    let entries = table().iter().map(Entry::of);
    let entries = entries.flat_map(|command| once(command).chain(command.subcommands()));
    let mut steps = MATCH_STEPS_MAX;
    let mut names = Vec::new();
    for entry in entries {
        if filter.admits(entry, &mut steps)? {
            names.push(entry.name());
        }
    }
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

fn command_help(_: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    help("COMMAND", COMMAND_HELP, reply);
    Ok(())
}

const COMMAND_HELP: &[&str] = &[
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "DOCS [<command-name> ...]",
    "    Accepted; no documentation is carried.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "LIST [FILTERBY (MODULE <name>|ACLCAT <category>|PATTERN <pattern>)]",
    "    Return a list of all commands in this server.",
];
