//! A small authority for tests.

use crate::settings::TlsSection;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// An authority and the directory its files are written to.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

pub struct Leaf {
    pub der: Vec<u8>,
    pub section: TlsSection,
    pub serial: u64,
}

impl Authority {
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("authority");
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).expect("directory");
        std::fs::write(directory.join("ca.pem"), issuer.pem()).expect("written");
        Self { issuer, directory }
    }

    /// Issues a leaf and writes `<name>.pem`, `<name>.key`.
    pub fn issue(&self, name: &str, uris: &[&str], serial: u64) -> Leaf {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ascii"))).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("key");
        let leaf = params.signed_by(&key, &self.issuer).expect("signed");
        let file = |end: &str| self.directory.join(format!("{name}.{end}"));
        std::fs::write(file("pem"), leaf.pem()).expect("written");
        std::fs::write(file("key"), key.serialize_pem()).expect("written");
        let section = TlsSection {
            ca: self.directory.join("ca.pem"),
            certificate: file("pem"),
            key: file("key"),
            revocation_lists: Vec::new(),
        };
        Leaf { der: leaf.der().to_vec(), section, serial }
    }

    /// Writes `crl.pem` as of `age` ago, valid for `valid` from then.
    pub fn revoke(&self, serials: &[u64], age: Duration, valid: Duration) -> PathBuf {
        let this_update = SystemTime::now() - age;
        let params = CertificateRevocationListParams {
            this_update: this_update.into(),
            next_update: (this_update + valid).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: this_update.into(),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.directory.join("crl.pem");
        std::fs::write(&path, params.signed_by(&self.issuer).expect("signed").pem().expect("pem"))
            .expect("written");
        path
    }
}

/// A certificate with the given URI SANs, DER.
pub fn leaf_with_uris(uris: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("directory");
    Authority::new(directory.path(), "test").issue("leaf", uris, 1).der
}
