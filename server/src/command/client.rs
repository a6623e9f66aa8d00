//! CLIENT: what a connection says of itself, and what it is told of others.

use std::{borrow::Cow, time::Instant};

use larder_resp::{ReplyWriter, Request};

use super::{
    CommandError, Outcome,
    connection::SLOW,
    expect_room,
    number::integer,
    pattern::is_word,
    server::{ADMIN, LOADING},
    table::{Subcommand, help, subcommand},
};
use crate::{
    clients::Client,
    node::Node,
    session::{ReplyMode, Session},
};

/// A client's name, and the name and the version of its library, each: kept for as long as it is
/// connected, and no part of what requests and replies may take.
const TEXT_BYTES_MAX: usize = 1 << 10;

const BAD_NAME: CommandError = CommandError::message(
    "ERR Client names cannot contain spaces, newlines or special characters.",
);

const SELF: &[&str] = &["noscript", "loading", "stale"];
const OF_ADMIN: &[&str] = &["@admin", "@slow", "@dangerous", "@connection"];

pub(super) static CLIENT: &[Subcommand] = &[
    subcommand("getname", 2, SELF, SLOW, client_getname),
    subcommand("help", 2, LOADING, SLOW, client_help),
    subcommand("id", 2, SELF, SLOW, client_id),
    subcommand("info", 2, SELF, SLOW, client_info),
    subcommand("list", -2, ADMIN, OF_ADMIN, client_list),
    subcommand("no-evict", 3, ADMIN, OF_ADMIN, client_no_evict),
    subcommand("reply", 3, SELF, SLOW, client_reply),
    subcommand("setinfo", 4, SELF, SLOW, client_setinfo),
    subcommand("setname", 3, SELF, SLOW, client_setname),
];

pub(super) fn client_number(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// Text without spaces and control characters.
fn plain_text(text: &[u8]) -> Option<&str> {
    let is_plain = text.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(text).ok().filter(|_| is_plain)
}

/// Refuses what is longer than is kept of a client.
fn expect_short(what: &str, text: &[u8]) -> Outcome {
    let bytes = text.len();
    if bytes > TEXT_BYTES_MAX {
        return Err(CommandError::Message(Cow::Owned(format!(
            "ERR a {what} of {bytes} bytes is larger than the limit of {TEXT_BYTES_MAX}"
        ))));
    }
    Ok(())
}

/// The name that a client gives itself, if it may.
pub(super) fn client_name(name: &[u8]) -> Result<&str, CommandError> {
    expect_short("client name", name)?;
    plain_text(name).ok_or(BAD_NAME)
}

pub(super) fn set_name(client: &Client, name: &[u8]) -> Outcome {
    let name = client_name(name)?;
    client.update(|details| name.clone_into(&mut details.name));
    Ok(())
}

fn client_getname(
    _: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    match session.client().details().name {
        name if name.is_empty() => reply.null(),
        name => reply.bulk(name.as_bytes()),
    }
    Ok(())
}

fn client_setname(
    request: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    set_name(session.client(), request.arg(2))?;
    reply.simple("OK");
    Ok(())
}

/// As Redis 7.2 has it, because clients send it unasked.
fn client_setinfo(
    request: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let option = request.arg(2);
    let is_name = is_word(option, "lib-name");
    if !is_name && !is_word(option, "lib-ver") {
        return Err(CommandError::quoting("ERR Unrecognized option '", option, "'"));
    }
    let option = if is_name { "lib-name" } else { "lib-ver" };
    expect_short(option, request.arg(3))?;
    let Some(value) = plain_text(request.arg(3)) else {
        return Err(CommandError::Message(Cow::Owned(format!(
            "ERR {option} cannot contain spaces, newlines or special characters."
        ))));
    };
    session.client().update(|details| {
        let field = if is_name { &mut details.library_name } else { &mut details.library_version };
        value.clone_into(field);
    });
    reply.simple("OK");
    Ok(())
}

fn client_id(
    _: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    reply.integer(client_number(session.id()));
    Ok(())
}

/// Brings what others see of this very connection up to date, because its batch has not ended.
fn show_running(session: &Session, subcommand: &'static str) {
    let (command, subcommand) =
        if session.executing.is_some() { ("exec", "") } else { ("client", subcommand) };
    session.client().update(|details| {
        details.command = command;
        details.subcommand = subcommand;
        details.active = Instant::now();
        details.protocol = session.protocol;
        details.queued = session.executing;
    });
}

fn client_info(
    _: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    show_running(session, "info");
    let mut line = String::new();
    session.client().describe(Instant::now(), &mut line);
    reply.verbatim(&line);
    Ok(())
}

fn client_list(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    show_running(session, "list");
    let clients = match request.get(2) {
        None => node.clients.snapshot(),
        Some(option) if is_word(option, "type") && request.len() == 4 => {
            let kind = request.arg(3);
            let others = ["master", "pubsub", "replica", "slave"];
            if is_word(kind, "normal") {
                node.clients.snapshot()
            } else if others.iter().any(|other| is_word(kind, other)) {
                Vec::new()
            } else {
                return Err(CommandError::quoting("ERR Unknown client type '", kind, "'"));
            }
        }
        Some(option) if is_word(option, "id") && request.len() > 3 => {
            let mut clients = Vec::new();
            for id in request.iter().skip(3) {
                let id = integer(id).map_err(|_| CommandError::message("ERR Invalid client ID"))?;
                clients.extend(u64::try_from(id).ok().and_then(|id| node.clients.find(id)));
            }
            clients
        }
        Some(_) => return Err(CommandError::Syntax),
    };
    let now = Instant::now();
    let mut lines = String::new();
    for client in &clients {
        client.describe(now, &mut lines);
        expect_room(reply, lines.len())?;
    }
    reply.verbatim(&lines);
    Ok(())
}

/// Accepted and of no effect: there is one user, and who reads nothing would else take the memory.
fn client_no_evict(
    request: Request<'_>,
    _: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    if !is_word(request.arg(2), "on") && !is_word(request.arg(2), "off") {
        return Err(CommandError::Syntax);
    }
    reply.simple("OK");
    Ok(())
}

fn client_reply(
    request: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let mode = request.arg(2);
    if is_word(mode, "on") {
        session.reply_mode = ReplyMode::On;
        reply.simple("OK");
    } else if is_word(mode, "off") {
        session.reply_mode = ReplyMode::Off;
    } else if is_word(mode, "skip") {
        if session.reply_mode != ReplyMode::Off {
            session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(CommandError::Syntax);
    }
    Ok(())
}

fn client_help(_: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    help("CLIENT", CLIENT_HELP, reply);
    Ok(())
}

const CLIENT_HELP: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "    * ID <id> [<id> ...]",
    "      Return clients with these IDs.",
    "NO-EVICT (ON|OFF)",
    "    Accepted; of no effect.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Assign the client's library and its version to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clients_have_no_spaces_and_no_control_characters() {
        assert_eq!(plain_text(b"worker-1"), Some("worker-1"));
        assert_eq!(plain_text(b""), Some(""));
        for bad in [&b"a b"[..], b"a\n", b"\x7f", "é".as_bytes()] {
            assert_eq!(plain_text(bad), None);
        }
    }

    #[test]
    fn a_name_may_be_as_long_as_its_bound_and_no_longer() {
        let name = |bytes: usize| client_name(&vec![b'n'; bytes]).map(str::len);
        for bytes in [TEXT_BYTES_MAX - 1, TEXT_BYTES_MAX] {
            assert_eq!(name(bytes).ok(), Some(bytes));
        }
        let refusal = name(TEXT_BYTES_MAX + 1).expect_err("it is too long").to_string();
        assert_eq!(refusal, "ERR a client name of 1025 bytes is larger than the limit of 1024");
    }
}
