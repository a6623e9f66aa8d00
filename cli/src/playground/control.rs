//! Orders to the playground from another terminal: one line of JSON each way on a socket that only
//! this user can reach.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::layout::Region;
use crate::failure::Failure;

/// A line longer than this is no order and no answer.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How long an order may take to arrive once somebody has connected.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an order may take to be carried out: starting a node is the longest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What the playground is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Cut a link, both ways.
    Cut {
        /// Its ends.
        between: (Region, Region),
    },
    /// Make all links whole.
    Heal,
    /// Kill a node.
    Kill {
        /// Its region.
        region: Region,
    },
    /// Start a node.
    Start {
        /// Its region.
        region: Region,
    },
    /// End.
    Stop,
}

/// What the playground answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// Done; what was done.
    Done(String),
    /// It makes no sense now; why.
    Refused(String),
    /// It was tried and failed; how.
    Failed(String),
}

impl From<Result<String, Failure>> for Answer {
    fn from(outcome: Result<String, Failure>) -> Self {
        match outcome {
            Ok(text) => Self::Done(text),
            Err(Failure::Unmet(text)) => Self::Refused(text),
            Err(failure) => Self::Failed(failure.to_string()),
        }
    }
}

/// Asks the playground that listens at a socket.
///
/// # Errors
/// Nobody listens, or the playground ends meanwhile.
pub(crate) async fn ask(socket: &Path, request: Request) -> Result<Answer, Failure> {
    let server = socket.display().to_string();
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| Failure::Connect { server: server.clone(), reason: error.to_string() })?;
    let lost = |reason: String| Failure::Lost { server: server.clone(), reason };
    let exchange = async {
        let mut stream = BufReader::new(stream);
        write(&mut stream, &request).await?;
        read(&mut stream).await
    };
    timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| lost(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))?
        .map_err(|error| lost(error.to_string()))
}

/// Somebody who has sent an order and waits for the answer.
pub(crate) struct Asker(BufReader<UnixStream>);

impl Asker {
    /// Reads the order of somebody who has connected; `None` where none comes.
    pub(crate) async fn read(stream: UnixStream) -> Option<(Self, Request)> {
        let mut stream = BufReader::new(stream);
        let request = timeout(ORDER_TIMEOUT, read(&mut stream)).await.ok()?.ok()?;
        Some((Self(stream), request))
    }

    /// Answers. Who has gone away meanwhile misses it.
    pub(crate) async fn answer(mut self, answer: &Answer) {
        let _ = timeout(ORDER_TIMEOUT, write(&mut self.0, answer)).await;
    }
}

async fn write(stream: &mut BufReader<UnixStream>, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

async fn read<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> io::Result<T> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}
