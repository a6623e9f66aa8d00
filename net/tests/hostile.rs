//! Callers that do not keep to the protocol: each is refused with words, and the endpoint goes on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, net::UdpSocket, path::Path, sync::Arc};

use larder_net::{Connection, Endpoint, Error, Features, Hello, Refusal, Result, Versions, ca};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use support::{Authority, allowing, bind, cluster, connect, node, soon, valid};

/// Takes any server for the right one.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A caller with QUIC and TLS alone, with the certificate of node `a`, or none.
struct Caller {
    quic: quinn::Endpoint,
}

impl Caller {
    fn new(authority: Option<&Path>, alpn: &[u8]) -> Self {
        let tls = rustls::ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous));
        let mut tls = match authority {
            None => tls.with_no_client_auth(),
            Some(dir) => {
                let out = tempfile::tempdir().unwrap();
                let files = ca::issue_node(dir, &node("a"), out.path(), valid()).unwrap();
                let pem = fs::read(files.certificate).unwrap();
                let key = PrivateKeyDer::from_pem_slice(&fs::read(files.key).unwrap()).unwrap();
                let chain = vec![CertificateDer::from_pem_slice(&pem).unwrap()];
                tls.with_client_auth_cert(chain, key).unwrap()
            }
        };
        tls.alpn_protocols = vec![alpn.into()];
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let mut quic = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        quic.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        Self { quic }
    }

    async fn call(&self, endpoint: &Endpoint) -> Result<quinn::Connection, quinn::ConnectionError> {
        let address = endpoint.local_addr().unwrap();
        soon(self.quic.connect(address, "whoever").unwrap()).await
    }
}

/// An endpoint, a caller that is allowed to speak with it, and the authority of both.
fn endpoint_and_caller() -> (Endpoint, Caller, Authority) {
    let authority = Authority::of("east");
    let b = bind(authority.identity("b"), allowing(&["a", "c"]));
    let caller = Caller::new(Some(authority.path()), b"larder-node");
    (b, caller, authority)
}

async fn refused(endpoint: &Endpoint) -> Error {
    soon(endpoint.accept()).await.unwrap().unwrap_err()
}

/// Shows that an orderly node still gets in.
async fn still_takes_calls(endpoint: &Endpoint, authority: &Authority) {
    let c = bind(authority.identity("c"), allowing(&["b"]));
    connect(&c, endpoint, "b").await;
}

fn hello() -> Vec<u8> {
    Hello { versions: Versions::SPOKEN, features: Features(0), cluster: cluster("east") }.encode()
}

/// Says hello as it should be, and gives both sides.
async fn introduced(endpoint: &Endpoint, caller: &Caller) -> (quinn::Connection, Connection) {
    let raw = caller.call(endpoint).await.unwrap();
    let (mut send, _receive) = raw.open_bi().await.unwrap();
    send.write_all(&[&[0], &hello()[..]].concat()).await.unwrap();
    send.finish().unwrap();
    (raw, soon(endpoint.accept()).await.unwrap().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_certificate_is_refused() {
    let (b, _, authority) = endpoint_and_caller();
    let raw = Caller::new(None, b"larder-node").call(&b).await;
    let error = refused(&b).await;
    assert!(matches!(error, Error::Handshake { .. }), "{error}");
    if let Ok(raw) = raw {
        assert!(matches!(soon(raw.closed()).await, quinn::ConnectionError::ConnectionClosed(_)));
    }
    still_takes_calls(&b, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_the_certificate_of_another_authority_is_refused_and_told_why() {
    let (b, _, authority) = endpoint_and_caller();
    let west = Authority::of("west");
    let raw = Caller::new(Some(west.path()), b"larder-node").call(&b).await;
    let Error::Peer { refusal, .. } = refused(&b).await else { panic!("not judged") };
    assert_eq!(refusal, Refusal::NotOurs { claimed: "kv://west/a".into() });
    let lost = match raw {
        Ok(raw) => soon(raw.closed()).await,
        Err(lost) => lost,
    };
    assert!(lost.to_string().contains("not from this cluster's authority"), "{lost}");
    still_takes_calls(&b, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_speaks_something_else_over_quic_is_refused() {
    let (b, _, authority) = endpoint_and_caller();
    let raw = Caller::new(Some(authority.path()), b"h3").call(&b).await;
    assert!(raw.is_err());
    assert!(matches!(refused(&b).await, Error::Handshake { .. }));
    still_takes_calls(&b, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hello_ends_the_connection() {
    let (b, caller, authority) = endpoint_and_caller();
    let long = [&[0], &[7; 4096][..]].concat();
    let other = [&[0], &hello()[..9], &[9; 40]].concat();
    for (bytes, words) in [
        (&[2, 0, 0, 0, 0][..], "not a hello"),
        (&[0, 1, 2][..], "ends early"),
        (&long[..], "too long"),
        (&other[..], "a hello"),
    ] {
        let raw = caller.call(&b).await.unwrap();
        let (mut send, _receive) = raw.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        drop(send.finish());
        let error = refused(&b).await;
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let closed = soon(raw.closed()).await;
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
    }
    still_takes_calls(&b, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_says_nothing_is_given_up_while_others_get_in() {
    let (b, caller, authority) = endpoint_and_caller();
    let _raw = caller.call(&b).await.unwrap();
    still_takes_calls(&b, &authority).await;
    assert!(matches!(refused(&b).await, Error::Silent { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_dawdle_hold_others_up_only_when_there_are_too_many() {
    let (b, caller, authority) = endpoint_and_caller();
    let mut dawdling = Vec::new();
    for _ in 0..20 {
        dawdling.push(caller.call(&b).await.unwrap());
    }
    still_takes_calls(&b, &authority).await;
    for _ in 20..32 {
        dawdling.push(caller.call(&b).await.unwrap());
    }
    let refused = caller.call(&b).await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    drop(dawdling);
    caller.quic.close(0_u32.into(), b"enough");
    let c = bind(authority.identity("c"), allowing(&["b"]));
    let address = b.local_addr().unwrap();
    soon(async { while c.connect(address, &node("b")).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_no_known_kind_ends_the_connection() {
    let (b, caller, authority) = endpoint_and_caller();
    let (raw, taken) = introduced(&b, &caller).await;
    let (mut send, _receive) = raw.open_bi().await.unwrap();
    send.write_all(&[9]).await.unwrap();
    let error = soon(taken.accept()).await.unwrap_err();
    assert!(error.to_string().contains("unknown kind 9"), "{error}");
    soon(raw.closed()).await;
    still_takes_calls(&b, &authority).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_given_up_before_its_first_byte_is_passed_over() {
    let (b, caller, _authority) = endpoint_and_caller();
    let (raw, taken) = introduced(&b, &caller).await;
    let (mut given_up, _receive) = raw.open_bi().await.unwrap();
    given_up.reset(0_u32.into()).unwrap();
    let (mut empty, _receive) = raw.open_bi().await.unwrap();
    empty.finish().unwrap();
    let (mut send, _receive) = raw.open_bi().await.unwrap();
    send.write_all(&[1]).await.unwrap();
    soon(taken.accept()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_says_it_is_too_large_is_refused_by_its_length_alone() {
    let (b, caller, _authority) = endpoint_and_caller();
    let (raw, taken) = introduced(&b, &caller).await;
    for kind in [1, 2, 3] {
        let (mut send, _receive) = raw.open_bi().await.unwrap();
        send.write_all(&[kind, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
        let (_, _, mut receive) = soon(taken.accept()).await.unwrap();
        let error = soon(receive.next()).await.unwrap_err();
        assert!(matches!(error, Error::FrameTooLarge { bytes: 0xffff_ffff, .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_opens_streams_without_end_is_held_back() {
    let (b, caller, _authority) = endpoint_and_caller();
    let (raw, _taken) = introduced(&b, &caller).await;
    let mut open = Vec::new();
    let opening = async {
        loop {
            let (mut send, receive) = raw.open_bi().await.unwrap();
            send.write_all(&[3]).await.unwrap();
            open.push((send, receive));
        }
    };
    let wait = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(wait, opening).await.is_err());
    assert!(open.len() <= 32, "{}", open.len());
    assert!(tokio::time::timeout(wait, raw.open_uni()).await.is_err(), "none of the other sort");
    assert!(raw.send_datagram(vec![0; 10].into()).is_err(), "no datagrams");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_changes_nothing() {
    let (b, _, authority) = endpoint_and_caller();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = b.local_addr().unwrap();
    let mut bits = 1_u64;
    for round in 0..3000_usize {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (bits >> 33) as u8
        })
        .take(round % 1400)
        .collect();
        // Half of them look like the first packet of a connection.
        if round % 2 == 0 && bytes.len() > 5 {
            bytes[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        }
        socket.send_to(&bytes, to).unwrap();
    }
    still_takes_calls(&b, &authority).await;
}
