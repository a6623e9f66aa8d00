//! The commands for operators of a cluster: its certificates, its replicas, its master, and what was
//! parted from its log.

mod ca;
mod parted;
mod replica;
mod shard;
mod view;

pub(crate) use ca::{ca, ensure_authority, ensure_certificate};
pub(crate) use parted::parted;
pub(crate) use replica::replica;
pub(crate) use shard::{promote, shard};
pub(crate) use view::{Member, Replication};

use serde_json::Value as Json;

use crate::args::Format;
use crate::failure::Failure;
use crate::output;

/// Prints what was done: a line for people, the node's answer for programs.
fn print_done(format: Format, line: &str, answer: &Json) -> Result<(), Failure> {
    match format {
        Format::Table => output::print_line(line)?,
        Format::Json => output::print_json(answer)?,
    }
    Ok(())
}

/// A value that may not be known, for people.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A field of an answer as a cell of a table.
fn cell(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => output::for_line(text.as_bytes()),
        other => output::for_line(other.to_string().as_bytes()),
    }
}
