//! The authority and the files it makes, and what a node refuses to take for its identity.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use larder_net::{
    Error, Identity,
    ca::{self, Validity},
};
use support::{Authority, HOUR, cluster, node, valid};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_authority_issues_a_certificate_that_names_cluster_and_node() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, out) = (dir.path().join("ca"), dir.path().join("nodes/a"));
    let made = ca::init(&ca, &cluster("east"), valid()).unwrap();
    let files = ca::issue_node(&ca, &node("a"), &out, valid()).unwrap();
    let identity = Identity::load(&made.certificate, &files.certificate, &files.key).unwrap();
    assert_eq!((identity.cluster(), identity.node()), (&cluster("east"), &node("a")));
    for file in [&made.certificate, &made.key, &files.certificate, &files.key] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    assert_eq!((mode(&ca), mode(&out)), (0o700, 0o700));
    let shown = format!("{identity:?}");
    assert_eq!(shown, "Identity(a of east)", "a key is shown nowhere");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let authority = Authority::of("east");
    let before = fs::read(authority.path().join("ca.key")).unwrap();
    let again = ca::init(authority.path(), &cluster("east"), valid());
    assert!(matches!(again, Err(Error::Exists { path }) if path.ends_with("ca.pem")));
    assert_eq!(fs::read(authority.path().join("ca.key")).unwrap(), before);

    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("a.key"), "mine").unwrap();
    let issued = ca::issue_node(authority.path(), &node("a"), out.path(), valid());
    assert!(matches!(issued, Err(Error::Exists { path }) if path.ends_with("a.key")));
    assert_eq!(fs::read(out.path().join("a.key")).unwrap(), b"mine");
    assert!(!out.path().join("a.pem").exists(), "both or neither");
}

#[test]
fn an_authority_of_mixed_files_issues_nothing() {
    let (east, west) = (Authority::of("east"), Authority::of("west"));
    let out = tempfile::tempdir().unwrap();
    let issue = || ca::issue_node(east.path(), &node("a"), out.path(), valid());
    fs::copy(west.path().join("ca.key"), east.path().join("ca.key")).unwrap();
    let error = issue().unwrap_err();
    assert!(matches!(&error, Error::Unusable { path, .. } if path.ends_with("ca.key")), "{error}");

    let files = ca::issue_node(west.path(), &node("a"), out.path(), valid()).unwrap();
    fs::copy(&files.certificate, east.path().join("ca.pem")).unwrap();
    let error = issue().unwrap_err().to_string();
    assert!(error.contains("not the certificate of a cluster's authority"), "{error}");
    fs::remove_file(east.path().join("ca.pem")).unwrap();
    assert!(matches!(issue(), Err(Error::File { operation: "read", .. })));
}

#[test]
fn a_validity_that_certificates_cannot_say_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    for (from, lasting) in [
        (SystemTime::UNIX_EPOCH - HOUR, 2 * HOUR),
        (now, Duration::ZERO),
        (now, Duration::MAX),
        (now, HOUR * 24 * 366 * 9000),
    ] {
        let made = ca::init(dir.path(), &cluster("east"), Validity { from, lasting });
        assert!(matches!(made, Err(Error::Issue { .. })), "{lasting:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_node_does_not_start_with_files_that_others_would_refuse() {
    let (east, west) = (Authority::of("east"), Authority::of("west"));
    let out = tempfile::tempdir().unwrap();
    let files = ca::issue_node(east.path(), &node("a"), out.path(), valid()).unwrap();
    let other = ca::issue_node(east.path(), &node("b"), out.path(), valid()).unwrap();
    let load = |ca: &Path, certificate: &Path, key: &Path| {
        Identity::load(ca, certificate, key).unwrap_err().to_string()
    };
    let error = load(&west.certificate(), &files.certificate, &files.key);
    assert!(error.contains("not from this cluster's authority"), "{error}");
    let error = load(&east.certificate(), &files.certificate, &other.key);
    assert!(error.contains("not the key of"), "{error}");
    let error = load(&east.certificate(), &files.key, &files.key);
    assert!(error.contains("no certificate in it"), "{error}");
    let error = load(&east.certificate(), &east.certificate(), &east.path().join("ca.key"));
    assert!(error.contains("cannot be used"), "{error}");

    let late = SystemTime::now() + 48 * HOUR;
    let expired =
        Identity::load_at(&east.certificate(), &files.certificate, &files.key, late).unwrap_err();
    assert!(expired.to_string().contains("has expired"), "{expired}");

    let garbage = out.path().join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let error = load(&garbage, &files.certificate, &files.key);
    assert!(error.contains("not an authority's certificate"), "{error}");
    fs::write(&garbage, vec![b'x'; (64 << 10) + 1]).unwrap();
    let error = load(&garbage, &files.certificate, &files.key);
    assert!(error.contains("larger than 65536 bytes"), "{error}");

    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Identity::load(&east.certificate(), &files.certificate, &files.key).unwrap_err();
    assert!(matches!(error, Error::KeyExposed { mode: 0o640, .. }), "{error}");
}
