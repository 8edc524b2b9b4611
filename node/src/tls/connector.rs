//! The way out: dialling another node, presenting our certificate and demanding theirs by identity.
//!
//! The name checked is `okno://<cluster>/peer/<node id>`, not a host name: nodes are named by the member list, and
//! an address may change hands.

use super::side::Side;
use crate::identity::{Caller, Kind};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{fmt, io, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest wait for a connection and its handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Dials peers.
#[derive(Clone)]
pub struct PeerDialer {
    side: Arc<Side>,
}

impl PeerDialer {
    pub fn new(side: Arc<Side>) -> Self {
        Self { side }
    }

    /// A verified connection to `node` at `address` (host:port).
    pub async fn dial(&self, node: u64, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config(node).map_err(io::Error::other)?;
        // The name goes into the hello only; identity is checked by the verifier.
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connect = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await
        };
        tokio::time::timeout(DIAL_TIMEOUT, connect)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection within 3 s"))?
    }

    /// A channel to a peer; every new connection of it is verified again, with the certificates then in force.
    pub async fn channel(
        &self,
        node: u64,
        address: &str,
    ) -> Result<tonic::transport::Channel, tonic::transport::Error> {
        // Peers stream batches of log entries: windows large enough that they never wait for a round trip.
        const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(4))
            .keep_alive_while_idle(true);
        let (dialer, address) = (self.clone(), Arc::<str>::from(address));
        endpoint
            .connect_with_connector(tower::service_fn(move |_: http::Uri| {
                let (dialer, address) = (dialer.clone(), address.clone());
                async move { dialer.dial(node, &address).await.map(TokioIo::new) }
            }))
            .await
    }

    fn config(&self, node: u64) -> Result<ClientConfig, rustls::Error> {
        let material = self.side.in_force().material.clone();
        let verifier = PeerVerifier { side: self.side.clone(), node };
        let mut config = ClientConfig::builder_with_provider(super::material::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(material.chain(), material.key())?;
        config.alpn_protocols = vec![super::ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Accepts exactly one node's certificate.
struct PeerVerifier {
    side: Arc<Side>,
    node: u64,
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerVerifier({}, node {})", self.side.name, self.node)
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.side.in_force().material.verify_server(leaf, intermediates, now)?;
        let caller = Caller::of_certificate(leaf, &self.side.cluster)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        if caller.kind != Kind::Peer || caller.node_id() != Some(self.node) {
            return Err(rustls::Error::General(format!("expected peer {}, found {caller}", self.node)));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &super::material::provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &super::material::provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::material::provider().signature_verification_algorithms.supported_schemes()
    }
}
