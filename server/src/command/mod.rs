//! The commands: one table, one file a family, each handler a function from (arguments, view) to
//! (reply, effects) without I/O of its own; but INFO asks `/proc` (process.rs says why), and scans note
//! where they left off in a table of the process (scan/cursors.rs).

mod catalog;
mod client;
mod connection;
mod error;
mod foresight;
mod hashes;
mod hints;
mod keys;
mod number;
mod pattern;
mod replication;
#[cfg(test)]
mod room_tests;
mod scan;
mod server;
#[cfg(test)]
mod sharing_tests;
mod strings;
mod table;
mod versions;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{RowMemory, Txn, View};

pub use error::CommandError;
pub use foresight::Foresight;
pub use pattern::{MATCH_STEPS_MAX, Pattern, is_word};
pub use table::{lookup, table};

use crate::{node::Node, session::Session};

/// Bytes that one command may answer, or all the commands of one transaction together. Whoever
/// evaluates commands gives the writer this room.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// From this size on a reply shares a value with the store: to copy a smaller one costs less than to send
/// it as a piece of its own, and its memory is seldom new.
const SHARED_BYTES_MIN: usize = 16 << 10;

/// What every handler answers: the reply was written, or the error to write instead of it.
pub type Outcome = Result<(), CommandError>;

/// What runs a command that touches no keys.
pub type SessionHandler = fn(Request<'_>, &mut Session, &Node, &mut ReplyWriter<'_>) -> Outcome;

/// How a command runs, and with what it may touch.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Reads one key, or scans; runs on the connection's own task against what is visible.
    Read(fn(Request<'_>, &View<'_>, &mut ReplyWriter<'_>) -> Outcome),
    /// Reads several keys, which must not move under it: runs on the shard's writer.
    ReadMany(fn(Request<'_>, &View<'_>, &mut ReplyWriter<'_>) -> Outcome),
    /// May change keys: runs on the shard's writer; its effects become one log record.
    Write(fn(Request<'_>, &mut Txn<'_>, &mut ReplyWriter<'_>) -> Outcome),
    /// Touches the connection or the node, never keys.
    Session(SessionHandler),
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH, WAIT, SHUTDOWN and the like: run by the connection
    /// loop itself, because they wait for others.
    Loop(LoopCommand),
}

/// The commands that the connection loop runs itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopCommand {
    /// Waits until a write is visible here.
    After,
    /// Has everything written so far folded and flushed, and does not wait for it.
    Bgsave,
    /// Counts the live keys, on a thread that may block.
    Dbsize,
    /// Drops a queued transaction.
    Discard,
    /// Runs a queued transaction as one record.
    Exec,
    /// Starts to queue a transaction.
    Multi,
    /// Answers OK and closes.
    Quit,
    /// Brings the connection back to its first state.
    Reset,
    /// Stops the server.
    Shutdown,
    /// Forgets the watched keys.
    Unwatch,
    /// Waits for replicas.
    Wait,
    /// Remembers keys, so that EXEC fails when one of them changed.
    Watch,
}

/// One row of the command table. Arity and key positions are those of Redis' COMMAND INFO.
pub struct Command {
    /// Lower case.
    pub name: &'static str,
    /// Arguments including the name; negative: at least that many.
    pub arity: i32,
    /// As COMMAND INFO prints them.
    pub flags: &'static [&'static str],
    /// Position of the first key, 0 for none.
    pub first_key: i32,
    /// Position of the last key; negative counts from the end.
    pub last_key: i32,
    /// Distance between keys.
    pub step: i32,
    /// COMMAND INFO's ACL categories, each with its `@`.
    pub categories: &'static [&'static str],
    /// What runs it.
    pub handler: Handler,
}

impl Command {
    /// Checks the number of arguments, the name included.
    pub fn accepts(&self, arguments: usize) -> bool {
        let arguments = i32::try_from(arguments).unwrap_or(i32::MAX);
        if self.arity < 0 { arguments >= -self.arity } else { arguments == self.arity }
    }
}

/// The row of a command without keys.
const fn keyless(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    categories: &'static [&'static str],
    handler: Handler,
) -> Command {
    Command { name, arity, flags, first_key: 0, last_key: 0, step: 0, categories, handler }
}

/// Refuses a reply of so many bytes more, before any of it is written, where there is no room.
fn expect_room(reply: &ReplyWriter<'_>, bytes: usize) -> Outcome {
    if bytes > reply.room() { Err(CommandError::ReplyTooLarge) } else { Ok(()) }
}

/// Writes what is stored in this memory, or a part of that, where there is room.
fn reply_stored(bytes: &[u8], memory: &RowMemory, reply: &mut ReplyWriter<'_>) -> Outcome {
    expect_room(reply, bytes.len())?;
    write_stored(bytes, memory, reply);
    Ok(())
}

/// The same where there is room. A small part of a large value is copied: shared, it would keep all of that,
/// and replies count as much as they are long.
fn write_stored(bytes: &[u8], memory: &RowMemory, reply: &mut ReplyWriter<'_>) {
    if bytes.len() >= SHARED_BYTES_MIN && bytes.len() >= memory.bytes() / 2 {
        reply.bulk_shared(memory.share(bytes));
    } else {
        reply.bulk(bytes);
    }
}

/// The integer that an argument is, as Redis reads it.
pub fn parse_integer(argument: &[u8]) -> Option<i64> {
    number::parse_i64(argument)
}
