//! One UDP port, and the connections that are made and taken over it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use larder_types::NodeId;
use quinn::{EndpointConfig, Incoming, Runtime as _, TokioRuntime, TransportConfig};
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    time::timeout,
};

use crate::{
    Connection, Error, Features, Hello, Identity, Result, Shaper, Versions,
    connection::{CODE_DONE, Side},
    error::words,
    registry::Registry,
    shaping::ShapedSocket,
    transport,
    trust::{Trust, Verifier},
};

/// From the first packet to a connection that can be used.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Handshakes with callers at a time. What comes beyond is refused.
const HANDSHAKES_MAX: usize = 32;
/// With so many under way, callers must first show that they receive what is sent to their
/// address.
const HANDSHAKES_BEFORE_RETRY: usize = 8;
/// Connections, and failed handshakes, that wait for [`Endpoint::accept`].
const ACCEPTED_MAX: usize = 32;
/// Closing tells the other nodes; how long that may take.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);
/// What the socket holds between the operating system and this process, if the system allows.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// The name in a TLS handshake, which nodes do not look at.
const SERVER_NAME: &str = "node.larder";
/// The first bits of a TLS alert's code in QUIC.
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// What TLS puts before the words of a refusal.
const TLS_PREFIX: &str = "unexpected error: ";

/// What an endpoint may be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes that are spoken with; [`Endpoint::set_allowed`] changes them.
    pub allowed: BTreeSet<NodeId>,
    /// What this node offers beyond the version.
    pub features: Features,
    /// The protocol versions it speaks.
    pub versions: Versions,
    /// The largest UDP payload that is tried, if the line takes it.
    pub datagram_bytes_max: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allowed: BTreeSet::new(),
            features: Features::default(),
            versions: Versions::SPOKEN,
            datagram_bytes_max: 1452,
        }
    }
}

/// A node's UDP port. Cheap to clone. Dropped, or closed, its connections close.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    quic: quinn::Endpoint,
    trust: Trust,
    hello: Hello,
    transport: Arc<TransportConfig>,
    registry: Registry,
    is_closed: AtomicBool,
    accepted: Mutex<mpsc::Receiver<Result<Connection>>>,
}

impl Endpoint {
    /// Listens on a UDP address; port 0 lets the system choose.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        identity: Arc<Identity>,
        shaper: &Shaper,
        options: Options,
    ) -> Result<Self> {
        let bind = |source| Error::Bind { address, source };
        let socket = std::net::UdpSocket::bind(address).map_err(bind)?;
        widen_buffers(&socket);
        let runtime = Arc::new(TokioRuntime);
        let socket = runtime.wrap_udp_socket(socket).map_err(bind)?;
        let socket = Arc::new(ShapedSocket::new(socket, shaper.clone()));

        let transport = transport::transport(options.datagram_bytes_max);
        let hello = Hello {
            versions: options.versions,
            features: options.features,
            cluster: identity.cluster().clone(),
        };
        let trust = Trust::new(identity, options.allowed);
        let base = transport::server(&Arc::new(trust.verifier(None)), None, &transport)
            .map_err(|error| bind(std::io::Error::other(error)))?;
        let config = EndpointConfig::default();
        let quic =
            quinn::Endpoint::new_with_abstract_socket(config, Some(base.clone()), socket, runtime);
        let quic = quic.map_err(bind)?;
        let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
        let shared = Arc::new(Shared {
            quic: quic.clone(),
            trust,
            hello,
            transport,
            registry: Registry::default(),
            is_closed: AtomicBool::new(false),
            accepted: Mutex::new(accepted),
        });
        tokio::spawn(take_calls(quic, base, Arc::downgrade(&shared), sender));
        Ok(Self(shared))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let address = self.0.quic.local_addr();
        address.map_err(|source| Error::EndpointLost { why: source.to_string() })
    }

    /// Calls a node. Whoever answers must prove to be `node`, which must be allowed.
    pub async fn connect(&self, address: SocketAddr, node: &NodeId) -> Result<Connection> {
        let verifier = Arc::new(self.0.trust.verifier(Some(node.clone())));
        let handshake = |why: String| Error::Handshake { address, why };
        let config = transport::client(&verifier, &self.0.transport)
            .map_err(|error| handshake(error.to_string()))?;
        let connecting = self.0.quic.connect_with(config, address, SERVER_NAME);
        let connecting = connecting.map_err(|error| match error {
            quinn::ConnectError::EndpointStopping => self.0.over(),
            other => handshake(other.to_string()),
        })?;
        self.0.shake_hands(connecting, &verifier, Side::Caller).await
    }

    /// The next connection that another node made, or why one was not taken. `None` once the
    /// endpoint is closed. May be dropped at any time without loss.
    pub async fn accept(&self) -> Option<Result<Connection>> {
        let next = self.0.accepted.lock().await.recv().await;
        if next.is_none() && !self.0.is_closed.swap(true, Ordering::AcqRel) {
            let why = "the task that reads its socket has ended".into();
            return Some(Err(Error::EndpointLost { why }));
        }
        next
    }

    /// Changes which nodes are spoken with. Connections with all others are closed.
    pub fn set_allowed(&self, allowed: BTreeSet<NodeId>) {
        self.0.trust.set_allowed(allowed);
        self.0.registry.retain(|node| self.0.trust.allows(node));
    }

    /// Takes a new certificate, key and authorities for the connections made from now on. It must
    /// be of the same node and cluster.
    pub fn set_identity(&self, identity: Arc<Identity>) -> Result<()> {
        let old = self.0.trust.identity();
        if (old.cluster(), old.node()) != (identity.cluster(), identity.node()) {
            return Err(Error::OtherNode {
                old: old.node().clone(),
                new: identity.node().clone(),
                new_cluster: identity.cluster().clone(),
            });
        }
        self.0.trust.set_identity(identity);
        Ok(())
    }

    /// Closes every connection, tells the other nodes, and takes no more.
    pub async fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.quic.close(CODE_DONE.into(), b"the node stops");
        if timeout(CLOSING_TIME_MAX, self.0.quic.wait_idle()).await.is_err() {
            tracing::debug!("not every node has heard that this one stops");
        }
    }
}

impl Shared {
    async fn shake_hands(
        &self,
        connecting: quinn::Connecting,
        verifier: &Verifier,
        side: Side,
    ) -> Result<Connection> {
        let address = connecting.remote_address();
        let made = timeout(HANDSHAKE_TIME_MAX, async {
            let quic = connecting.await.map_err(|error| explain(address, &error, verifier))?;
            let Some(Ok(peer)) = verifier.outcome() else {
                return Err(Error::Handshake { address, why: "nobody was judged".into() });
            };
            let begun = Connection::begin(quic.clone(), peer.clone(), &self.hello, side).await;
            begun.map_err(|error| match quic.close_reason() {
                Some(reason) if is_unexplained(&error) => explain(address, &reason, verifier),
                _ => error,
            })
        });
        let connection = made.await.unwrap_or(Err(Error::Silent { address }))?;
        self.register(&connection)?;
        Ok(connection)
    }

    /// Counts a connection, unless its node has lost its leave meanwhile or has too many.
    fn register(&self, connection: &Connection) -> Result<()> {
        let node = connection.peer();
        let open = connection.open_part();
        self.registry
            .add(node, Arc::downgrade(open))
            .inspect_err(|error| connection.refuse(error))?;
        if !self.trust.allows(node) {
            open.cut();
            let refusal = crate::Refusal::NotAllowed { node: node.clone() };
            return Err(Error::Peer { address: connection.remote_address(), refusal });
        }
        Ok(())
    }

    fn over(&self) -> Error {
        if self.is_closed.load(Ordering::Acquire) {
            return Error::ClosedHere;
        }
        Error::EndpointLost { why: "the task that reads its socket has ended".into() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.quic.close(CODE_DONE.into(), b"the node stops");
    }
}

/// Takes callers in until the endpoint is closed or dropped.
async fn take_calls(
    quic: quinn::Endpoint,
    base: quinn::ServerConfig,
    shared: std::sync::Weak<Shared>,
    accepted: mpsc::Sender<Result<Connection>>,
) {
    let hands = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = quic.accept().await {
        let Some(shared) = shared.upgrade() else { return };
        let Ok(hand) = Arc::clone(&hands).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let under_way = HANDSHAKES_MAX - hands.available_permits();
        if under_way > HANDSHAKES_BEFORE_RETRY && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            continue;
        }
        let (base, accepted) = (base.clone(), accepted.clone());
        tokio::spawn(async move {
            let taken = take_call(incoming, &base, &shared).await;
            // Nothing holds the endpoint open while a connection waits to be accepted.
            drop((hand, shared));
            // Whoever does not accept connections is not told of those that failed.
            let told = match taken {
                Ok(connection) => accepted.send(Ok(connection)).await.is_ok(),
                Err(error) => accepted.try_send(Err(error)).is_ok(),
            };
            if !told {
                tracing::debug!("a handshake ended and nobody asked how");
            }
        });
    }
}

async fn take_call(
    incoming: Incoming,
    base: &quinn::ServerConfig,
    shared: &Shared,
) -> Result<Connection> {
    let address = incoming.remote_address();
    let verifier = Arc::new(shared.trust.verifier(None));
    let config = transport::server(&verifier, Some(base), &shared.transport)
        .map_err(|error| Error::Handshake { address, why: error.to_string() })?;
    let connecting = incoming
        .accept_with(Arc::new(config))
        .map_err(|error| explain(address, &error, &verifier))?;
    shared.shake_hands(connecting, &verifier, Side::Called).await
}

/// What a failed handshake means.
fn explain(address: SocketAddr, error: &quinn::ConnectionError, verifier: &Verifier) -> Error {
    if let Some(Err(refusal)) = verifier.outcome() {
        return Error::Peer { address, refusal: refusal.clone() };
    }
    match error {
        quinn::ConnectionError::ConnectionClosed(close)
            if TLS_ALERTS.contains(&u64::from(close.error_code)) =>
        {
            let why = words(&close.reason);
            let why = why.strip_prefix(TLS_PREFIX).unwrap_or(&why).into();
            Error::RefusedByPeer { address, why }
        }
        quinn::ConnectionError::ApplicationClosed(close) => {
            Error::RefusedByPeer { address, why: words(&close.reason) }
        }
        quinn::ConnectionError::TimedOut => Error::Silent { address },
        quinn::ConnectionError::LocallyClosed => Error::ClosedHere,
        other => Error::Handshake { address, why: words(other.to_string().as_bytes()) },
    }
}

/// Whether an error says no more than that the connection ended.
fn is_unexplained(error: &Error) -> bool {
    matches!(error, Error::Broken { .. } | Error::Closed { .. })
}

/// Asks for room for bursts; the system may give less.
fn widen_buffers(socket: &std::net::UdpSocket) {
    let widened = quinn::udp::UdpSocketState::new(socket.into()).and_then(|state| {
        state.set_recv_buffer_size(socket.into(), SOCKET_BUFFER_BYTES)?;
        state.set_send_buffer_size(socket.into(), SOCKET_BUFFER_BYTES)
    });
    if let Err(error) = widened {
        tracing::debug!(%error, "the socket keeps its buffers");
    }
}
