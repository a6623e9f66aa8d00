//! How QUIC is set: only what nodes use is on, and every buffer has a bound.

use std::{sync::Arc, time::Duration};

use quinn::{
    ClientConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    ValidationTokenConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{client::Resumption, version::TLS13};

use crate::{congestion::Gentle, identity::provider, trust::Verifier};

/// Says in the TLS handshake that this is not HTTP; versions are agreed on in the hello.
const ALPN: &[u8] = b"larder-node";
/// Streams that the other side may have open at once.
const STREAMS_MAX: u32 = 32;
/// What the other side may send on one stream before it is read: 100 ms at 1 Gbit/s.
const STREAM_WINDOW_BYTES: u32 = 13 << 20;
/// The same for all streams of a connection together.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What is kept until the other side has it, a connection.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Nobody has said anything for so long: the connection is gone. Heartbeats notice sooner.
const IDLE_MAX: VarInt = VarInt::from_u32(10_000);
/// Says something when nobody else does.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Assumed of a line before it is measured.
const FIRST_RTT: Duration = Duration::from_millis(100);
/// Sent at once on a line that is not known yet. Nodes pay for their lines: more than the 14 KiB
/// of the Internet's rule, so that a batch of writes after a quiet time does not wait for several
/// round trips.
const FIRST_WINDOW_BYTES: u64 = 128 << 10;
/// Handshakes that wait to be looked at, and what is kept of each, and of all.
const INCOMING_MAX: usize = 64;
const INCOMING_BYTES: u64 = 16 << 10;
const INCOMING_BYTES_TOTAL: u64 = 1 << 20;

/// For both sides.
pub(crate) fn transport(datagram_bytes_max: u16) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(datagram_bytes_max);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(FIRST_WINDOW_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .ack_frequency_config(None)
        .max_idle_timeout(Some(IdleTimeout::from(IDLE_MAX)))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(FIRST_RTT)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(Gentle(congestion)));
    Arc::new(transport)
}

/// For calling one node. No tickets are kept: every connection is judged anew.
pub(crate) fn client(
    verifier: &Arc<Verifier>,
    transport: &Arc<TransportConfig>,
) -> Result<ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Verifier>::clone(verifier))
        .with_client_cert_resolver(verifier.identity().certified());
    tls.alpn_protocols = vec![ALPN.into()];
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    tls.enable_sni = false;
    let quic = QuicClientConfig::try_from(tls)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::clone(transport));
    Ok(config)
}

/// For one caller, after `base`; or the base itself, which answers those that are refused.
pub(crate) fn server(
    verifier: &Arc<Verifier>,
    base: Option<&ServerConfig>,
    transport: &Arc<TransportConfig>,
) -> Result<ServerConfig, rustls::Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::<Verifier>::clone(verifier))
        .with_cert_resolver(verifier.identity().certified());
    tls.alpn_protocols = vec![ALPN.into()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    let quic = QuicServerConfig::try_from(tls)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    if let Some(base) = base {
        let mut config = base.clone();
        config.crypto = Arc::new(quic);
        return Ok(config);
    }
    let mut no_tokens = ValidationTokenConfig::default();
    no_tokens.sent(0);
    let mut config = ServerConfig::with_crypto(Arc::new(quic));
    config
        .transport_config(Arc::clone(transport))
        .validation_token_config(no_tokens)
        .migration(false)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(config)
}
