//! One side's certificates as read from files: checked as a whole before anything uses them.

use crate::settings::TlsSection;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor, UnixTime, pem::PemObject,
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use std::{path::Path, path::PathBuf, sync::Arc};
use webpki::{CertRevocationList, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder};
use x509_parser::prelude::FromDer;

/// A file larger than this is none of ours: a bound on what a reload reads into memory.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Certificate files that cannot be used. Naming the file is the point: an operator reads this.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {detail}")]
    File { path: PathBuf, detail: String },
    #[error("{what}: {detail}")]
    Rejected { what: &'static str, detail: String },
}

impl TlsError {
    /// The process has no descriptors left: that says nothing of the files.
    pub fn is_for_want_of_descriptors(&self) -> bool {
        matches!(self, Self::Read { source, .. } if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)))
    }
}

/// A loaded revocation list with what tells a newer from an older one.
struct RevocationList {
    path: PathBuf,
    der: CertificateRevocationListDer<'static>,
    parsed: CertRevocationList<'static>,
    issuer: Vec<u8>,
    this_update: i64,
    next_update: Option<i64>,
}

/// Certificates, key, authorities and revocation lists of one side.
///
/// Invariants: the key belongs to the certificate; there is at least one authority; every list parsed.
pub struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    lists: Vec<RevocationList>,
    /// Of all files' bytes: equal digests mean nothing changed.
    digest: [u8; 32],
    not_after: i64,
}

impl Material {
    /// Reads and checks all files of a side.
    pub fn load(section: &TlsSection) -> Result<Self, TlsError> {
        let mut hasher = Sha256::new();
        let mut read = |path: &Path| -> Result<Vec<u8>, TlsError> {
            let failed = |source| TlsError::Read { path: path.to_owned(), source };
            if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
                return Err(TlsError::File { path: path.to_owned(), detail: "larger than 16 MiB".into() });
            }
            let bytes = std::fs::read(path).map_err(failed)?;
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(&bytes);
            Ok(bytes)
        };
        let certificates = |path: &Path, bytes: &[u8]| -> Result<Vec<CertificateDer<'static>>, TlsError> {
            let refused = |detail: String| TlsError::File { path: path.to_owned(), detail };
            let found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
                .collect::<Result<_, _>>()
                .map_err(|error| refused(format!("not PEM certificates: {error}")))?;
            if found.is_empty() { Err(refused("holds no certificate".into())) } else { Ok(found) }
        };

        let ca_bytes = read(&section.ca)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&section.ca, &ca_bytes)? {
            roots.add(certificate).map_err(|error| TlsError::File {
                path: section.ca.clone(),
                detail: format!("not an authority's certificate: {error}"),
            })?;
        }
        let chain_bytes = read(&section.certificate)?;
        let chain = certificates(&section.certificate, &chain_bytes)?;
        let key_bytes = read(&section.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|error| TlsError::File {
            path: section.key.clone(),
            detail: format!("not a PEM key: {error}"),
        })?;
        let mut lists = Vec::new();
        for path in &section.revocation_lists {
            let bytes = read(path)?;
            let before = lists.len();
            // An item that is no list is an error, an empty file too: no list must never look like "none revoked".
            for der in CertificateRevocationListDer::pem_slice_iter(&bytes) {
                let der = der.map_err(|error| TlsError::File {
                    path: path.clone(),
                    detail: format!("not PEM: {error}"),
                })?;
                lists.push(RevocationList::parse(path, der)?);
            }
            if lists.len() == before {
                return Err(TlsError::File { path: path.clone(), detail: "holds no revocation list".into() });
            }
        }
        let not_after = x509_parser::certificate::X509Certificate::from_der(&chain[0])
            .map(|(_, certificate)| certificate.validity().not_after.timestamp())
            .map_err(|_| TlsError::File {
                path: section.certificate.clone(),
                detail: "cannot be parsed".into(),
            })?;
        let material =
            Self { chain, key, roots: Arc::new(roots), lists, digest: hasher.finalize().into(), not_after };
        // Builds everything once, so that a file that cannot serve is found here and not at a handshake.
        material.server_config()?;
        Ok(material)
    }

    /// Equal to another's exactly when all files are.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// When our own certificate ends, seconds since the Unix epoch.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Our own certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Lists that have passed their next update at `now`, seconds since the Unix epoch.
    pub fn lists_expired(&self, now: i64) -> Vec<PathBuf> {
        self.lists
            .iter()
            .filter(|list| list.next_update.is_some_and(|next| next < now))
            .map(|list| list.path.clone())
            .collect()
    }

    /// Lists of whose time little is left at `now`, seconds since the Unix epoch: a quarter, or a week of a long one.
    pub fn lists_ending(&self, now: i64) -> Vec<(PathBuf, i64)> {
        const NOTICE_SECONDS_MAX: i64 = 7 * 24 * 3600;
        self.lists
            .iter()
            .filter_map(|list| {
                let next = list.next_update?;
                let notice = ((next - list.this_update) / 4).min(NOTICE_SECONDS_MAX);
                (now <= next && next - now < notice).then(|| (list.path.clone(), next - now))
            })
            .collect()
    }

    /// Refuses to replace `old` by lists that are older: a stale copy would bring revoked certificates back.
    pub fn check_not_older(&self, old: &Self) -> Result<(), TlsError> {
        for before in &old.lists {
            let after = self
                .lists
                .iter()
                .filter(|list| list.issuer == before.issuer)
                .max_by_key(|list| list.this_update);
            if let Some(after) = after
                && after.this_update < before.this_update
            {
                return Err(TlsError::File {
                    path: after.path.clone(),
                    detail: "is an older revocation list than the one in force".into(),
                });
            }
        }
        Ok(())
    }

    /// Verifies a certificate presented to us.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut builder = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider());
        if !self.lists.is_empty() {
            builder = builder
                .with_crls(self.lists.iter().map(|list| list.der.clone()))
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration();
        }
        builder
            .build()
            .map_err(|error| TlsError::Rejected { what: "client verification", detail: error.to_string() })
    }

    /// Verifies a certificate presented by a node we called: our authority, not revoked, meant for a server. Its
    /// name is checked apart, by identity.
    pub fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let bad = |error: webpki::Error| {
            use rustls::CertificateError as E;
            rustls::Error::InvalidCertificate(match error {
                webpki::Error::CertRevoked => E::Revoked,
                webpki::Error::UnknownRevocationStatus => E::UnknownRevocationStatus,
                webpki::Error::CertExpired { .. } => E::Expired,
                webpki::Error::CertNotValidYet { .. } => E::NotValidYet,
                webpki::Error::UnknownIssuer => E::UnknownIssuer,
                other => E::Other(rustls::OtherError(Arc::new(other))),
            })
        };
        let end = webpki::EndEntityCert::try_from(leaf).map_err(bad)?;
        let anchors: &[TrustAnchor<'static>] = &self.roots.roots;
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().map(|list| &list.parsed).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(webpki::RevocationCheckDepth::EndEntity)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        end.verify_for_usage(
            provider().signature_verification_algorithms.all,
            anchors,
            intermediates,
            now,
            KeyUsage::server_auth(),
            revocation,
            None,
        )
        .map_err(bad)?;
        Ok(())
    }

    /// TLS 1.3 only, a client certificate required, no resumption.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let rejected = |error: rustls::Error| TlsError::Rejected {
            what: "certificate and key",
            detail: error.to_string(),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(rejected)?
            .with_client_cert_verifier(self.client_verifier()?)
            .with_single_cert(self.chain(), self.key())
            .map_err(rejected)?;
        config.alpn_protocols = vec![super::ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl RevocationList {
    fn parse(path: &Path, der: CertificateRevocationListDer<'static>) -> Result<Self, TlsError> {
        let refused = |detail: String| TlsError::File { path: path.to_owned(), detail };
        let parsed = webpki::OwnedCertRevocationList::from_der(&der)
            .map_err(|error| refused(format!("not a revocation list: {error}")))?
            .into();
        let (_, fields) = x509_parser::revocation_list::CertificateRevocationList::from_der(&der)
            .map_err(|error| refused(format!("not a revocation list: {error}")))?;
        let issuer = fields.issuer().as_raw().to_vec();
        let this_update = fields.last_update().timestamp();
        let next_update = fields.next_update().map(|time| time.timestamp());
        drop(fields);
        Ok(Self { path: path.to_owned(), der, parsed, issuer, this_update, next_update })
    }
}

/// The process's provider if `main` installed one, else ring's.
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()))
}
