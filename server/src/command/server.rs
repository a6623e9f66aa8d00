//! The server family: figures, settings, time, and the rows of what the connection loop runs.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use larder_resp::{ReplyWriter, Request};

use super::{
    Command, CommandError, Handler, LoopCommand, Outcome, keyless as row,
    pattern::{Pattern, is_word},
    table::{Subcommand, help, run_subcommand, subcommand},
};
use crate::{
    info,
    node::Node,
    session::Session,
    settings::{Refusal, Settings},
};

pub(super) const LOADING: &[&str] = &["loading", "stale"];
const LOADING_FAST: &[&str] = &["loading", "stale", "fast"];
const TRANSACTION: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];
const OF_TRANSACTION: &[&str] = &["@fast", "@transaction"];
const OF_ADMIN: &[&str] = &["@admin", "@slow", "@dangerous"];
pub(super) const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const LOADS_SCRIPTS: &[&str] = &["write", "denyoom", "noscript"];
const OF_SCRIPTS: &[&str] = &["@slow", "@scripting"];
const OF_SCRIPTS_WRITE: &[&str] = &["@write", "@slow", "@scripting"];
const OF_ADMIN_FAST: &[&str] = &["@admin", "@fast", "@dangerous"];

pub(super) static COMMANDS: &[Command] = &[
    row(
        "bgsave",
        -1,
        &["admin", "noscript", "no_async_loading"],
        OF_ADMIN,
        Handler::Loop(LoopCommand::Bgsave),
    ),
    row("config", -2, &[], &["@slow"], Handler::Session(run_subcommand)),
    row(
        "dbsize",
        1,
        &["readonly", "fast"],
        &["@keyspace", "@read", "@fast"],
        Handler::Loop(LoopCommand::Dbsize),
    ),
    row("discard", 1, TRANSACTION, OF_TRANSACTION, Handler::Loop(LoopCommand::Discard)),
    row(
        "exec",
        1,
        &["noscript", "loading", "stale", "skip_slowlog"],
        &["@slow", "@transaction"],
        Handler::Loop(LoopCommand::Exec),
    ),
    row("function", -2, &[], &["@slow"], Handler::Session(run_subcommand)),
    row("info", -1, LOADING, &["@slow", "@dangerous"], Handler::Session(info)),
    row("lastsave", 1, LOADING_FAST, OF_ADMIN_FAST, Handler::Session(lastsave)),
    row("multi", 1, TRANSACTION, OF_TRANSACTION, Handler::Loop(LoopCommand::Multi)),
    row(
        "shutdown",
        -1,
        &["admin", "noscript", "loading", "stale", "no_multi", "allow_busy"],
        OF_ADMIN,
        Handler::Loop(LoopCommand::Shutdown),
    ),
    row("time", 1, LOADING_FAST, &["@fast"], Handler::Session(time)),
    row("unwatch", 1, TRANSACTION, OF_TRANSACTION, Handler::Loop(LoopCommand::Unwatch)),
    Command {
        name: "watch",
        arity: -2,
        flags: TRANSACTION,
        first_key: 1,
        last_key: -1,
        step: 1,
        categories: OF_TRANSACTION,
        handler: Handler::Loop(LoopCommand::Watch),
    },
];

pub(super) static CONFIG: &[Subcommand] = &[
    subcommand("get", -3, ADMIN, OF_ADMIN, config_get),
    subcommand("help", 2, LOADING, &["@slow"], config_help),
    subcommand("resetstat", 2, ADMIN, OF_ADMIN, config_resetstat),
    subcommand("rewrite", 2, ADMIN, OF_ADMIN, config_rewrite),
    subcommand("set", -4, ADMIN, OF_ADMIN, config_set),
];

pub(super) static FUNCTION: &[Subcommand] = &[
    subcommand("delete", 3, &["write", "noscript"], OF_SCRIPTS_WRITE, function_unsupported),
    subcommand("dump", 2, &["noscript"], OF_SCRIPTS, function_unsupported),
    subcommand("flush", -2, &["write", "noscript"], OF_SCRIPTS_WRITE, function_flush),
    subcommand("help", 2, LOADING, OF_SCRIPTS, function_help),
    subcommand("kill", 2, &["noscript", "allow_busy"], OF_SCRIPTS, function_unsupported),
    subcommand("list", -2, &["noscript"], OF_SCRIPTS, function_unsupported),
    subcommand("load", -3, LOADS_SCRIPTS, OF_SCRIPTS_WRITE, function_unsupported),
    subcommand("restore", -3, LOADS_SCRIPTS, OF_SCRIPTS_WRITE, function_unsupported),
    subcommand("stats", 2, &["noscript", "allow_busy"], OF_SCRIPTS, function_unsupported),
];

fn info(
    request: Request<'_>,
    _: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let sections: Vec<String> = request
        .iter()
        .skip(1)
        .map(|section| String::from_utf8_lossy(section).to_ascii_lowercase())
        .collect();
    reply.verbatim(&info::render(node, &sections));
    Ok(())
}

fn time(_: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    reply.array(2);
    reply.bulk(now.as_secs().to_string().as_bytes());
    reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(())
}

fn lastsave(_: Request<'_>, _: &mut Session, node: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    reply.integer(i64::try_from(node.saved_ms() / 1_000).unwrap_or(i64::MAX));
    Ok(())
}

fn config_get(
    request: Request<'_>,
    _: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    for pattern in request.iter().skip(2) {
        Pattern::of_client(pattern)?;
    }
    let patterns: Vec<Cow<'_, str>> = request.iter().skip(2).map(String::from_utf8_lossy).collect();
    let patterns: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
    let found = node.settings.load().matching(&patterns)?;
    reply.map(found.len());
    for (name, value) in &found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn config_set(
    request: Request<'_>,
    _: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    // Others may set at the same time: whoever comes second starts over from what the first left.
    let mut outcome = Ok(());
    node.settings.rcu(|current| match configured(request, current) {
        Ok(settings) => {
            outcome = Ok(());
            Arc::new(settings)
        }
        Err(refusal) => {
            outcome = Err(refusal);
            Arc::clone(current)
        }
    });
    outcome?;
    reply.simple("OK");
    Ok(())
}

/// The settings with all of the parameters that a CONFIG SET names set. Redis looks at every name
/// before it looks at a value.
pub(super) fn configured(
    request: Request<'_>,
    current: &Settings,
) -> Result<Settings, CommandError> {
    if !request.len().is_multiple_of(2) {
        return Err(CommandError::Syntax);
    }
    let mut pairs: Vec<(&str, &[u8])> = Vec::new();
    for at in (2..request.len()).step_by(2) {
        let name = known_parameter(request.arg(at))?;
        if let Some(reason) = Settings::fixed(name) {
            return Err(refused_parameter(name, reason));
        }
        if pairs.iter().any(|(before, _)| before.eq_ignore_ascii_case(name)) {
            return Err(refused_parameter(name, "duplicate parameter"));
        }
        pairs.push((name, request.arg(at + 1)));
    }
    let mut settings = current.clone();
    for (name, value) in pairs {
        settings.set(name, value).map_err(|why| match why {
            Refusal::Unknown => unknown_parameter(name.as_bytes()),
            Refusal::Value(reason) => refused_parameter(&name.to_ascii_lowercase(), &reason),
        })?;
    }
    Ok(settings)
}

fn known_parameter(name: &[u8]) -> Result<&str, CommandError> {
    let known = std::str::from_utf8(name).ok().filter(|name| Settings::canonical(name).is_some());
    known.ok_or_else(|| unknown_parameter(name))
}

fn unknown_parameter(name: &[u8]) -> CommandError {
    let unknown = "ERR Unknown option or number of arguments for CONFIG SET - '";
    CommandError::quoting(unknown, name, "'")
}

fn refused_parameter(name: &str, reason: &str) -> CommandError {
    CommandError::Message(Cow::Owned(format!(
        "ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"
    )))
}

fn config_resetstat(
    _: Request<'_>,
    _: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    node.reset_counts();
    reply.simple("OK");
    Ok(())
}

/// The configuration file belongs to whoever wrote it.
fn config_rewrite(_: Request<'_>, _: &mut Session, _: &Node, _: &mut ReplyWriter<'_>) -> Outcome {
    Err(CommandError::message("ERR The server is running without a config file"))
}

fn config_help(_: Request<'_>, _: &mut Session, _: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    help("CONFIG", CONFIG_HELP, reply);
    Ok(())
}

const CONFIG_HELP: &[&str] = &[
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Set the configuration <directive> to <value>.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "REWRITE",
    "    Rewrite the configuration file.",
];

/// There are no functions, so that none is left after a flush.
fn function_flush(
    request: Request<'_>,
    _: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    match request.get(2) {
        Some(_) if request.len() > 3 => Err(CommandError::Message(Cow::Owned(format!(
            "ERR unknown subcommand or wrong number of arguments for '{}'. Try FUNCTION HELP.",
            String::from_utf8_lossy(request.arg(1))
        )))),
        Some(mode) if !is_word(mode, "sync") && !is_word(mode, "async") => {
            Err(CommandError::message("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"))
        }
        _ => {
            reply.simple("OK");
            Ok(())
        }
    }
}

fn function_unsupported(
    _: Request<'_>,
    _: &mut Session,
    _: &Node,
    _: &mut ReplyWriter<'_>,
) -> Outcome {
    Err(CommandError::message("ERR functions are not supported; only FUNCTION FLUSH is accepted"))
}

fn function_help(
    _: Request<'_>,
    _: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    help("FUNCTION", FUNCTION_HELP, reply);
    Ok(())
}

const FUNCTION_HELP: &[&str] =
    &["FLUSH [ASYNC|SYNC]", "    Accepted; functions are not supported, so that there are none."];
