//! Connections: mutual TLS 1.3 over TCP, from PEM files that are read again for every new connection, so that a
//! renewed certificate is used without a restart.

use crate::error::SetupError;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task,
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// TCP and TLS together; a node in reach answers within milliseconds, one behind a slow link (R-R9) within a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authority of the nodes' certificates.
    pub ca: PathBuf,
    /// Own certificate with its chain, and its key.
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    pub fn load(&self) -> Result<ClientConfig, SetupError> {
        let file = |path: &Path, cause: String| SetupError::File { path: path.to_owned(), cause };
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, SetupError> {
            let found = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| file(path, format!("expected certificates in PEM: {error}")))?;
            if found.is_empty() {
                Err(file(path, "holds no certificate in PEM".to_owned()))
            } else {
                Ok(found)
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|error| file(&self.ca, error.to_string()))?;
        }
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| file(&self.key, format!("expected a private key in PEM: {error}")))?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| SetupError::Tls(error.to_string()))?
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .map_err(|error| {
                    SetupError::Tls(format!("{} and {}: {error}", self.cert.display(), self.key.display()))
                })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Opens connections to one endpoint.
///
/// Invariant: `last_good` is always a complete configuration; a file caught half-written while it is renewed never
/// replaces it.
#[derive(Clone)]
pub struct Connector {
    address: Arc<str>,
    server_name: ServerName<'static>,
    files: Arc<TlsFiles>,
    last_good: Arc<Mutex<Arc<ClientConfig>>>,
    /// Name of the cluster the node must belong to; empty: its authority is trusted to say so.
    cluster: Arc<str>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connector {
    /// `address` is host:port.
    pub fn new(address: &str, files: Arc<TlsFiles>, cluster: &str) -> Result<Self, SetupError> {
        let invalid = || SetupError::Value {
            key: "endpoints",
            found: address.to_owned(),
            expected: "host:port, e.g. \"node1.example:7400\"",
        };
        let (host, _) = address.rsplit_once(':').ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = ServerName::try_from(host).map_err(|_| invalid())?;
        let config = Arc::new(files.load()?);
        Ok(Self {
            address: address.into(),
            server_name,
            files,
            last_good: Arc::new(Mutex::new(config)),
            cluster: cluster.into(),
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connects and shakes hands within [`CONNECT_TIMEOUT`].
    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect_unbounded())
            .await
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time"))?
    }

    async fn connect_unbounded(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let config = {
            let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
            match self.files.load() {
                Ok(fresh) => *last_good = Arc::new(fresh),
                Err(error) => {
                    tracing::warn!(%error, "certificates are not readable now; the last ones are used")
                }
            }
            Arc::clone(&last_good)
        };
        let tcp = TcpStream::connect(&*self.address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(config).connect(self.server_name.clone(), tcp).await?;
        self.check_cluster(&tls)?;
        Ok(tls)
    }

    /// A node whose certificate names identities names one of this cluster (rule 17: the other side is checked too).
    fn check_cluster(&self, tls: &TlsStream<TcpStream>) -> std::io::Result<()> {
        if self.cluster.is_empty() {
            return Ok(());
        }
        let Some(certificate) = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()) else {
            return Ok(());
        };
        let clusters = identity_clusters(certificate);
        if clusters.is_empty() || clusters.iter().any(|name| **name == *self.cluster) {
            return Ok(());
        }
        Err(std::io::Error::other(format!(
            "{} belongs to cluster {}, expected {}",
            self.address,
            clusters.join(", "),
            self.cluster
        )))
    }
}

/// Clusters named by the URI identities `okno://<cluster>/<kind>/<id>` of a certificate.
fn identity_clusters(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("okno://"),
            _ => None,
        })
        .filter_map(|rest| rest.split('/').next())
        .map(str::to_owned)
        .collect()
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}
