//! The replication family: who is the master, how far writes must get, and how stale reads may be.

use std::time::Duration;

use larder_resp::{ReplyWriter, Request};
use larder_types::AckLevel;

use super::{
    Command, CommandError, Handler, LoopCommand, Outcome, keyless as row, number::integer,
};
use crate::{
    node::Node,
    replica::{Duty, Token},
    session::{Redirect, Session},
};

const FAST: &[&str] = &["@fast", "@connection"];
const SESSION: &[&str] = &["loading", "stale", "fast"];

pub(super) static COMMANDS: &[Command] = &[
    row("kv.ack", 2, SESSION, FAST, Handler::Session(ack)),
    row(
        "kv.after",
        3,
        &["noscript", "stale"],
        &["@slow", "@connection"],
        Handler::Loop(LoopCommand::After),
    ),
    row("kv.maxlag", 2, SESSION, FAST, Handler::Session(maxlag)),
    row("kv.token", 1, SESSION, FAST, Handler::Session(token)),
    row("readonly", 1, SESSION, FAST, Handler::Session(readonly)),
    row("readwrite", 1, SESSION, FAST, Handler::Session(readwrite)),
    row(
        "role",
        1,
        &["noscript", "loading", "stale", "fast"],
        &["@admin", "@fast", "@dangerous"],
        Handler::Session(role),
    ),
    row("wait", 3, &["noscript"], &["@slow", "@connection"], Handler::Loop(LoopCommand::Wait)),
];

/// `KV.ACK level`: writes of this connection are answered when they have got so far, where that is
/// more than the namespace asks for.
fn ack(
    request: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let text = String::from_utf8_lossy(request.arg(1)).to_ascii_lowercase();
    let level: AckLevel = text
        .parse()
        .map_err(|_| CommandError::message("ERR the level is one of local, near, majority, all"))?;
    if node.replica.is_none() && level > AckLevel::Local {
        return Err(CommandError::message(
            "ERR this node is alone: there is no other that could acknowledge a write",
        ));
    }
    if let Some(replica) = &node.replica
        && let Some(reason) = replica.node.unmet(level, &replica.node.id, &replica.node.region)
    {
        return Err(CommandError::Message(
            format!("ERR no write could reach the level: {reason}").into(),
        ));
    }
    if let Some(replica) = &node.replica
        && level > AckLevel::Local
        && let Some(status) = replica.status()
        && !status.can_meet(level, &replica.node.region)
    {
        return Err(CommandError::message(
            "ERR no write could reach the level: too few replicas count; see `kv replica list`",
        ));
    }
    session.ack_level = level;
    reply.simple("OK");
    Ok(())
}

/// `KV.MAXLAG milliseconds`: reads that may be staler are refused at a slave; 0 allows any.
fn maxlag(
    request: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    let millis = u64::try_from(integer(request.arg(1))?)
        .map_err(|_| CommandError::message("ERR the lag is negative"))?;
    session.lag_max = (millis > 0).then(|| Duration::from_millis(millis));
    reply.simple("OK");
    Ok(())
}

/// The place of the session's last write in the log: what a reader elsewhere can wait for.
fn token(
    _: Request<'_>,
    session: &mut Session,
    node: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    match (session.last_write, node.store()) {
        (Some(position), Some(store)) => {
            let token = Token { log: store.log().id(), position };
            reply.bulk(token.to_string().as_bytes());
        }
        _ => reply.null(),
    }
    Ok(())
}

fn readonly(
    _: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    session.redirect = Redirect::Writes;
    reply.simple("OK");
    Ok(())
}

fn readwrite(
    _: Request<'_>,
    session: &mut Session,
    _: &Node,
    reply: &mut ReplyWriter<'_>,
) -> Outcome {
    session.redirect = Redirect::All;
    reply.simple("OK");
    Ok(())
}

/// As Redis answers: a master with its slaves and how far these are, or a slave with its master. The
/// node's own offset is the last durable record.
fn role(_: Request<'_>, _: &mut Session, node: &Node, reply: &mut ReplyWriter<'_>) -> Outcome {
    let durable = i64::try_from(node.watermarks().durable).unwrap_or(i64::MAX);
    let duty = node.replica.as_ref().map(|replica| (replica, replica.duty()));
    match duty {
        Some((replica, duty)) if !duty.is_master() => {
            let (master, state) = match &**duty {
                Duty::Slave { master: Some(master) } => (replica.resp_of(master), "connected"),
                _ => (None, "connect"),
            };
            reply.array(5);
            reply.bulk(b"slave");
            let host = master.map_or_else(String::new, |address| address.ip().to_string());
            reply.bulk(host.as_bytes());
            reply.integer(master.map_or(0, |address| address.port().into()));
            reply.bulk(state.as_bytes());
            reply.integer(durable);
        }
        _ => {
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(durable);
            let followers = node.followers();
            reply.array(followers.len());
            for follower in followers {
                reply.array(3);
                reply.bulk(follower.address.ip().to_string().as_bytes());
                reply.bulk(follower.address.port().to_string().as_bytes());
                reply.bulk(follower.acked.to_string().as_bytes());
            }
        }
    }
    Ok(())
}
