//! A blocking client over one socket. It hands out each reply with the very bytes it came in.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::reply::Reply;

/// A reply that takes longer than this is reported as missing.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// What one read asks of the socket.
const READ_BYTES: usize = 16 << 10;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of `received` has been handed out.
    taken: usize,
    /// Where a read puts its bytes first.
    piece: Box<[u8]>,
}

/// A reply and the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawReply {
    /// As it stood on the wire.
    pub bytes: Vec<u8>,
    /// The same, parsed.
    pub reply: Reply,
}

impl Client {
    /// Connects, with Nagle's algorithm off and [`REPLY_TIMEOUT`] on reads and writes.
    ///
    /// # Errors
    /// When the connection is refused or does not come about in time.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, REPLY_TIMEOUT)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        let piece = vec![0; READ_BYTES].into_boxed_slice();
        Ok(Self { stream, received: Vec::new(), taken: 0, piece })
    }

    /// The socket, for what only a hostile client does.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the socket refuses them.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// Sends one command as an array of bulks, and returns its reply.
    ///
    /// # Errors
    /// When the connection fails. A reply that is an error is not one.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply> {
        self.send_raw(&encoded(args))?;
        Ok(self.reply()?.reply)
    }

    /// As [`Client::call`], for a command whose failure would spoil the test.
    ///
    /// # Errors
    /// Also when the reply is an error.
    pub fn expect_ok<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply> {
        let reply = self.call(args)?;
        if reply.is_error() {
            let name = args
                .first()
                .map_or_else(String::new, |arg| String::from_utf8_lossy(arg.as_ref()).into_owned());
            bail!("{name} was answered with {}", reply.describe());
        }
        Ok(reply)
    }

    /// The next reply.
    ///
    /// # Errors
    /// When none comes within [`REPLY_TIMEOUT`], the connection ends, or it is not RESP.
    pub fn reply(&mut self) -> Result<RawReply> {
        loop {
            if let Some((reply, used)) = Reply::parse(&self.received[self.taken..])? {
                let bytes = self.received[self.taken..self.taken + used].to_vec();
                self.taken += used;
                if self.taken == self.received.len() {
                    self.received.clear();
                    self.taken = 0;
                }
                return Ok(RawReply { bytes, reply });
            }
            if self.fill()? == 0 {
                bail!("the connection was closed while a reply was awaited");
            }
        }
    }

    /// Reads until the server closes, and returns what came before that and was not yet taken.
    ///
    /// # Errors
    /// When the connection stays open for [`REPLY_TIMEOUT`].
    pub fn until_closed(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.fill() {
                Ok(0) => return Ok(self.received.split_off(self.taken)),
                Ok(_) => {}
                Err(error) => match error.downcast_ref::<std::io::Error>() {
                    Some(io) if io.kind() == ErrorKind::ConnectionReset => {
                        return Ok(self.received.split_off(self.taken));
                    }
                    _ => return Err(error.context("waiting for the connection to be closed")),
                },
            }
        }
    }

    /// Tells the server that nothing more will be sent.
    ///
    /// # Errors
    /// When the socket is no longer connected.
    pub fn finish_sending(&self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write).context("shutting down the sending side")
    }

    fn fill(&mut self) -> Result<usize> {
        loop {
            match self.stream.read(&mut self.piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading a reply"),
                Ok(read) => {
                    self.received.extend_from_slice(&self.piece[..read]);
                    return Ok(read);
                }
            }
        }
    }
}

/// A command as an array of bulks.
pub fn encoded<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_into(&mut out, args);
    out
}

/// Appends a command as an array of bulks.
pub fn encode_into<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}
