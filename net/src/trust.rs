//! Who is let in: a certificate from this cluster's authority that names a node of this cluster,
//! and a node that is allowed now. The chain alone lets nobody in.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use larder_types::{ClusterId, NodeId};
use parking_lot::RwLock;
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage};

use crate::{Identity, error::words, identity::provider};

/// Begins the URI by which a certificate names whom it is for.
const SCHEME: &str = "kv://";

/// Whom a certificate is for: `kv://CLUSTER` for an authority, `kv://CLUSTER/NODE` for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Cluster(ClusterId),
    Node(ClusterId, NodeId),
}

impl Name {
    /// What a certificate says; `None` unless it has exactly one name of ours.
    pub(crate) fn of(certificate: &EndEntityCert<'_>) -> Option<Self> {
        let mut names = certificate.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        let name = names.next()?.strip_prefix(SCHEME)?;
        if names.next().is_some() {
            return None;
        }
        match name.split_once('/') {
            None => ClusterId::new(name).map(Self::Cluster),
            Some((cluster, node)) => Some(Self::Node(ClusterId::new(cluster)?, NodeId::new(node)?)),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(cluster) => write!(f, "{SCHEME}{cluster}"),
            Self::Node(cluster, node) => write!(f, "{SCHEME}{cluster}/{node}"),
        }
    }
}

/// Why a node is not spoken with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Signed by somebody else.
    #[error("its certificate is not from this cluster's authority; it says {claimed}")]
    NotOurs {
        /// What the certificate says it is for, which nobody vouches for.
        claimed: String,
    },
    /// Past its time.
    #[error("its certificate has expired")]
    Expired,
    /// Before its time, or this node's clock is behind.
    #[error("its certificate is not valid yet")]
    NotValidYet,
    /// Signed by the authority, but not a node's.
    #[error("its certificate does not name a node (kv://CLUSTER/NODE)")]
    Nameless,
    /// Signed by the authority, for another cluster.
    #[error("its certificate is for cluster {cluster}")]
    OtherCluster {
        /// The cluster it names.
        cluster: ClusterId,
    },
    /// Not one of the nodes that are allowed now.
    #[error("{node} is not a node of this cluster now")]
    NotAllowed {
        /// The node it names.
        node: NodeId,
    },
    /// Another node answers at an address than the one that was called.
    #[error("it is {node}, not {expected}")]
    Unexpected {
        /// The node it names.
        node: NodeId,
        /// The node that was called.
        expected: NodeId,
    },
    /// Not usable for another reason.
    #[error("its certificate cannot be used: {why}")]
    Unusable {
        /// What is wrong with it.
        why: String,
    },
}

/// What decides who is let in. Each handshake takes the state of its beginning.
#[derive(Debug)]
pub(crate) struct Trust {
    identity: RwLock<Arc<Identity>>,
    allowed: RwLock<Arc<BTreeSet<NodeId>>>,
}

impl Trust {
    pub(crate) fn new(identity: Arc<Identity>, allowed: BTreeSet<NodeId>) -> Self {
        Self { identity: RwLock::new(identity), allowed: RwLock::new(Arc::new(allowed)) }
    }

    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read())
    }

    pub(crate) fn set_identity(&self, identity: Arc<Identity>) {
        *self.identity.write() = identity;
    }

    pub(crate) fn set_allowed(&self, allowed: BTreeSet<NodeId>) {
        *self.allowed.write() = Arc::new(allowed);
    }

    pub(crate) fn allows(&self, node: &NodeId) -> bool {
        self.allowed.read().contains(node)
    }

    /// For one handshake, with `expected` if this side calls.
    pub(crate) fn verifier(&self, expected: Option<NodeId>) -> Verifier {
        Verifier {
            identity: self.identity(),
            allowed: Arc::clone(&self.allowed.read()),
            expected,
            outcome: OnceLock::new(),
        }
    }
}

/// Judges the other side of one handshake, and remembers how, so that the caller is told more
/// than an alert.
#[derive(Debug)]
pub(crate) struct Verifier {
    identity: Arc<Identity>,
    allowed: Arc<BTreeSet<NodeId>>,
    expected: Option<NodeId>,
    outcome: OnceLock<Result<NodeId, Refusal>>,
}

impl Verifier {
    /// How it was judged; `None` if it showed no certificate.
    pub(crate) fn outcome(&self) -> Option<&Result<NodeId, Refusal>> {
        self.outcome.get()
    }

    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let judged = self.judge(certificate, intermediates, now, usage);
        match self.outcome.get_or_init(|| judged) {
            Ok(_) => Ok(()),
            // Of all its errors this one carries words to the other side as they are.
            Err(refusal) => Err(rustls::Error::General(refusal.to_string())),
        }
    }

    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<NodeId, Refusal> {
        let (cluster, node) =
            named_node(self.identity.anchors(), certificate, intermediates, now, usage)?;
        if cluster != *self.identity.cluster() {
            return Err(Refusal::OtherCluster { cluster });
        }
        if let Some(expected) = self.expected.clone().filter(|expected| *expected != node) {
            return Err(Refusal::Unexpected { node, expected });
        }
        if !self.allowed.contains(&node) {
            return Err(Refusal::NotAllowed { node });
        }
        Ok(node)
    }
}

/// The node that a certificate of this authority names.
fn named_node(
    anchors: &[TrustAnchor<'_>],
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(ClusterId, NodeId), Refusal> {
    let unusable = |error: webpki::Error| Refusal::Unusable { why: error.to_string() };
    let parsed = EndEntityCert::try_from(certificate).map_err(unusable)?;
    let algorithms = provider().signature_verification_algorithms.all;
    let verified =
        parsed.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None);
    verified.map(|_| ()).map_err(|error| match error {
        webpki::Error::CertExpired { .. } => Refusal::Expired,
        webpki::Error::CertNotValidYet { .. } => Refusal::NotValidYet,
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            let claimed = parsed.valid_uri_names().next().unwrap_or("nothing");
            Refusal::NotOurs { claimed: words(claimed.as_bytes()) }
        }
        other => unusable(other),
    })?;
    match Name::of(&parsed) {
        Some(Name::Node(cluster, node)) => Ok((cluster, node)),
        _ => Err(Refusal::Nameless),
    }
}

/// Checks a node's own certificate, the first of a chain, by the rules that others check it by.
pub(crate) fn node_named_by(
    anchors: &[TrustAnchor<'_>],
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(ClusterId, NodeId), Refusal> {
    let Some((first, rest)) = chain.split_first() else { return Err(Refusal::Nameless) };
    named_node(anchors, first, rest, now, KeyUsage::client_auth())?;
    named_node(anchors, first, rest, now, KeyUsage::server_auth())
}

/// What both kinds of verifiers answer about signatures: nodes speak TLS 1.3 only.
macro_rules! signatures_of_tls13 {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("nodes speak TLS 1.3 only".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            algorithms().supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_of_tls13!();
}

fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider().signature_verification_algorithms
}
