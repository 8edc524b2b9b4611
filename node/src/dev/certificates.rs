//! Development certificates: two authorities (clients and peers, design §8) and the identities they sign.
//!
//! The keys of both authorities are kept beside the certificates, so that a developer — or a test — can issue, revoke
//! and rotate identities while the cluster runs. That is the whole difference from a production set-up, and the
//! reason why these files must never leave a developer's machine.
//!
//! Invariants: no serial number is ever used twice (random, 127 bits); every leaf names exactly one Okno identity in
//! its URI SAN; a certificate of one authority is never valid under the other.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A leaf outlives any development session, and yet nobody will come to depend on it.
const LEAF_VALID: Duration = Duration::from_secs(90 * 24 * 3600);
const AUTHORITY_VALID: Duration = Duration::from_secs(365 * 24 * 3600);
/// Revocation lists are enforced when they expire, so a kept directory must stay startable as long as its leaves.
const REVOCATION_LIST_VALID: Duration = LEAF_VALID;
/// Certificates begin a little in the past: clocks of nodes and clients differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Which of the two authorities signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Realm {
    Clients,
    Peers,
}

impl Realm {
    pub fn name(self) -> &'static str {
        match self {
            Realm::Clients => "clients",
            Realm::Peers => "peers",
        }
    }
}

/// A certificate authority of a development cluster.
pub struct Authority {
    realm: Realm,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Presented by a caller.
    Client,
    /// Presented by a listener.
    Server,
    /// Presented by a node to nodes, in both directions.
    Peer,
}

/// Where a certificate and its key were written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes a new authority with a key of its own.
    pub fn create(realm: Realm) -> Result<Self> {
        let key = KeyPair::generate().context("generating a key for an authority")?;
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Okno development");
        name.push(DnType::CommonName, format!("Okno development CA for {}", realm.name()));
        parameters.distinguished_name = name;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.serial_number = Some(serial_number());
        let now = SystemTime::now();
        parameters.not_before = (now - BACKDATED).into();
        parameters.not_after = (now + AUTHORITY_VALID).into();
        let certificate = parameters.self_signed(&key).context("signing an authority")?;
        Ok(Self { realm, certificate, issuer: Issuer::new(parameters, key) })
    }

    /// Writes `<realm>.pem`, `<realm>.key` and an empty revocation list `<realm>.crl.pem`.
    pub fn save(&self, directory: &Path) -> Result<AuthorityFiles> {
        let name = self.realm.name();
        let files = AuthorityFiles {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
            revocation_list: directory.join(format!("{name}.crl.pem")),
        };
        write_public(&files.certificate, &self.certificate.pem())?;
        write_secret(&files.key, &self.issuer.key().serialize_pem())?;
        write_public(&files.revocation_list, &self.revocation_list(&[])?)?;
        Ok(files)
    }

    /// Issues a leaf for `okno://<cluster>/<kind>/<id>` and writes `<stem>.pem` and `<stem>.key`.
    pub fn issue(
        &self,
        directory: &Path,
        stem: &str,
        usage: Usage,
        uri: &str,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<CertificateFiles> {
        let key = KeyPair::generate().context("generating a key")?;
        let mut parameters = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Okno development");
        name.push(DnType::CommonName, stem);
        parameters.distinguished_name = name;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = match usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Peer => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        parameters.serial_number = Some(serial_number());
        let now = SystemTime::now();
        parameters.not_before = (now - BACKDATED).into();
        parameters.not_after = (now + LEAF_VALID).into();
        let uri = SanType::URI(uri.try_into().with_context(|| format!("identity {uri} is not plain ASCII"))?);
        parameters.subject_alt_names.push(uri);
        for name in names {
            let name = (*name).try_into().with_context(|| format!("host name {name} is not plain ASCII"))?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        parameters.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("signing the certificate of {stem}"))?;
        let files = CertificateFiles {
            certificate: directory.join(format!("{stem}.pem")),
            key: directory.join(format!("{stem}.key")),
        };
        write_public(&files.certificate, &certificate.pem())?;
        write_secret(&files.key, &key.serialize_pem())?;
        Ok(files)
    }

    /// A revocation list, in PEM, over the given serial numbers.
    pub fn revocation_list(&self, serial_numbers: &[Vec<u8>]) -> Result<String> {
        let now = SystemTime::now();
        let parameters = CertificateRevocationListParams {
            this_update: (now - BACKDATED).into(),
            next_update: (now + REVOCATION_LIST_VALID).into(),
            crl_number: SerialNumber::from(list_number(now)),
            issuing_distribution_point: None,
            revoked_certs: serial_numbers
                .iter()
                .map(|number| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(number),
                    revocation_time: now.into(),
                    reason_code: Some(RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = parameters.signed_by(&self.issuer).context("signing a revocation list")?;
        list.pem().context("encoding a revocation list")
    }
}

/// Where an authority was written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuthorityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub revocation_list: PathBuf,
}

/// Random, positive and never shorter than 16 bytes, so that DER neither pads nor trims it.
fn serial_number() -> SerialNumber {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Lists of one authority are numbered in the order in which they were made: nodes refuse to go back to an older one.
fn list_number(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn write_public(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Writes a file only its owner may read, private from its first byte on.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    fn der(path: &Path) -> Vec<u8> {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_file(path).unwrap().to_vec()
    }

    #[test]
    fn a_leaf_names_one_identity_and_chains_to_its_own_authority_only() {
        let directory = tempfile::tempdir().unwrap();
        let clients = Authority::create(Realm::Clients).unwrap();
        let peers = Authority::create(Realm::Peers).unwrap();
        let clients_files = clients.save(directory.path()).unwrap();
        let peers_files = peers.save(directory.path()).unwrap();
        let uri = "okno://dev/operator/ivanova";
        let leaf = clients.issue(directory.path(), "operator-ivanova", Usage::Client, uri, &[], &[]).unwrap();

        let bytes = der(&leaf.certificate);
        let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
        let san = certificate.subject_alternative_name().unwrap().unwrap();
        let names: Vec<_> = san.value.general_names.iter().collect();
        assert_eq!(names, [&GeneralName::URI(uri)]);

        let (own, other) = (der(&clients_files.certificate), der(&peers_files.certificate));
        let (_, own) = X509Certificate::from_der(&own).unwrap();
        let (_, other) = X509Certificate::from_der(&other).unwrap();
        assert_eq!(certificate.issuer(), own.subject());
        assert_ne!(certificate.issuer(), other.subject());
        assert!(own.is_ca() && !certificate.is_ca());
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let files = Authority::create(Realm::Peers).unwrap().save(directory.path()).unwrap();
        assert_eq!(std::fs::metadata(files.key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_revocation_list_names_the_revoked_serial_number() {
        use x509_parser::prelude::CertificateRevocationList;
        let authority = Authority::create(Realm::Clients).unwrap();
        let pem = authority.revocation_list(&[vec![0x41, 7, 9]]).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, list) = CertificateRevocationList::from_der(&pem.contents).unwrap();
        let revoked: Vec<_> =
            list.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect();
        assert_eq!(revoked, [vec![0x41, 7, 9]]);
    }
}
