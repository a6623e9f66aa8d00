//! The connection family: greeting, authentication and the choice of the protocol.

use std::{borrow::Cow, sync::atomic::Ordering};

use larder_resp::{Protocol, ReplyWriter, Request};

use super::{
    Command, CommandError, Handler, LoopCommand, Outcome, catalog,
    client::{client_number, set_name},
    keyless as row,
    number::integer,
    pattern::is_word,
    table::run_subcommand,
};
use crate::{node::Node, session::Session, settings::Settings};

/// The version of Redis whose answers these are.
pub(super) const REDIS_VERSION: &str = "7.0.15";

const WRONG_PASSWORD: CommandError =
    CommandError::message("WRONGPASS invalid username-password pair or user is disabled.");
const FREE: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const FAST: &[&str] = &["@fast", "@connection"];
pub(super) const SLOW: &[&str] = &["@slow", "@connection"];

pub(super) static COMMANDS: &[Command] = &[
    row("auth", -2, FREE, FAST, Handler::Session(auth)),
    row("client", -2, &[], &["@slow"], Handler::Session(run_subcommand)),
    row("command", -1, &["loading", "stale"], SLOW, Handler::Session(catalog::command)),
    row("echo", 2, &["loading", "stale", "fast"], FAST, Handler::Session(echo)),
    row("hello", -1, FREE, FAST, Handler::Session(hello)),
    row("ping", -1, &["fast"], FAST, Handler::Session(ping)),
    row("quit", -1, FREE, FAST, Handler::Loop(LoopCommand::Quit)),
    row("reset", 1, FREE, FAST, Handler::Loop(LoopCommand::Reset)),
    row("select", 2, &["loading", "stale", "fast"], FAST, Handler::Session(select)),
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
    let (user, password) = credentials(request, &node.settings.load())?;
    authenticate(user, password, session, node)?;
    reply.simple("OK");
    Ok(())
}

/// The user and the password that an AUTH gives.
pub(super) fn credentials<'a>(
    request: Request<'a>,
    settings: &Settings,
) -> Result<(&'a [u8], &'a [u8]), CommandError> {
    match request.len() {
        2 if !settings.is_password_set() => Err(CommandError::message(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        2 => Ok((b"default", request.arg(1))),
        3 => Ok((request.arg(1), request.arg(2))),
        _ => Err(CommandError::Syntax),
    }
}

/// There is one user. A wrong attempt leaves the session as it was.
fn authenticate(user: &[u8], password: &[u8], session: &mut Session, node: &Node) -> Outcome {
    if !is_known(user, password, &node.settings.load()) {
        node.counters.authentications_failed.fetch_add(1, Ordering::Relaxed);
        return Err(WRONG_PASSWORD);
    }
    session.authenticated = true;
    Ok(())
}

pub(super) fn is_known(user: &[u8], password: &[u8], settings: &Settings) -> bool {
    let is_right = settings.admits(password);
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
pub(super) fn hello_protocol(request: Request<'_>) -> Result<Option<Protocol>, CommandError> {
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

pub(super) enum HelloOption<'a> {
    Auth(&'a [u8], &'a [u8]),
    SetName(&'a [u8]),
}

/// HELLO's options, one by one; each takes effect before the next is looked at.
pub(super) fn hello_options(
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
                at = request.len();
                Err(CommandError::quoting("ERR Syntax error in HELLO option '", option, "'"))
            }
        })
    })
}
