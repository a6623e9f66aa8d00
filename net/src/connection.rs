//! A connection with one node, whose name is proven.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use larder_types::NodeId;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    Error, Features, FrameReceiver, FrameSender, Hello, Result, StreamKind, hello::HELLO_BYTES_MAX,
};

/// The first byte of the stream on which the hello goes.
const HELLO_STREAM: u8 = 0;
/// Why this crate itself closes a connection. The caller's own codes begin at 64.
pub(crate) const CODE_DONE: u32 = 0;
const CODE_DISAGREED: u32 = 1;
const CODE_PROTOCOL: u32 = 2;
const CODE_TOO_MANY: u32 = 3;
const CODE_NOT_ALLOWED: u32 = 4;

/// A connection with one node. Cheap to clone; it closes when the last clone and the last of its
/// streams are dropped.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Open>);

/// What clones of a connection share.
#[derive(Debug)]
pub(crate) struct Open {
    quic: quinn::Connection,
    peer: NodeId,
    version: u16,
    features: Features,
    /// A stream whose first byte has not come yet. Kept here, so that [`Connection::accept`]
    /// loses none when it is dropped.
    accepting: Mutex<Option<(SendStream, RecvStream)>>,
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes in UDP datagrams sent, with everything but UDP's and IP's own headers.
    pub sent_bytes: u64,
    /// The same, received.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
    /// Packets taken for lost, and sent again.
    pub lost_packets: u64,
    /// Bytes that may be under way at once.
    pub window_bytes: u64,
}

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Caller,
    Called,
}

impl Connection {
    /// Says hello and hears the other's.
    pub(crate) async fn begin(
        quic: quinn::Connection,
        peer: NodeId,
        hello: &Hello,
        side: Side,
    ) -> Result<Self> {
        let address = quic.remote_address();
        let (sent, theirs) = match side {
            Side::Caller => {
                let (mut send, receive) = quic.open_bi().await?;
                send.write_all(&[HELLO_STREAM]).await?;
                say(&mut send, hello).await?;
                (send, hear(receive).await)
            }
            Side::Called => {
                let (mut send, mut receive) = quic.accept_bi().await?;
                if first_byte(&mut receive).await? != Some(HELLO_STREAM) {
                    quic.close(CODE_PROTOCOL.into(), b"no hello");
                    return Err(Error::protocol("the first stream is not a hello"));
                }
                let theirs = hear(receive).await;
                say(&mut send, hello).await?;
                (send, theirs)
            }
        };
        let agreed = theirs.and_then(|theirs| hello.agree(&theirs, address));
        match agreed {
            Ok((version, features)) => {
                let accepting = Mutex::new(None);
                Ok(Self(Arc::new(Open { quic, peer, version, features, accepting })))
            }
            Err(error) => {
                // The other side is to come to the same answer by this side's hello, so that is
                // let through before the connection is closed. One that is closed already keeps
                // its reason.
                if quic.close_reason().is_none() {
                    let taken = timeout(FAREWELL, sent.stopped()).await;
                    tracing::debug!(%address, %error, ?taken, "disagreed");
                }
                if quic.close_reason().is_none() {
                    quic.close(CODE_DISAGREED.into(), error.to_string().as_bytes());
                }
                Err(error)
            }
        }
    }

    pub(crate) fn open_part(&self) -> &Arc<Open> {
        &self.0
    }

    /// Closes what was made, because its node has too many.
    pub(crate) fn refuse(&self, error: &Error) {
        self.0.quic.close(CODE_TOO_MANY.into(), error.to_string().as_bytes());
    }

    /// The node on the other side.
    pub fn peer(&self) -> &NodeId {
        &self.0.peer
    }

    /// What both sides offer.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// The newest version that both sides speak.
    pub fn version(&self) -> u16 {
        self.0.version
    }

    /// Where the other side speaks from.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.quic.remote_address()
    }

    /// Opens a stream. The other side gets it from [`Connection::accept`]. Waits while as many
    /// streams are open as it allows.
    pub async fn open(&self, kind: StreamKind) -> Result<(FrameSender, FrameReceiver)> {
        let (mut send, receive) = self.0.quic.open_bi().await?;
        prioritize(&send, kind);
        send.write_all(&[kind.number()]).await?;
        Ok((FrameSender::new(kind, send), FrameReceiver::new(kind, receive)))
    }

    /// The next stream that the other side opened. May be dropped at any time without loss.
    pub async fn accept(&self) -> Result<(StreamKind, FrameSender, FrameReceiver)> {
        let mut accepting = self.0.accepting.lock().await;
        loop {
            if accepting.is_none() {
                *accepting = Some(self.0.quic.accept_bi().await?);
            }
            let Some((_, receive)) = accepting.as_mut() else { continue };
            let first = first_byte(receive).await;
            let Some((send, receive)) = accepting.take() else { continue };
            match first {
                Ok(Some(number)) => {
                    let Some(kind) = StreamKind::of_number(number) else {
                        let error = Error::protocol(format!("a stream of unknown kind {number}"));
                        self.0.quic.close(CODE_PROTOCOL.into(), error.to_string().as_bytes());
                        return Err(error);
                    };
                    prioritize(&send, kind);
                    let receiver = FrameReceiver::new(kind, receive);
                    return Ok((kind, FrameSender::new(kind, send), receiver));
                }
                // The stream was given up before it said what it is for.
                Ok(None) | Err(Error::Broken { .. }) if self.0.is_alive() => {}
                Ok(None) => return Err(self.closed().await),
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes the connection; both sides' streams end at once, whatever was under way. Codes from
    /// 64 on are the caller's; `why` is for people.
    pub fn close(&self, code: u32, why: &str) {
        self.0.quic.close(code.into(), why.as_bytes());
    }

    /// Waits until the connection is closed, and says why.
    pub async fn closed(&self) -> Error {
        self.0.quic.closed().await.into()
    }

    /// Whether nobody has closed it and it has not been lost, as far as this side knows.
    pub fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    /// The best estimate of a round trip, without the time that answers are held back.
    pub fn rtt(&self) -> Duration {
        self.0.quic.rtt()
    }

    /// What it has carried.
    pub fn stats(&self) -> Stats {
        let stats = self.0.quic.stats();
        Stats {
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            sent_datagrams: stats.udp_tx.datagrams,
            received_datagrams: stats.udp_rx.datagrams,
            lost_packets: stats.path.lost_packets,
            window_bytes: stats.path.cwnd,
        }
    }
}

impl Open {
    pub(crate) fn is_alive(&self) -> bool {
        self.quic.close_reason().is_none()
    }

    /// Closes it because its node is no longer allowed.
    pub(crate) fn cut(&self) {
        self.quic.close(VarInt::from_u32(CODE_NOT_ALLOWED), b"not a node of this cluster now");
    }
}

/// How long a hello may take to arrive after the two sides have disagreed.
const FAREWELL: Duration = Duration::from_secs(1);

fn prioritize(stream: &SendStream, kind: StreamKind) {
    if let Err(error) = stream.set_priority(kind.priority()) {
        tracing::debug!(%error, "a stream ended before it was used");
    }
}

/// `None` if the stream ends before. Loses nothing when it is dropped.
async fn first_byte(stream: &mut RecvStream) -> Result<Option<u8>> {
    let piece = stream.read_chunk(1, true).await?;
    Ok(piece.and_then(|piece| piece.bytes.first().copied()))
}

async fn say(stream: &mut SendStream, hello: &Hello) -> Result<()> {
    stream.write_all(&hello.encode()).await?;
    // It fails only when the stream has ended already.
    drop(stream.finish());
    Ok(())
}

async fn hear(mut stream: RecvStream) -> Result<Hello> {
    let read = stream.read_to_end(HELLO_BYTES_MAX).await;
    let bytes = read.map_err(|error| match error {
        quinn::ReadToEndError::Read(error) => error.into(),
        quinn::ReadToEndError::TooLong => Error::protocol("a hello that is too long"),
    })?;
    Hello::decode(&bytes)
}
