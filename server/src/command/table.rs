//! The command table: every family's rows in one slice, and the way from a name to its row.
//!
//! Looking a name up is on the path of every request: it folds the name into two lower-cased
//! words, multiplies, and compares once. The multiplier is searched for when the table is first
//! used, so that no two names share a slot.

use std::{borrow::Cow, sync::LazyLock};

use larder_resp::{ReplyWriter, Request};

use super::{
    Command, CommandError, Handler, Outcome, SessionHandler, catalog, client, connection, hashes,
    keys, replication, scan, server, strings, versions,
};
use crate::{node::Node, session::Session};

/// Longest name that the table can hold. Names of commands beyond it are unknown.
const NAME_BYTES_MAX: usize = 16;
/// Slots of the index; several times the number of commands, so that a multiplier without
/// collisions is found within a few tries.
const SLOTS: usize = 1024;
/// In a slot that no name falls into.
const EMPTY: u16 = u16::MAX;
/// Redis shows at most this many bytes of an unknown command's arguments.
const SHOWN_BYTES_MAX: usize = 128;

static TABLE: LazyLock<Table> = LazyLock::new(Table::build);

/// One word of a command that consists of several: `CLIENT ID`, `CONFIG GET`.
pub struct Subcommand {
    /// Lower case, without the command's own name.
    pub name: &'static str,
    /// Arguments including both names; negative: at least that many.
    pub arity: i32,
    /// As COMMAND INFO prints them.
    pub flags: &'static [&'static str],
    /// COMMAND INFO's ACL categories, each with its `@`.
    pub categories: &'static [&'static str],
    /// What runs it.
    pub run: SessionHandler,
}

/// The row of a subcommand.
pub(super) const fn subcommand(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    categories: &'static [&'static str],
    run: SessionHandler,
) -> Subcommand {
    Subcommand { name, arity, flags, categories, run }
}

struct Table {
    commands: Box<[Command]>,
    /// Beside each command, its subcommands; empty for most.
    subcommands: Box<[&'static [Subcommand]]>,
    /// Beside each command, its folded name.
    names: Box<[Name]>,
    /// Positions of commands, by the slot of their names.
    slots: Box<[u16; SLOTS]>,
    multiplier: u64,
}

/// A name folded into words: the same for two names if and only if they differ in case alone.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    bytes: usize,
    first: u64,
    last: u64,
}

/// The row of the command with this name, whatever its case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let table = &*TABLE;
    let name = Name::fold(name)?;
    let position = usize::from(table.slots[name.slot(table.multiplier)]);
    if *table.names.get(position)? == name { table.commands.get(position) } else { None }
}

/// Every command, in the order of the families.
pub fn table() -> &'static [Command] {
    &TABLE.commands
}

impl Command {
    /// Where in [`table`] this row stands: the index of its counters.
    pub fn position(&'static self) -> usize {
        let offset = std::ptr::from_ref(self).addr() - TABLE.commands.as_ptr().addr();
        offset / size_of::<Self>()
    }

    /// Whether the command may run on a connection that has not authenticated.
    pub fn needs_no_authentication(&self) -> bool {
        self.flags.contains(&"no_auth")
    }

    /// Whether the request waits for an open store. What Redis answers while it loads its data does
    /// not, but for what looks at keys here.
    pub fn needs_store(&'static self, request: Request<'_>) -> bool {
        use super::LoopCommand::{Exec, Watch};
        let flags = self.subcommand(request).map_or(self.flags, |subcommand| subcommand.flags);
        !flags.contains(&"loading") || matches!(self.handler, Handler::Loop(Exec | Watch))
    }

    /// Whether the command runs at once on a connection that is queueing a transaction.
    pub const fn is_never_queued(&self) -> bool {
        use super::LoopCommand::{Discard, Exec, Multi, Quit, Reset, Watch};
        matches!(self.handler, Handler::Loop(Discard | Exec | Multi | Quit | Reset | Watch))
    }

    /// The command's subcommands; empty where it has none.
    pub fn subcommands(&'static self) -> &'static [Subcommand] {
        TABLE.subcommands[self.position()]
    }

    /// The command that `request` names, once its name, its subcommand and their numbers of
    /// arguments are right: what Redis checks before anything else, and before it queues a
    /// command in a transaction.
    ///
    /// # Errors
    /// Redis' words for an unknown command or subcommand, or for a wrong number of arguments.
    pub fn admit(request: Request<'_>) -> Result<&'static Self, CommandError> {
        let Some(command) = request.get(0).and_then(lookup) else { return Err(unknown(request)) };
        // No command that names keys in its row has subcommands, which spares the hot ones a look.
        if command.first_key == 0 && request.len() > 1 && !command.subcommands().is_empty() {
            command.subcommand(request)?;
        } else if !command.accepts(request.len()) {
            return Err(CommandError::Arity(Cow::Borrowed(command.name)));
        }
        Ok(command)
    }

    /// The subcommand that `request`'s second argument names.
    ///
    /// # Errors
    /// Redis' words for an unknown subcommand, or for a wrong number of arguments.
    pub fn subcommand(
        &'static self,
        request: Request<'_>,
    ) -> Result<&'static Subcommand, CommandError> {
        let word = request.get(1).unwrap_or_default();
        let Some(subcommand) =
            self.subcommands().iter().find(|row| word.eq_ignore_ascii_case(row.name.as_bytes()))
        else {
            let name = self.name.to_ascii_uppercase();
            return Err(CommandError::Quoting(
                [
                    &b"ERR unknown subcommand '"[..],
                    shown(word, SHOWN_BYTES_MAX),
                    format!("'. Try {name} HELP.").as_bytes(),
                ]
                .concat(),
            ));
        };
        if accepts(subcommand.arity, request.len()) {
            Ok(subcommand)
        } else {
            Err(CommandError::Arity(Cow::Owned(format!("{}|{}", self.name, subcommand.name))))
        }
    }
}

fn accepts(arity: i32, arguments: usize) -> bool {
    let arguments = i32::try_from(arguments).unwrap_or(i32::MAX);
    if arity < 0 { arguments >= -arity } else { arguments == arity }
}

/// Runs the subcommand that `request` names; the handler of every command that has some.
pub(super) fn run_subcommand(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let subcommand = Command::admit(request)?.subcommand(request)?;
    session.note_subcommand(subcommand.name);
    (subcommand.run)(request, session, node, reply)
}

/// Answers `command HELP`, in Redis' form.
pub(super) fn help(command: &str, lines: &[&str], reply: &mut ReplyWriter<'_>) {
    const LAST: [&str; 2] = ["HELP", "    Prints this help."];
    reply.array(1 + lines.len() + LAST.len());
    reply.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().chain(&LAST).for_each(|line| reply.simple(line));
}

/// Redis' answer to a name it does not know: the name, and as many arguments as fit.
fn unknown(request: Request<'_>) -> CommandError {
    let mut arguments = Vec::new();
    for argument in request.iter().skip(1) {
        let Some(room) = SHOWN_BYTES_MAX.checked_sub(arguments.len()).filter(|&room| room > 0)
        else {
            break;
        };
        arguments.push(b'\'');
        arguments.extend_from_slice(shown(argument, room));
        arguments.extend_from_slice(b"' ");
    }
    let name = shown(request.get(0).unwrap_or_default(), SHOWN_BYTES_MAX);
    CommandError::Quoting(
        [b"ERR unknown command '", name, b"', with args beginning with: ", &arguments].concat(),
    )
}

/// At most `bytes_max` bytes of `text`, up to the first NUL as C prints it.
fn shown(text: &[u8], bytes_max: usize) -> &[u8] {
    let text = &text[..text.len().min(bytes_max)];
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    &text[..end]
}

impl Table {
    fn build() -> Self {
        let families = [
            connection::COMMANDS,
            server::COMMANDS,
            keys::COMMANDS,
            scan::COMMANDS,
            strings::COMMANDS,
            hashes::COMMANDS,
            versions::COMMANDS,
            replication::COMMANDS,
        ];
        let commands: Box<[Command]> =
            families.into_iter().flatten().map(|row| Command { ..*row }).collect();
        let subcommands = commands.iter().map(|row| subcommands_of(row.name)).collect();
        let names: Box<[Name]> = commands
            .iter()
            .map(|row| Name::fold(row.name.as_bytes()).expect("the table's names are short"))
            .collect();
        let multiplier = (1..)
            .map(|attempt: u64| attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
            .find(|&multiplier| are_apart(&names, multiplier))
            .expect("some multiplier keeps a hundred names apart in a thousand slots");
        let mut slots = Box::new([EMPTY; SLOTS]);
        for (position, name) in names.iter().enumerate() {
            slots[name.slot(multiplier)] =
                u16::try_from(position).expect("the table has far fewer than 65,535 commands");
        }
        Self { commands, subcommands, names, slots, multiplier }
    }
}

fn subcommands_of(name: &str) -> &'static [Subcommand] {
    match name {
        "client" => client::CLIENT,
        "command" => catalog::COMMAND,
        "config" => server::CONFIG,
        "function" => server::FUNCTION,
        _ => &[],
    }
}

fn are_apart(names: &[Name], multiplier: u64) -> bool {
    let mut taken = [false; SLOTS];
    names.iter().all(|name| !std::mem::replace(&mut taken[name.slot(multiplier)], true))
}

impl Name {
    /// `None` where no command's name is that long or short. The two words overlap where the name
    /// is shorter than both.
    fn fold(name: &[u8]) -> Option<Self> {
        let (first, last) = match name.len() {
            1..=3 => {
                let (middle, last) = (name[name.len() / 2], name[name.len() - 1]);
                (u64::from_le_bytes([name[0], middle, last, 0, 0, 0, 0, 0]), 0)
            }
            4..=8 => {
                let first = u32::from_le_bytes(*name.first_chunk()?);
                let last = u32::from_le_bytes(*name.last_chunk()?);
                (u64::from(first) | u64::from(last) << 32, 0)
            }
            9..=NAME_BYTES_MAX => {
                let first = u64::from_le_bytes(*name.first_chunk()?);
                (first, u64::from_le_bytes(*name.last_chunk()?))
            }
            _ => return None,
        };
        Some(Self { bytes: name.len(), first: lower_case(first), last: lower_case(last) })
    }

    fn slot(self, multiplier: u64) -> usize {
        let mixed = (self.first ^ self.last.rotate_left(23)).wrapping_mul(multiplier);
        // The highest bits depend on all of the word.
        (mixed >> (u64::BITS - SLOTS.trailing_zeros())) as usize
    }
}

/// Eight bytes at once: bit 5 is set in those that are ASCII capitals, and nothing else changes.
/// Adding to seven bits carries into the eighth alone, where it says whether a bound is reached.
const fn lower_case(word: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let low_bits = word & each(0x7f);
    let at_least_a = low_bits.wrapping_add(each(0x80 - b'A'));
    let beyond_z = low_bits.wrapping_add(each(0x7f - b'Z'));
    let capitals = at_least_a & !beyond_z & !word & each(0x80);
    word | capitals >> 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_either_case_and_at_its_own_position() {
        for (position, command) in table().iter().enumerate() {
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(lookup(command.name.as_bytes()).map(|row| row.name), Some(command.name));
            assert_eq!(lookup(upper.as_bytes()).map(Command::position), Some(position));
        }
    }

    #[test]
    fn names_are_lower_case_short_enough_and_unique() {
        let mut names: Vec<_> = table().iter().map(|row| row.name).collect();
        assert!(names.iter().all(|name| name.len() <= NAME_BYTES_MAX));
        assert!(names.iter().all(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase())));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn near_misses_are_unknown() {
        for name in [&b""[..], b"ge", b"gett", b"G\0T", b"get\0", b"\x47\x45\x54\x80", &[b'a'; 99]]
        {
            assert!(lookup(name).is_none(), "{name:?}");
        }
        // These differ from a letter or a dot in the bit that folds case.
        assert!(lookup(b"kv\x0egetv").is_none());
        assert!(lookup(b"KV.GETV").is_some());
    }

    #[test]
    fn eight_bytes_are_lowered_as_each_alone() {
        for byte in 0..=u8::MAX {
            let word = [b'Z', byte, 0xff, byte, b'[', b'@', byte, b'A'];
            let lowered = lower_case(u64::from_le_bytes(word)).to_le_bytes();
            assert_eq!(lowered, word.map(|byte| byte.to_ascii_lowercase()), "{byte}");
        }
    }
}
