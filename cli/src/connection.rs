//! One connection to a server: connect, authenticate, ask and wait, each within the time allowed.

use std::time::Duration;

use bytes::BytesMut;
use larder_resp::{ReplyDecoder, ReplyLimits, Value, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::args::{ServerAddress, Target};
use crate::failure::Failure;

/// Bounds on a reply: a value of 512 MiB, the largest that Redis stores, and its framing.
pub(crate) const REPLY_LIMITS: ReplyLimits =
    ReplyLimits { bytes_max: (512 << 20) + 1024, ..ReplyLimits::DEFAULT };

/// What one read may bring, bytes.
const READ_BYTES: usize = 64 << 10;

/// A connection that has authenticated. After a failure it is of no use.
pub(crate) struct Connection {
    stream: TcpStream,
    incoming: BytesMut,
    outgoing: BytesMut,
    decoder: ReplyDecoder,
    timeout: Duration,
    server: String,
}

impl Connection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// No connection within the time allowed, or credentials which the server does not take.
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let mut connection = Self::to(&target.server, target.timeout()).await?;
        connection.authenticate(target).await?;
        Ok(connection)
    }

    /// Connects to a server that wants no credentials.
    ///
    /// # Errors
    /// No connection within the time allowed.
    pub(crate) async fn to(address: &ServerAddress, timeout: Duration) -> Result<Self, Failure> {
        let server = address.to_string();
        let failed = |reason: String| Failure::Connect { server: server.clone(), reason };
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let stream = tokio::time::timeout(timeout, connecting)
            .await
            .map_err(|_| failed(format!("no answer within {} ms", timeout.as_millis())))?
            .map_err(|error| failed(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            decoder: ReplyDecoder::new(REPLY_LIMITS),
            timeout,
            server,
        })
    }

    async fn authenticate(&mut self, target: &Target) -> Result<(), Failure> {
        let mut request: Vec<&[u8]> = vec![b"AUTH"];
        match (&target.user, target.password()) {
            (Some(user), Some(password)) => request.extend([user.as_bytes(), password]),
            (None, Some(password)) => request.push(password),
            (Some(_), None) => {
                return Err(Failure::Usage(
                    "--user needs a password: set LARDER_PASSWORD".to_owned(),
                ));
            }
            (None, None) => return Ok(()),
        }
        match self.call(&request).await {
            Err(Failure::Refused(message)) => Err(Failure::Denied(message)),
            other => other.map(|_| ()),
        }
    }

    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    /// An error reply, and what [`Self::call_all`] lists.
    pub(crate) async fn call<A: AsRef<[u8]>>(&mut self, request: &[A]) -> Result<Value, Failure> {
        let mut replies = self.call_all(&[request]).await?;
        match replies.pop().unwrap_or(Value::Null) {
            Value::Error(message) => Err(Failure::from_reply(&message)),
            value => Ok(value),
        }
    }

    /// Sends requests in one pipeline and waits for all replies, error replies among them. The
    /// requests are sent before the first reply is read: callers keep pipelines short.
    ///
    /// # Errors
    /// The connection fails, the replies are no RESP, or the time allowed is over.
    pub(crate) async fn call_all<R, A>(&mut self, requests: &[R]) -> Result<Vec<Value>, Failure>
    where
        R: AsRef<[A]>,
        A: AsRef<[u8]>,
    {
        let deadline = Instant::now() + self.timeout;
        self.outgoing.clear();
        for request in requests {
            encode_request(&mut self.outgoing, request.as_ref().iter());
        }
        let mut replies = Vec::with_capacity(requests.len());
        let exchange = async {
            self.stream.write_all(&self.outgoing).await.map_err(|error| error.to_string())?;
            while replies.len() < requests.len() {
                match self.decoder.decode(&mut self.incoming).map_err(|error| error.to_string())? {
                    Some(Value::Push(_)) => {}
                    Some(reply) => replies.push(reply),
                    None => {
                        self.incoming.reserve(READ_BYTES);
                        let read = self.stream.read_buf(&mut self.incoming).await;
                        if read.map_err(|error| error.to_string())? == 0 {
                            return Err("the server closed it".to_owned());
                        }
                    }
                }
            }
            Ok(())
        };
        let outcome = timeout_at(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", self.timeout.as_millis())));
        match outcome {
            Ok(()) => Ok(replies),
            Err(reason) => Err(Failure::Lost { server: self.server.clone(), reason }),
        }
    }

    /// The stream, for a caller with a pace of its own. No reply is outstanding.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
