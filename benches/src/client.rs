//! A client of the Redis protocol that blocks.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use larder_resp::{ReplyDecoder, ReplyLimits, Value, encode_request};

/// Bytes that are read at a time.
const READ_BYTES: usize = 16 << 10;

/// A connection whose replies are read where its requests are written.
pub struct Client {
    requests: Requests,
    replies: Replies,
}

/// The writing half.
pub struct Requests {
    stream: TcpStream,
    buffer: BytesMut,
}

/// The reading half. Replies come in the order of the requests.
pub struct Replies {
    stream: TcpStream,
    decoder: ReplyDecoder,
    buffer: BytesMut,
    chunk: Box<[u8]>,
}

impl Client {
    /// Connects. A reply that does not come within `timeout` is an error.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: impl ToSocketAddrs, timeout: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let replies = Replies {
            stream: stream.try_clone()?,
            decoder: ReplyDecoder::new(ReplyLimits::DEFAULT),
            buffer: BytesMut::new(),
            chunk: vec![0; READ_BYTES].into(),
        };
        Ok(Self { requests: Requests { stream, buffer: BytesMut::new() }, replies })
    }

    /// Asks, and waits for the reply, which may be an error of the server.
    ///
    /// # Errors
    /// The connection is lost, or what comes is no reply.
    pub fn call(&mut self, args: &[&[u8]]) -> anyhow::Result<Value> {
        self.requests.send(args)?;
        self.replies.read()
    }

    /// Both halves, for two threads.
    pub fn split(self) -> (Requests, Replies) {
        (self.requests, self.replies)
    }
}

impl Requests {
    /// Sends a request.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn send(&mut self, args: &[&[u8]]) -> anyhow::Result<()> {
        self.buffer.clear();
        encode_request(&mut self.buffer, args);
        self.stream.write_all(&self.buffer).context("send a request")
    }
}

impl Replies {
    /// Waits for the next reply.
    ///
    /// # Errors
    /// The connection is lost, or what comes is no reply.
    pub fn read(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(value) = self.decoder.decode(&mut self.buffer)? {
                return Ok(value);
            }
            let count = self.stream.read(&mut self.chunk).context("read a reply")?;
            if count == 0 {
                bail!("the server closed the connection");
            }
            self.buffer.extend_from_slice(&self.chunk[..count]);
        }
    }
}
