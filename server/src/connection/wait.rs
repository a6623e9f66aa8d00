//! Commands that wait for other nodes: WAIT and KV.AFTER.

use std::time::Duration;

use larder_replication::core::Need;
use larder_resp::{ReplyWriter, Request};
use larder_types::Position;
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{Connection, End};
use crate::{
    command::{CommandError, parse_integer},
    replica::{Replica, Token, Whereabouts},
};

/// Without a timeout it ends with the connection, as in Redis, or with the server.
const FOREVER: Duration = Duration::from_secs(u64::MAX >> 32);
/// How often a waiter looks whether the history has changed: nothing wakes it for that.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a waiter whose client has sent more looks whether it is gone: bytes that are not read keep
/// the socket ready, so that nothing wakes it.
const LOOK_FOR_END_EVERY: Duration = Duration::from_secs(1);

impl Connection {
    /// `WAIT replicas timeout`: until so many have this connection's last write; how many these are.
    /// A single node has none.
    pub(super) async fn wait(
        &mut self,
        request: Request<'_>,
        may_block: bool,
    ) -> Result<Result<u32, CommandError>, End> {
        let node = self.node.clone();
        let is_slave = node.replica.as_ref().is_some_and(|replica| !replica.duty().is_master());
        let (wanted, timeout) = match what_is_awaited(request, is_slave) {
            Ok(awaited) => awaited,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let patience = if may_block { timeout } else { Duration::ZERO };
        let blocks = wanted > 0 && may_block;
        if blocks {
            self.send().await?;
        }
        let _blocked = blocks.then(|| self.session.block("wait"));
        let written = self.session.last_write;
        let waited = async {
            match &node.replica {
                Some(replica) => have(replica, written, wanted, patience).await,
                None if wanted == 0 => 0,
                None => {
                    sleep(patience).await;
                    0
                }
            }
        };
        let have = tokio::select! {
            have = waited => have,
            () = self.stop.requested() => 0,
            () = closed(&self.stream), if blocks => return Err(End::Closed),
        };
        Ok(Ok(have))
    }

    /// `KV.AFTER token timeout-ms`: until this node shows the write that the token names; whether it
    /// does so in time. `LOST` when the write is not in this history.
    pub(super) async fn after(
        &mut self,
        request: Request<'_>,
        may_block: bool,
    ) -> Result<Result<bool, CommandError>, End> {
        let Some(token) = Token::parse(request.arg(1)) else {
            return Ok(Err(CommandError::message("ERR this is no token that KV.TOKEN gave")));
        };
        let timeout = match timeout(request.arg(2)) {
            Ok(timeout) => timeout,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let until = Instant::now() + if may_block { timeout } else { Duration::ZERO };
        if may_block {
            self.send().await?;
        }
        let _blocked = may_block.then(|| self.session.block("kv.after"));
        let mut visible = self.node.replica.as_ref().map(|replica| replica.visible());
        loop {
            match token.whereabouts(&self.shard().store()) {
                Whereabouts::Visible => return Ok(Ok(true)),
                Whereabouts::Lost => {
                    return Ok(Err(CommandError::message(
                        "LOST the write that this token names is not in the history of this store: \
                         the log parted before it",
                    )));
                }
                Whereabouts::Forgotten => {
                    return Ok(Err(CommandError::message(
                        "ERR this token is older than what is kept of the log, so that nobody knows",
                    )));
                }
                Whereabouts::Awaited if Instant::now() >= until => return Ok(Ok(false)),
                Whereabouts::Awaited => {}
            }
            let look = tokio::time::sleep_until(until.min(Instant::now() + LOOK_EVERY));
            let moved = async {
                let moved = match &mut visible {
                    Some(visible) => visible.changed().await.is_ok(),
                    None => false,
                };
                if !moved {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = look => {}
                () = moved => {}
                () = self.stop.requested() => return Ok(Ok(false)),
                () = closed(&self.stream) => return Err(End::Closed),
            }
        }
    }
}

/// What KV.AFTER answers.
pub(super) fn reply_shown(is_shown: bool, reply: &mut ReplyWriter<'_>) {
    if is_shown { reply.simple("OK") } else { reply.null() }
}

async fn have(
    replica: &Replica,
    written: Option<Position>,
    wanted: u32,
    patience: Duration,
) -> u32 {
    let reached = replica.driver.reach(written, Need::Replicas(wanted), patience).await;
    reached.map_or(0, |(_, replicas)| replicas)
}

/// How many slaves a WAIT asks for, and for how long. In Redis' order.
fn what_is_awaited(request: Request<'_>, is_slave: bool) -> Result<(u32, Duration), CommandError> {
    if is_slave {
        return Err(CommandError::message(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 \
             if a replica is configured to be writable (which is not the default) writes to \
             replicas are just local and are not propagated.",
        ));
    }
    let replicas = parse_integer(request.arg(1)).ok_or(CommandError::NotInteger)?;
    let wanted = u32::try_from(replicas.max(0)).unwrap_or(u32::MAX);
    Ok((wanted, timeout(request.arg(2))?))
}

fn timeout(argument: &[u8]) -> Result<Duration, CommandError> {
    let Some(timeout_ms) = parse_integer(argument) else {
        return Err(CommandError::message("ERR timeout is not an integer or out of range"));
    };
    match u64::try_from(timeout_ms) {
        Ok(0) => Ok(FOREVER),
        Ok(timeout_ms) => Ok(Duration::from_millis(timeout_ms).min(FOREVER)),
        Err(_) => Err(CommandError::message("ERR timeout is negative")),
    }
}

/// Done when the client closes the connection, or its half of it, also behind what is not read yet.
async fn closed(stream: &TcpStream) {
    while stream.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
        // The bytes are still there: it is ready, and says whether it has ended behind them.
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => sleep(LOOK_FOR_END_EVERY).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use larder_resp::{Decoder, Limits};

    use super::*;

    #[test]
    fn a_slave_refuses_to_wait_whatever_it_is_asked() {
        let refusal = |line: &str, is_slave: bool| {
            let mut wire = BytesMut::from(format!("{line}\r\n").as_bytes());
            let pipeline = Decoder::new(Limits::AFTER_AUTH).decode(&mut wire, 1).unwrap();
            what_is_awaited(pipeline.request(0), is_slave).err().map(|refusal| refusal.to_string())
        };
        for line in ["WAIT 1 1", "WAIT x 1", "WAIT 1 x", "WAIT 1 -1"] {
            let at_slave = refusal(line, true).expect("it is refused");
            assert!(
                at_slave.starts_with("ERR WAIT cannot be used with replica instances."),
                "{line}"
            );
            let at_master = refusal(line, false);
            assert_ne!(at_master.as_ref(), Some(&at_slave), "{line}");
            assert_eq!(at_master.is_none(), line == "WAIT 1 1", "{at_master:?}");
        }
    }
}
