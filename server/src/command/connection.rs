//! The connection family: greeting, authentication, names, and the table of commands itself.

use std::{borrow::Cow, sync::atomic::Ordering, time::Instant};

use larder_resp::{Protocol, ReplyWriter, Request};

use super::{
    Command, CommandError, Handler, LoopCommand, Outcome, keyless as row,
    number::integer,
    pattern::{c_text, is_word},
    table::{Subcommand, help, lookup, run_subcommand, table},
};
use crate::{
    clients::Client,
    node::Node,
    session::{ReplyMode, Session},
};

/// The version of Redis whose answers these are.
pub(super) const REDIS_VERSION: &str = "7.0.15";

const WRONG_PASSWORD: CommandError =
    CommandError::message("WRONGPASS invalid username-password pair or user is disabled.");
const BAD_NAME: CommandError = CommandError::message(
    "ERR Client names cannot contain spaces, newlines or special characters.",
);

const FREE: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const FAST: &[&str] = &["@fast", "@connection"];
const SLOW: &[&str] = &["@slow", "@connection"];

pub(super) static COMMANDS: &[Command] = &[
    row("auth", -2, FREE, FAST, Handler::Session(auth)),
    row("client", -2, &[], &["@slow"], Handler::Session(run_subcommand)),
    row("command", -1, &["loading", "stale"], SLOW, Handler::Session(command)),
    row("echo", 2, &["loading", "stale", "fast"], FAST, Handler::Session(echo)),
    row("hello", -1, FREE, FAST, Handler::Session(hello)),
    row("ping", -1, &["fast"], FAST, Handler::Session(ping)),
    row("quit", -1, FREE, FAST, Handler::Loop(LoopCommand::Quit)),
    row("reset", 1, FREE, FAST, Handler::Loop(LoopCommand::Reset)),
    row("select", 2, &["loading", "stale", "fast"], FAST, Handler::Session(select)),
];

pub(super) static CLIENT: &[Subcommand] = &[
    Subcommand { name: "getname", arity: 2, run: client_getname },
    Subcommand { name: "help", arity: 2, run: client_help },
    Subcommand { name: "id", arity: 2, run: client_id },
    Subcommand { name: "info", arity: 2, run: client_info },
    Subcommand { name: "list", arity: -2, run: client_list },
    Subcommand { name: "no-evict", arity: 3, run: client_no_evict },
    Subcommand { name: "reply", arity: 3, run: client_reply },
    Subcommand { name: "setinfo", arity: 4, run: client_setinfo },
    Subcommand { name: "setname", arity: 3, run: client_setname },
];

pub(super) static COMMAND: &[Subcommand] = &[
    Subcommand { name: "count", arity: 2, run: command_count },
    Subcommand { name: "docs", arity: -2, run: command_docs },
    Subcommand { name: "help", arity: 2, run: command_help },
    Subcommand { name: "info", arity: -2, run: command_info },
    Subcommand { name: "list", arity: 2, run: command_list },
];

fn ping(request: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    match (request.get(1), request.len()) {
        (None, _) => reply.simple("PONG"),
        (Some(text), 2) => reply.bulk(text),
        _ => return Err(CommandError::Arity(Cow::Borrowed("ping"))),
    }
    Ok(())
}

fn echo(request: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    reply.bulk(request.arg(1));
    Ok(())
}

/// There is one database.
fn select(request: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    let index = integer(request.arg(1))?;
    if i32::try_from(index).is_err() {
        return Err(CommandError::message(
            "ERR value is out of range, value must between -2147483648 and 2147483647",
        ));
    }
    if index != 0 {
        return Err(CommandError::message("ERR DB index is out of range"));
    }
    reply.simple("OK");
    Ok(())
}

fn auth(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let (user, password) = match request.len() {
        2 if !node.settings.load().is_password_set() => {
            return Err(CommandError::message(
                "ERR AUTH <password> called without any password configured for the default \
                 user. Are you sure your configuration is correct?",
            ));
        }
        2 => (&b"default"[..], request.arg(1)),
        3 => (request.arg(1), request.arg(2)),
        _ => return Err(CommandError::Syntax),
    };
    authenticate(user, password, session, node)?;
    reply.simple("OK");
    Ok(())
}

/// There is one user. A wrong attempt leaves the session as it was.
fn authenticate(user: &[u8], password: &[u8], session: &mut Session, node: &Node) -> Outcome {
    if !is_known(user, password, node) {
        node.counters.authentications_failed.fetch_add(1, Ordering::Relaxed);
        return Err(WRONG_PASSWORD);
    }
    session.authenticated = true;
    Ok(())
}

fn is_known(user: &[u8], password: &[u8], node: &Node) -> bool {
    let is_right = node.settings.load().admits(password);
    is_right && user == b"default"
}

fn hello(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let protocol = hello_protocol(request)?.unwrap_or(session.protocol);
    for option in hello_options(request) {
        match option? {
            HelloOption::Auth(user, password) => authenticate(user, password, session, node)?,
            HelloOption::SetName(name) => set_name(session.client(), name)?,
        }
    }
    if session.must_authenticate(node) {
        return Err(CommandError::message(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        ));
    }
    session.protocol = protocol;
    reply.set_protocol(protocol);
    reply.map(7);
    for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(key.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(if protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(client_number(session.id()));
    let role = if node.is_master() { "master" } else { "replica" };
    for (key, value) in [("mode", "standalone"), ("role", role)] {
        reply.bulk(key.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

/// The protocol that HELLO asks for, if for any.
fn hello_protocol(request: Request<'_>) -> Result<Option<Protocol>, CommandError> {
    match request.get(1).map(integer) {
        None => Ok(None),
        Some(Ok(2)) => Ok(Some(Protocol::Resp2)),
        Some(Ok(3)) => Ok(Some(Protocol::Resp3)),
        Some(Ok(_)) => Err(CommandError::message("NOPROTO unsupported protocol version")),
        Some(Err(_)) => {
            Err(CommandError::message("ERR Protocol version is not an integer or out of range"))
        }
    }
}

enum HelloOption<'a> {
    Auth(&'a [u8], &'a [u8]),
    SetName(&'a [u8]),
}

/// HELLO's options, one by one; each takes effect before the next is looked at.
fn hello_options(
    request: Request<'_>,
) -> impl Iterator<Item = Result<HelloOption<'_>, CommandError>> {
    let mut at = 2;
    std::iter::from_fn(move || {
        let option = request.get(at)?;
        Some(match (request.get(at + 1), request.get(at + 2)) {
            (Some(user), Some(password)) if is_word(option, "auth") => {
                at += 3;
                Ok(HelloOption::Auth(user, password))
            }
            (Some(name), _) if is_word(option, "setname") => {
                at += 2;
                Ok(HelloOption::SetName(name))
            }
            _ => {
                let quoted = [b"ERR Syntax error in HELLO option '", c_text(option), b"'"].concat();
                Err(CommandError::Quoting(quoted))
            }
        })
    })
}

impl Command {
    /// What replies are written in from this queued request on, where it is a HELLO that will
    /// change it: the shard's writer has to know before the connection runs it.
    pub fn switches_to(&self, request: Request<'_>, node: &Node) -> Option<Protocol> {
        if self.name != "hello" {
            return None;
        }
        let protocol = hello_protocol(request).ok()??;
        let succeeds = hello_options(request).all(|option| match option {
            Ok(HelloOption::Auth(user, password)) => is_known(user, password, node),
            Ok(HelloOption::SetName(name)) => plain_text(name).is_some(),
            Err(_) => false,
        });
        succeeds.then_some(protocol)
    }
}

fn client_number(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// Text without spaces and control characters, as names of clients must be.
fn plain_text(text: &[u8]) -> Option<&str> {
    let is_plain = text.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(text).ok().filter(|_| is_plain)
}

fn set_name(client: &Client, name: &[u8]) -> Outcome {
    let name = plain_text(name).ok_or(BAD_NAME)?;
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
        let option = String::from_utf8_lossy(option);
        return Err(CommandError::Message(format!("ERR Unrecognized option '{option}'").into()));
    }
    let Some(value) = plain_text(request.arg(3)) else {
        let option = if is_name { "lib-name" } else { "lib-ver" };
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
    let protocol = session.protocol;
    session.client().update(|details| {
        details.command = "client";
        details.subcommand = subcommand;
        details.active = Instant::now();
        details.protocol = protocol;
    });
}

fn client_info(
    _: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    session.note_subcommand("info");
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
    session.note_subcommand("list");
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
                return Err(CommandError::Message(Cow::Owned(format!(
                    "ERR Unknown client type '{}'",
                    String::from_utf8_lossy(kind)
                ))));
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
    clients.iter().for_each(|client| client.describe(now, &mut lines));
    reply.verbatim(&lines);
    Ok(())
}

/// Nothing is evicted here, so that the wish is granted as it stands.
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
    "    Accepted; clients are never evicted.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Assign the client's library and its version to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
];

fn command(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    if request.len() > 1 {
        return run_subcommand(request, session, node, reply);
    }
    describe_all(reply);
    Ok(())
}

fn describe_all(reply: &mut ReplyWriter<'_>) {
    reply.array(table().len());
    table().iter().for_each(|command| describe(command, reply));
}

/// One command as COMMAND INFO prints it. Tips and key specifications are left empty: the three
/// numbers say where the keys of every command here are.
fn describe(command: &'static Command, reply: &mut ReplyWriter<'_>) {
    describe_row(command.name, command.arity, command, reply);
    let subcommands = command.subcommands();
    reply.array(subcommands.len());
    for subcommand in subcommands {
        let name = format!("{}|{}", command.name, subcommand.name);
        describe_row(&name, subcommand.arity, command, reply);
        reply.array(0);
    }
}

/// Nine of the ten elements; the subcommands follow.
fn describe_row(name: &str, arity: i32, command: &Command, reply: &mut ReplyWriter<'_>) {
    reply.array(10);
    reply.bulk(name.as_bytes());
    reply.integer(arity.into());
    reply.set(command.flags.len());
    command.flags.iter().for_each(|flag| reply.simple(flag));
    for position in [command.first_key, command.last_key, command.step] {
        reply.integer(position.into());
    }
    reply.set(command.categories.len());
    command.categories.iter().for_each(|category| reply.simple(category));
    reply.set(0);
    reply.set(0);
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
        describe_all(reply);
        return Ok(());
    }
    reply.array(request.len() - 2);
    for name in request.iter().skip(2) {
        match lookup(name) {
            Some(command) => describe(command, reply),
            None => reply.null(),
        }
    }
    Ok(())
}

fn command_list(_: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    reply.array(table().len());
    table().iter().for_each(|command| reply.bulk(command.name.as_bytes()));
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
    "LIST",
    "    Return a list of all commands in this server.",
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
}
