//! What can go wrong between nodes, by what a caller does about it.

use std::{io, net::SocketAddr, path::PathBuf};

use larder_types::{ClusterId, NodeId};

use crate::{StreamKind, Versions, trust::Refusal};

/// What this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of certificates, of an endpoint or of a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is there already, and is kept as it is.
    #[error("{} is there already; move it away first if it is to be made anew", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may read a private key.
    #[error(
        "{} can be read by others (mode {mode:03o}); make it readable by its owner alone: chmod 600",
        path.display()
    )]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A certificate or key file does not hold what it should.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {why}")]
    Issue {
        /// Why.
        why: String,
    },
    /// An endpoint stays the node that it is.
    #[error("{new} of {new_cluster} cannot follow {old}")]
    OtherNode {
        /// The node that it is.
        old: NodeId,
        /// The node that the new certificate names.
        new: NodeId,
        /// Its cluster.
        new_cluster: ClusterId,
    },
    /// The UDP port cannot be had.
    #[error("cannot listen for nodes on udp {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The other side is not who it should be.
    #[error("refused the node at {address}: {refusal}")]
    Peer {
        /// Where it speaks from.
        address: SocketAddr,
        /// Why it is refused.
        refusal: Refusal,
    },
    /// The other side refuses this node.
    #[error("the node at {address} refuses this one: {why}")]
    RefusedByPeer {
        /// Where it is.
        address: SocketAddr,
        /// Its own words.
        why: String,
    },
    /// The two sides share no version of the protocol.
    #[error("the node at {address} speaks protocol versions {theirs}, this one {ours}")]
    Version {
        /// Where it is.
        address: SocketAddr,
        /// What this node speaks.
        ours: Versions,
        /// What the other speaks.
        theirs: Versions,
    },
    /// The other side says it belongs to another cluster.
    #[error("the node at {address} is of cluster {theirs}, this one of {ours}")]
    Cluster {
        /// Where it is.
        address: SocketAddr,
        /// This node's cluster.
        ours: ClusterId,
        /// The other's.
        theirs: ClusterId,
    },
    /// A node has as many connections as it may have.
    #[error("{node} already has {connections} connections here")]
    TooManyConnections {
        /// The node.
        node: NodeId,
        /// How many it has.
        connections: usize,
    },
    /// No secure connection came about.
    #[error("no connection with {address}: {why}")]
    Handshake {
        /// The other side.
        address: SocketAddr,
        /// What failed.
        why: String,
    },
    /// No answer within the time that is allowed.
    #[error("{address} does not answer")]
    Silent {
        /// The other side.
        address: SocketAddr,
    },
    /// The other side closed the connection.
    #[error("closed by the other node with code {code}: {why}")]
    Closed {
        /// Its code.
        code: u64,
        /// Its own words.
        why: String,
    },
    /// The connection was lost, or the other side stopped reading or gave up a stream.
    #[error("the connection broke: {why}")]
    Broken {
        /// How.
        why: String,
    },
    /// This side closed the connection or the endpoint.
    #[error("closed by this node")]
    ClosedHere,
    /// The endpoint's own task has ended; make a new endpoint.
    #[error("the endpoint is lost: {why}")]
    EndpointLost {
        /// What is known of it.
        why: String,
    },
    /// A frame is larger than its stream allows. Nothing of it was taken into memory.
    #[error("a frame of {bytes} bytes on a {kind} stream is larger than the limit of {bytes_max}")]
    FrameTooLarge {
        /// The stream's kind.
        kind: StreamKind,
        /// What the frame holds, or says it holds.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The other side does not keep to the protocol.
    #[error("the other node breaks the protocol: {what}")]
    Protocol {
        /// What it did.
        what: String,
    },
    /// The system gives no thread for shaped lines.
    #[error("cannot start a thread for shaped lines")]
    NoThread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A shape that no line can have.
    #[error("no such line: {what}")]
    Shape {
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Peer { .. }
            | Self::RefusedByPeer { .. }
            | Self::TooManyConnections { .. }
            | Self::Handshake { .. }
            | Self::Silent { .. }
            | Self::Closed { .. }
            | Self::Broken { .. } => true,
            Self::File { .. }
            | Self::Exists { .. }
            | Self::KeyExposed { .. }
            | Self::Unusable { .. }
            | Self::Issue { .. }
            | Self::OtherNode { .. }
            | Self::Bind { .. }
            | Self::Version { .. }
            | Self::Cluster { .. }
            | Self::ClosedHere
            | Self::EndpointLost { .. }
            | Self::FrameTooLarge { .. }
            | Self::Protocol { .. }
            | Self::NoThread { .. }
            | Self::Shape { .. } => false,
        }
    }

    pub(crate) fn file(operation: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::File { operation, path: path.into(), source }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }
}

/// Characters of another node's words that are shown.
const WORDS_MAX: usize = 300;

/// Another node's words, fit for a log.
pub(crate) fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl From<quinn::ConnectionError> for Error {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Self::Closed { code: close.error_code.into_inner(), why: words(&close.reason) }
            }
            quinn::ConnectionError::LocallyClosed => Self::ClosedHere,
            other => Self::Broken { why: words(other.to_string().as_bytes()) },
        }
    }
}

impl From<quinn::WriteError> for Error {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(lost) => lost.into(),
            other => Self::Broken { why: other.to_string() },
        }
    }
}

impl From<quinn::ReadError> for Error {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::ConnectionLost(lost) => lost.into(),
            other => Self::Broken { why: other.to_string() },
        }
    }
}
