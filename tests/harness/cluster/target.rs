//! A client that looks for the node that serves it, and keeps apart what certainly was not done and
//! what may have been.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::Client;
use crate::reply::Reply;

/// A reply that takes longer is not waited for. Longer than a write may wait for its level.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// Errors after which nothing was done.
const REFUSALS: [&[u8]; 5] = [b"READONLY ", b"MOVED ", b"LOADING ", b"TRYAGAIN ", b"STALE "];

/// What became of one attempt.
#[derive(Clone, Debug)]
pub(super) enum Attempt {
    /// It was done.
    Done(Reply),
    /// It was not done, for this reason.
    Refused(String),
    /// Nobody was there to send it to.
    NotSent,
    /// It may have been done.
    Unknown(String),
}

/// Nodes, one of which is spoken to until it refuses.
#[derive(Debug)]
pub(super) struct Target {
    nodes: Vec<SocketAddr>,
    at: usize,
    /// Sent at the begin of a connection.
    greeting: Vec<&'static str>,
    client: Option<Client>,
}

impl Target {
    pub(super) fn new(nodes: Vec<SocketAddr>, greeting: Vec<&'static str>) -> Self {
        Self { nodes, at: 0, greeting, client: None }
    }

    /// Sends a command once. After a refusal or a failure the next attempt goes to the next node.
    pub(super) fn attempt(&mut self, args: &[&str]) -> Attempt {
        let Some(mut client) = self.client.take().or_else(|| self.connect()) else {
            self.at = (self.at + 1) % self.nodes.len();
            return Attempt::NotSent;
        };
        let attempt = match client.call(args) {
            Err(error) => Attempt::Unknown(format!("{error:#}")),
            Ok(reply) if !reply.is_error() => Attempt::Done(reply),
            Ok(reply) => {
                let is_refusal = REFUSALS.iter().any(|known| reply.text().starts_with(known));
                let text = String::from_utf8_lossy(reply.text()).into_owned();
                if is_refusal { Attempt::Refused(text) } else { Attempt::Unknown(text) }
            }
        };
        match attempt {
            Attempt::Done(_) => self.client = Some(client),
            _ => self.at = (self.at + 1) % self.nodes.len(),
        }
        attempt
    }

    fn connect(&self) -> Option<Client> {
        let mut client = Client::connect(self.nodes[self.at]).ok()?;
        client.stream().set_read_timeout(Some(REPLY_TIMEOUT)).ok()?;
        client.expect_ok(&self.greeting).ok()?;
        Some(client)
    }
}
