//! The cluster's certificate authority: a key and a certificate in a directory, and certificates
//! of nodes signed with it. Who has `ca.key` decides who is a node; it belongs on no node.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use larder_types::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use webpki::EndEntityCert;

use crate::{
    Error, Result,
    identity::{read, read_key},
    trust::Name,
};

/// The authority's certificate, which every node needs.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// The authority's key.
pub const KEY_FILE: &str = "ca.key";
/// The last second that a certificate can name: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment. A little in the past, so that clocks that are behind accept it.
    pub from: SystemTime,
    /// How long from then on.
    pub lasting: Duration,
}

/// Files that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// A certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Makes a cluster's authority in `dir`, which is made too if it is not there. Files are for
/// their owner alone; one that is there already is kept, and nothing is written.
pub fn init(dir: &Path, cluster: &ClusterId, validity: Validity) -> Result<Files> {
    let files = Files { certificate: dir.join(CERTIFICATE_FILE), key: dir.join(KEY_FILE) };
    let key = KeyPair::generate().map_err(issue)?;
    let mut params = authority(cluster);
    validity.put_into(&mut params)?;
    params.subject_alt_names = vec![Name::Cluster(cluster.clone()).san()?];
    let certificate = params.self_signed(&key).map_err(issue)?;
    write_pair(&files, &certificate.pem(), &key.serialize_pem())?;
    Ok(files)
}

/// Signs a certificate for a node with the authority in `dir`: `NODE.pem` and `NODE.key` in
/// `out_dir`, which is made if it is not there. Nothing that is there already is overwritten.
pub fn issue_node(dir: &Path, node: &NodeId, out_dir: &Path, validity: Validity) -> Result<Files> {
    let (cluster, ca_key) = load(dir)?;
    let issuer = Issuer::new(authority(&cluster), ca_key);
    let files = Files {
        certificate: out_dir.join(format!("{node}.pem")),
        key: out_dir.join(format!("{node}.key")),
    };
    let key = KeyPair::generate().map_err(issue)?;
    let mut params = CertificateParams::default();
    validity.put_into(&mut params)?;
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    params.subject_alt_names = vec![Name::Node(cluster, node.clone()).san()?];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(issue)?;
    write_pair(&files, &certificate.pem(), &key.serialize_pem())?;
    Ok(files)
}

/// The cluster and the key of the authority in `dir`.
fn load(dir: &Path) -> Result<(ClusterId, KeyPair)> {
    let (path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
    let unusable = |why: &str| Error::Unusable { path: path.clone(), why: why.into() };
    let certificate = CertificateDer::from_pem_slice(&read(&path)?)
        .map_err(|error| unusable(&format!("not a certificate in PEM: {error}")))?;
    let parsed = EndEntityCert::try_from(&certificate)
        .map_err(|error| unusable(&format!("not a certificate: {error}")))?;
    let Some(Name::Cluster(cluster)) = Name::of(&parsed) else {
        return Err(unusable("it is not the certificate of a cluster's authority"));
    };
    let pem = String::from_utf8_lossy(&read_key(&key_path)?).into_owned();
    let key = KeyPair::from_pem(&pem)
        .map_err(|error| Error::Unusable { path: key_path.clone(), why: error.to_string() })?;
    if *key.subject_public_key_info() != *parsed.subject_public_key_info() {
        let why = format!("it is not the key of {}", path.display());
        return Err(Error::Unusable { path: key_path, why });
    }
    Ok((cluster, key))
}

/// What an issuer is known by: the same whenever the authority is loaded again.
fn authority(cluster: &ClusterId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("authority of cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Name {
    fn san(&self) -> Result<SanType> {
        Ia5String::try_from(self.to_string()).map(SanType::URI).map_err(issue)
    }
}

impl Validity {
    fn put_into(self, params: &mut CertificateParams) -> Result<()> {
        let since = self.from.duration_since(SystemTime::UNIX_EPOCH).ok();
        let until = since.and_then(|since| since.checked_add(self.lasting));
        let (Some(since), Some(until)) = (since, until) else { return Err(self.impossible()) };
        if until.as_secs() > LAST_SECOND || self.lasting.is_zero() {
            return Err(self.impossible());
        }
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        (params.not_before, params.not_after) = (epoch + since, epoch + until);
        Ok(())
    }

    fn impossible(self) -> Error {
        let why = "it would begin before 1970, end after 9999, or be valid for no time";
        Error::Issue { why: why.into() }
    }
}

fn issue(error: rcgen::Error) -> Error {
    Error::Issue { why: error.to_string() }
}

/// Writes both or neither.
fn write_pair(files: &Files, certificate: &str, key: &str) -> Result<()> {
    for path in [&files.certificate, &files.key] {
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: path.clone() });
        }
        if let Some(dir) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|source| Error::file("make the directory", dir, source))?;
        }
    }
    write_new(&files.key, key)?;
    write_new(&files.certificate, certificate).inspect_err(|_| {
        if let Err(error) = fs::remove_file(&files.key) {
            tracing::warn!(path = %files.key.display(), %error, "a key without certificate stays");
        }
    })
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::file("write", path, source),
    })
}
