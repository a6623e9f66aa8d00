//! Who this node is: its certificate and key, and the authority it believes.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use larder_types::{ClusterId, NodeId};
use rustls::{
    CipherSuite,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{Error, Result, trust};

/// A certificate or key file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Permission bits that let others than the owner at a key.
const OTHERS: u32 = 0o077;

/// Everybody uses the one provider, with the cheapest cipher for this purpose first.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = ring::default_provider();
    let preferred = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != preferred);
    Arc::new(provider)
});

/// The one implementation of cryptography (`docs/adr/0005-ring.md`).
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// This node's certificate and key, and its cluster's authority. Holds the key; shows it nowhere.
pub struct Identity {
    cluster: ClusterId,
    node: NodeId,
    anchors: Vec<TrustAnchor<'static>>,
    certified: Arc<SingleCertAndKey>,
}

impl Identity {
    /// Reads the three PEM files. The certificate must be from an authority in `ca`, be valid
    /// now, name a node, and belong to the key, which its owner alone may read. `ca` may hold
    /// several authorities, so that one can follow another.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self> {
        Self::load_at(ca, certificate, key, SystemTime::now())
    }

    /// The same, where the certificate must be valid at `moment`.
    pub fn load_at(ca: &Path, certificate: &Path, key: &Path, moment: SystemTime) -> Result<Self> {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let moment = UnixTime::since_unix_epoch(since);
        let anchors =
            certificates(ca)?.iter().map(|der| anchor(ca, der)).collect::<Result<Vec<_>>>()?;
        let chain = certificates(certificate)?;
        let unusable = |path: &Path, why: String| Error::Unusable { path: path.into(), why };
        let private = PrivateKeyDer::from_pem_slice(&read_key(key)?)
            .map_err(|error| unusable(key, format!("not a private key in PEM: {error}")))?;
        let certified =
            CertifiedKey::from_der(chain.clone(), private, &PROVIDER).map_err(|error| {
                let belongs = format!("not the key of {}: {error}", certificate.display());
                unusable(key, belongs)
            })?;
        let named = trust::node_named_by(&anchors, &chain, moment);
        let (cluster, node) = named
            .map_err(|refusal| unusable(certificate, format!("as a node's own: {refusal}")))?;
        Ok(Self { cluster, node, anchors, certified: Arc::new(SingleCertAndKey::from(certified)) })
    }

    /// The cluster this node belongs to.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn certified(&self) -> Arc<SingleCertAndKey> {
        Arc::clone(&self.certified)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.node, self.cluster)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |why: String| Error::Unusable { path: path.into(), why };
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| unusable(format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(unusable("there is no certificate in it".into()));
    }
    Ok(found)
}

fn anchor(path: &Path, der: &CertificateDer<'_>) -> Result<TrustAnchor<'static>> {
    let anchor = webpki::anchor_from_trusted_cert(der);
    anchor.map(|anchor| anchor.to_owned()).map_err(|error| Error::Unusable {
        path: path.into(),
        why: format!("not an authority's certificate: {error}"),
    })
}

/// A small file as a whole.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = fs::File::open(path);
    let read = opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::file("read", path, source))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(Error::Unusable { path: path.into(), why });
    }
    Ok(bytes)
}

/// A key's file, unless others may read it.
pub(crate) fn read_key(path: &Path) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(|source| Error::file("read", path, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(Error::KeyExposed { path: path.into(), mode });
    }
    read(path)
}
