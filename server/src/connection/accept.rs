//! Takes connections in, and lets them end when the server stops.

use std::{
    io, net,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Connection, End, Workers, turn::Turn, workers::Counted};
use crate::{node::Node, session::Session};

/// After an error of accepting, such as too many open files, the next try waits this long.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// A connection that is silent for so long is asked whether its peer is there: Redis' default of
/// `tcp-keepalive`. Nothing else tells of a peer that vanished, and its client's place is taken.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// So many questions without an answer end it; together they take as long again, as in Redis.
const KEEPALIVE_PROBES: u32 = 3;
/// How often a stop looks whether the last requests are answered.
const DRAIN_STEP: Duration = Duration::from_millis(5);

/// Asks the server to stop, and tells its parts that it was asked.
#[derive(Default)]
pub struct Stop {
    requested: AtomicBool,
    notify: Notify,
    /// Connections that are between taking requests and sending their replies.
    busy: AtomicUsize,
}

impl Stop {
    /// Asks the server to stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Whether the server was asked to stop.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits until the server is asked to stop.
    pub async fn requested(&self) {
        let notified = self.notify.notified();
        if !self.is_requested() {
            notified.await;
        }
    }

    pub(super) fn busy(&self) -> BusyGuard<'_> {
        self.busy.fetch_add(1, Ordering::AcqRel);
        BusyGuard(self)
    }
}

/// Held by a connection while it answers.
pub(super) struct BusyGuard<'a>(&'a Stop);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves clients on `workers` until a stop is asked for, then lets those that are being answered
/// finish, for at most `drain`. Requests that were not answered by then may or may not have been
/// applied.
pub async fn serve(
    listener: TcpListener,
    workers: &Workers,
    node: Arc<Node>,
    stop: Arc<Stop>,
    drain: Duration,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.requested() => break,
            accepted = listener.accept() => match accepted {
                // Each thread registers its own sockets.
                Ok((stream, _)) => match stream.into_std() {
                    Ok(stream) => {
                        let (node, stop) = (node.clone(), stop.clone());
                        workers.spawn(&mut connections, |turn, counted| {
                            take_in(stream, node, turn, stop, counted)
                        });
                    }
                    Err(error) => tracing::warn!(%error, "a connection could not be handed on"),
                },
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    sleep(AFTER_ERROR).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let deadline = Instant::now() + drain;
    while stop.busy.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        sleep(DRAIN_STEP).await;
    }
    let unanswered = stop.busy.load(Ordering::Acquire);
    if unanswered > 0 {
        tracing::warn!(unanswered, "connections were cut before their replies were sent");
    }
    connections.shutdown().await;
}

async fn take_in(
    stream: net::TcpStream,
    node: Arc<Node>,
    turn: Arc<Turn>,
    stop: Arc<Stop>,
    _counted: Counted,
) {
    let registered = TcpStream::from_std(stream)
        .and_then(|stream| register(&stream, &node).map(|session| (stream, session)));
    let (stream, session) = match registered {
        Ok((stream, Some(session))) => (stream, session),
        Ok((mut stream, None)) => {
            let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
            return;
        }
        Err(error) => {
            tracing::debug!(%error, "a connection ended before it was taken in");
            return;
        }
    };
    let end = Connection::new(stream, node, turn, stop, session).serve().await;
    match end {
        // Who was evicted was told of where that was decided.
        End::Closed | End::Evicted | End::ShardEnded => {}
        End::Io(error) => tracing::debug!(%error, "a connection failed"),
        End::NoRoom | End::Protocol | End::TooSlow => {
            tracing::info!(?end, "a connection was closed")
        }
    }
}

fn register(stream: &TcpStream, node: &Node) -> io::Result<Option<Session>> {
    stream.set_nodelay(true)?;
    keep_alive(stream)?;
    let (remote, local) = (stream.peer_addr()?, stream.local_addr()?);
    let registration = node.clients.register(remote, local, node.clients_max());
    Ok(registration.map(|registration| Session::new(registration, node)))
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE / KEEPALIVE_PROBES)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_asked_after_300_s_and_given_up_after_three_questions() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let _peer = TcpStream::connect(address).await.expect("it listens");
        let (taken, _) = listener.accept().await.expect("a peer");
        keep_alive(&taken).expect("Linux has all of it");
        assert!(sockopt::socket_keepalive(&taken).expect("it is set"));
        let idle = sockopt::tcp_keepidle(&taken).expect("it is set");
        let between = sockopt::tcp_keepintvl(&taken).expect("it is set");
        assert_eq!((idle.as_secs(), between.as_secs()), (300, 100));
        assert_eq!(sockopt::tcp_keepcnt(&taken).expect("it is set"), 3);
    }
}
