//! Certificates a development cluster does not hand out: of other authorities, kinds and clusters; renewed ones; and
//! revocation lists. The development authorities' keys lie beside their certificates.

use crate::harness::cluster::{AuthorityFiles, Pair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority whose key the test holds.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is for, and until when.
pub struct Leaf<'a> {
    /// The identity, e.g. `okno://dev/operator/lipova`.
    pub uri: &'a str,
    /// Also presented by a listener on the loopback address.
    pub server: bool,
    pub client: bool,
    pub not_after: SystemTime,
    /// Before that it is not valid yet.
    pub not_before: SystemTime,
    /// Chosen by the test where it means to revoke it.
    pub serial: u64,
    /// Where a listener presents it besides the loopback address.
    pub host: Option<IpAddr>,
}

impl<'a> Leaf<'a> {
    fn new(uri: &'a str, server: bool, client: bool, serial: u64) -> Self {
        let now = SystemTime::now();
        Self { uri, server, client, not_after: now + DAY, not_before: now - 2 * DAY, serial, host: None }
    }

    /// Presented at this address too.
    #[must_use]
    pub fn at(mut self, host: IpAddr) -> Self {
        self.host = Some(host);
        self
    }

    /// A caller's certificate, valid for a day.
    pub fn client(uri: &'a str, serial: u64) -> Self {
        Self::new(uri, false, true, serial)
    }

    /// A node's certificate for its clients.
    pub fn server(uri: &'a str, serial: u64) -> Self {
        Self::new(uri, true, false, serial)
    }

    /// A node's certificate for the other nodes.
    pub fn peer(uri: &'a str, serial: u64) -> Self {
        Self::new(uri, true, true, serial)
    }
}

impl Authority {
    /// One of the development cluster's own.
    pub fn open(files: &AuthorityFiles) -> Self {
        let key = std::fs::read_to_string(&files.key).expect("the authority's key is there");
        let key = KeyPair::from_pem(&key).expect("a key in PEM");
        let certificate =
            std::fs::read_to_string(&files.certificate).expect("the authority's certificate is there");
        Self { issuer: Issuer::from_ca_cert_pem(&certificate, key).expect("an authority's certificate") }
    }

    /// One that nobody has heard of, under the very name of the real one.
    pub fn stranger(realm: &str) -> Self {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Okno development");
        name.push(DnType::CommonName, format!("Okno development CA for {realm}"));
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: Issuer::new(parameters, KeyPair::generate().expect("a key")) }
    }

    /// Writes `<stem>.pem` and `<stem>.key` into a folder.
    pub fn issue(&self, folder: &Path, stem: &str, leaf: &Leaf<'_>) -> Pair {
        let pair =
            Pair { certificate: folder.join(format!("{stem}.pem")), key: folder.join(format!("{stem}.key")) };
        self.issue_into(&pair, leaf);
        pair
    }

    /// Writes over the files of an identity: a renewal. Each file is replaced as a whole, as a careful tool does.
    pub fn issue_into(&self, pair: &Pair, leaf: &Leaf<'_>) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "test");
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if leaf.server {
            parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            parameters.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            parameters.subject_alt_names.extend(leaf.host.map(SanType::IpAddress));
            let name = "localhost".try_into().expect("plain ASCII");
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        if leaf.client {
            parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        parameters.subject_alt_names.push(SanType::URI(leaf.uri.try_into().expect("plain ASCII")));
        parameters.serial_number = Some(SerialNumber::from(leaf.serial));
        parameters.not_before = leaf.not_before.into();
        parameters.not_after = leaf.not_after.into();
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        replace(&pair.key, &key.serialize_pem());
        replace(&pair.certificate, &certificate.pem());
    }

    /// Writes a revocation list over the serial numbers, current until `next_update`.
    pub fn revoke(&self, list: &Path, serials: &[u64], next_update: SystemTime) {
        let now = SystemTime::now();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now.into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let parameters = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(list_number(now)),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = parameters.signed_by(&self.issuer).expect("a revocation list");
        replace(list, &signed.pem().expect("PEM"));
    }
}

/// In the order in which lists are made, as the development authority numbers its own.
fn list_number(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_micros()).expect("before the year 586000")
}

/// A serial number nobody has used; those chosen by tests are small.
pub fn fresh_serial() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 >> 1 | 1 << 62
}

/// Tomorrow: a revocation list that is current.
pub fn tomorrow() -> SystemTime {
    SystemTime::now() + DAY
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file can be written");
    std::fs::rename(&beside, path).expect("a file can be renamed");
}

/// The certificate in a PEM text, as bytes.
pub fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate in PEM").to_vec()
}

/// The certificate a listener presents to a new connection.
pub async fn presented(
    file: &crate::harness::cluster::DevFile,
    caller: &Pair,
    address: std::net::SocketAddr,
) -> Result<Vec<u8>, String> {
    let files = std::sync::Arc::new(crate::harness::desk::tls(file, caller));
    let connector = okno_client::Connector::new(&address.to_string(), files, &file.cluster)
        .map_err(|error| error.to_string())?;
    let stream = connector.connect().await.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().ok_or("no certificate was presented")?;
    chain.first().map(|leaf| leaf.to_vec()).ok_or_else(|| "an empty chain was presented".to_owned())
}
