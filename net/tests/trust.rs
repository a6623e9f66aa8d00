//! Who is let in, and what both sides are told when somebody is not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, net::SocketAddr, sync::Arc, time::SystemTime};

use larder_net::{
    Connection, Endpoint, Error, Identity, Options, Refusal, Result, StreamKind, Versions,
    ca::Files,
};
use larder_types::NodeId;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use support::{Authority, HOUR, allowing, bind, cluster, connect, node, soon};

fn address(endpoint: &Endpoint) -> SocketAddr {
    endpoint.local_addr().unwrap()
}

/// What the caller and the called are told.
async fn call(
    from: &Endpoint,
    to: &Endpoint,
    name: &str,
) -> (Result<Connection>, Result<Connection>) {
    let (address, name) = (address(to), node(name));
    let (caller, called) = tokio::join!(soon(from.connect(address, &name)), soon(to.accept()));
    (caller, called.unwrap())
}

fn refusal(result: Result<Connection>) -> Refusal {
    match result {
        Err(Error::Peer { refusal, .. }) => refusal,
        other => panic!("not refused by this side: {other:?}"),
    }
}

fn told(result: Result<Connection>) -> String {
    match result {
        Err(Error::RefusedByPeer { why, .. }) => why,
        other => panic!("not refused by the other side: {other:?}"),
    }
}

/// A certificate with the authority's signature that the authority would not have issued.
fn forged(authority: &Authority, uris: &[&str]) -> Result<Arc<Identity>> {
    let key = fs::read_to_string(authority.path().join("ca.key")).unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name.push(DnType::CommonName, "authority of cluster east");
    let issuer = Issuer::new(issuer, KeyPair::from_pem(&key).unwrap());
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let out = tempfile::tempdir().unwrap();
    let files = Files { certificate: out.path().join("x.pem"), key: out.path().join("x.key") };
    fs::write(&files.certificate, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    let owner_alone = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&files.key, owner_alone).unwrap();
    Identity::load(&authority.certificate(), &files.certificate, &files.key).map(Arc::new)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_authority_is_refused_by_whoever_calls_it() {
    let (east, west) = (Authority::of("east"), Authority::of("west"));
    let a = bind(east.identity("a"), allowing(&["b"]));
    let b = bind(west.identity("b"), allowing(&["a"]));
    let (caller, called) = call(&a, &b, "b").await;
    assert_eq!(refusal(caller), Refusal::NotOurs { claimed: "kv://west/b".into() });
    assert!(told(called).contains("not from this cluster's authority"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_out_of_their_time_are_refused_by_both_sides() {
    let authority = Authority::of("east");
    let now = SystemTime::now();
    for (moment, expected) in
        [(now - 5 * HOUR, Refusal::Expired), (now + 5 * HOUR, Refusal::NotValidYet)]
    {
        let a = bind(authority.identity("a"), allowing(&["b"]));
        let b = bind(authority.identity_at("b", moment), allowing(&["a"]));
        let (caller, called) = call(&a, &b, "b").await;
        assert_eq!(refusal(caller), expected);
        told(called);
        let (caller, called) = call(&b, &a, "a").await;
        assert_eq!(refusal(called), expected);
        assert!(told(caller).contains(&expected.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_cluster_is_refused_though_the_authority_signed_it() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(forged(&authority, &["kv://west/b"]).unwrap(), allowing(&["a"]));
    let (caller, called) = call(&a, &b, "b").await;
    assert_eq!(refusal(caller), Refusal::OtherCluster { cluster: cluster("west") });
    assert_eq!(told(called), "its certificate is for cluster west");
}

#[test]
fn a_certificate_that_names_no_node_or_two_is_no_identity() {
    let authority = Authority::of("east");
    for uris in [&[][..], &["kv://east"], &["kv://east/a", "kv://east/b"], &["kv://east/a/b"]] {
        let error = forged(&authority, uris).unwrap_err();
        assert!(error.to_string().contains("does not name a node"), "{uris:?}: {error}");
    }
    assert_eq!(forged(&authority, &["kv://east/a"]).unwrap().node(), &node("a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_allowed_is_refused_until_it_is() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(authority.identity("b"), allowing(&["c"]));
    let (caller, called) = call(&a, &b, "b").await;
    assert_eq!(refusal(called), Refusal::NotAllowed { node: node("a") });
    assert!(told(caller).contains("a is not a node of this cluster now"));
    b.set_allowed([node("a")].into());
    connect(&a, &b, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_longer_allowed_is_cut() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(authority.identity("b"), allowing(&["a"]));
    let (at_a, at_b) = connect(&a, &b, "b").await;
    b.set_allowed([node("c")].into());
    assert!(matches!(soon(at_b.closed()).await, Error::ClosedHere));
    let closed = soon(at_a.closed()).await;
    assert!(matches!(&closed, Error::Closed { why, .. } if why.contains("not a node")), "{closed}");
    assert!(!at_a.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_in_place_of_the_node_that_was_called_is_refused() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b", "c"]));
    let b = bind(authority.identity("b"), allowing(&["a"]));
    let (caller, called) = call(&a, &b, "c").await;
    assert_eq!(refusal(caller), Refusal::Unexpected { node: node("b"), expected: node("c") });
    assert!(told(called).contains("it is b, not c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_exchanged_while_connections_stay() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(authority.identity_at("b", SystemTime::now() - 5 * HOUR), allowing(&["a"]));
    let (caller, _) = call(&a, &b, "b").await;
    assert_eq!(refusal(caller), Refusal::Expired);
    b.set_identity(authority.identity("b")).unwrap();
    let (at_a, at_b) = connect(&a, &b, "b").await;
    b.set_identity(authority.identity("b")).unwrap();
    connect(&a, &b, "b").await;
    assert!(at_a.is_alive() && at_b.is_alive());
    let other = b.set_identity(authority.identity("c"));
    assert!(matches!(other, Err(Error::OtherNode { .. })), "a node does not become another");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_common_version_tell_each_other_so() {
    let authority = Authority::of("east");
    let versions =
        |min, max, peer| Options { versions: Versions { min, max }, ..allowing(&[peer]) };
    let a = bind(authority.identity("a"), versions(1, 2, "b"));
    let b = bind(authority.identity("b"), versions(3, 4, "a"));
    let (caller, called) = call(&a, &b, "b").await;
    for error in [caller.unwrap_err(), called.unwrap_err()] {
        let Error::Version { ours, theirs, .. } = error else { panic!("{error}") };
        assert_eq!(ours.min.min(theirs.min), 1);
        assert_eq!(ours.max.max(theirs.max), 4);
    }
    let b = bind(authority.identity("c"), versions(2, 4, "a"));
    a.set_allowed([node("c")].into());
    let (at_a, at_b) = connect(&a, &b, "c").await;
    assert_eq!((at_a.version(), at_b.version()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_four_connections_and_no_more() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(authority.identity("b"), allowing(&["a"]));
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(connect(&a, &b, "b").await);
    }
    let (caller, called) = call(&a, &b, "b").await;
    // Whichever side counts first tells the other.
    for error in [caller.unwrap_err(), called.unwrap_err()] {
        assert!(error.to_string().contains("already has 4 connections here"), "{error}");
    }
    open.pop();
    connect(&a, &b, "b").await;
    let (at_a, _) = &open[0];
    at_a.open(StreamKind::Control).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_address_where_nobody_answers_is_given_up() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let a = bind(Authority::of("east").identity("a"), allowing(&["b"]));
    let b: NodeId = node("b");
    let called = a.connect(silent.local_addr().unwrap(), &b).await;
    assert!(matches!(&called, Err(error @ Error::Silent { .. }) if error.is_retryable()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_endpoint_tells_its_peers_and_neither_calls_nor_accepts() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(authority.identity("b"), allowing(&["a"]));
    let (at_a, at_b) = connect(&a, &b, "b").await;
    soon(b.close()).await;
    let closed = soon(at_a.closed()).await;
    assert!(matches!(&closed, Error::Closed { code: 0, why } if why == "the node stops"));
    assert!(matches!(soon(at_b.closed()).await, Error::ClosedHere));
    assert!(soon(b.accept()).await.is_none());
    assert!(matches!(b.connect(address(&a), &node("a")).await, Err(Error::ClosedHere)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_free_again_once_its_endpoint_is_closed_and_dropped() {
    let authority = Authority::of("east");
    let a = bind(authority.identity("a"), allowing(&["b"]));
    let b = bind(authority.identity("b"), allowing(&["a"]));
    let (address, at_a) = (address(&b), connect(&a, &b, "b").await);
    soon(b.close()).await;
    drop((b, at_a));
    soon(async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
