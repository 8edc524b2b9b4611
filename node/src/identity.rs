//! Who a certificate says its holder is: `okno://<cluster>/<kind>/<id>` in a URI SAN (design §8).
//!
//! Authentication happens where a call is received (rule 17); what an identity may do is `access`'s.

use std::{fmt, sync::Arc};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// Kinds of callers. The order is the bit order of [`crate::access::KindSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Another node of the cluster.
    Peer,
    /// A person who works at a centre.
    Operator,
    /// A program at a window.
    Workstation,
    /// Hands out tickets.
    Kiosk,
    /// Shows the queue in the hall.
    Board,
    /// Exchanges with one outside system.
    Connector,
    /// The public portal's side.
    Portal,
    /// Reads everything, changes nothing.
    Auditor,
    /// Runs the cluster.
    Admin,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Peer,
        Self::Operator,
        Self::Workstation,
        Self::Kiosk,
        Self::Board,
        Self::Connector,
        Self::Portal,
        Self::Auditor,
        Self::Admin,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Operator => "operator",
            Self::Workstation => "workstation",
            Self::Kiosk => "kiosk",
            Self::Board => "board",
            Self::Connector => "connector",
            Self::Portal => "portal",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }
}

/// A caller's identity; cheap to clone, one per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub cluster: Arc<str>,
    pub kind: Kind,
    pub id: Arc<str>,
    /// `<kind>/<id>`, as commits record it.
    pub principal: Arc<str>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "okno://{}/{}", self.cluster, self.principal)
    }
}

/// Why a certificate that its authority vouches for names nobody we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error(
        "the certificate names no identity: expected exactly one URI okno://<cluster>/<kind>/<id>, found {found}"
    )]
    Count { found: usize },
    #[error("{uri:?} is not okno://<cluster>/<kind>/<id>: {detail}")]
    Form { uri: String, detail: &'static str },
    #[error("the certificate is of cluster {found:?}, this is {expected:?}")]
    WrongCluster { found: String, expected: String },
    #[error("a certificate of kind {found} is not accepted here: expected {expected}")]
    WrongKind { found: &'static str, expected: &'static str },
}

impl IdentityError {
    /// Reason code of the refusal.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable | Self::Count { .. } | Self::Form { .. } => "CERTIFICATE_WITHOUT_IDENTITY",
            Self::WrongCluster { .. } => "CERTIFICATE_WRONG_CLUSTER",
            Self::WrongKind { .. } => "CERTIFICATE_WRONG_KIND",
        }
    }
}

const SCHEME: &str = "okno://";
/// Longest id: with its kind it stays below an entity key's bound.
const ID_BYTES_MAX: usize = 64;
const CLUSTER_BYTES_MAX: usize = 63;

/// The form of a cluster's name; the error says what was expected.
pub fn check_cluster_name(name: &str) -> Result<(), String> {
    let form_ok = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || name.len() > CLUSTER_BYTES_MAX || !form_ok {
        return Err(format!(
            "required: 1 to {CLUSTER_BYTES_MAX} of a-z, 0-9 and '-', as certificates name it; found {name:?}"
        ));
    }
    Ok(())
}

impl Caller {
    /// Reads an identity URI.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let form = |detail| IdentityError::Form { uri: uri.chars().take(200).collect(), detail };
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| form("another scheme"))?;
        let mut levels = rest.split('/');
        let (Some(cluster), Some(kind), Some(id), None) =
            (levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return Err(form("expected three levels"));
        };
        check_cluster_name(cluster).map_err(|_| form("not a cluster's name"))?;
        let kind = Kind::parse(kind).ok_or_else(|| form("unknown kind"))?;
        let id_ok =
            id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-' | b'@'));
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id_ok {
            return Err(form("expected an id of 1 to 64 letters, digits and . _ : - @"));
        }
        if kind == Kind::Peer && id.parse::<u64>().map_or(true, |n| n == 0 || n.to_string() != id) {
            return Err(form("a peer's id is its node id"));
        }
        Ok(Self {
            cluster: cluster.into(),
            kind,
            id: id.into(),
            principal: format!("{}/{id}", kind.name()).into(),
        })
    }

    /// Reads the identity of a certificate and checks its cluster.
    pub fn of_certificate(der: &[u8], cluster: &str) -> Result<Self, IdentityError> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|_| IdentityError::Unreadable)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris[..] else { return Err(IdentityError::Count { found: uris.len() }) };
        let caller = Self::parse(uri)?;
        if caller.cluster.as_ref() != cluster {
            return Err(IdentityError::WrongCluster {
                found: caller.cluster.to_string(),
                expected: cluster.to_owned(),
            });
        }
        Ok(caller)
    }

    /// Demands that a certificate is one for this node to present, to clients as to members.
    pub fn check_own(der: &[u8], cluster: &str, node: u64) -> Result<(), String> {
        let own = Self::of_certificate(der, cluster).map_err(|error| error.to_string())?;
        if own.node_id() == Some(node) {
            return Ok(());
        }
        Err(format!("expected okno://{cluster}/peer/{node}, found {own}"))
    }

    /// The node id of a peer.
    pub fn node_id(&self) -> Option<u64> {
        if self.kind == Kind::Peer { self.id.parse().ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read() {
        let caller = Caller::parse("okno://kuzbass/operator/ivanova.m").expect("good");
        assert_eq!((caller.kind, caller.principal.as_ref()), (Kind::Operator, "operator/ivanova.m"));
        assert_eq!(caller.to_string(), "okno://kuzbass/operator/ivanova.m");
        assert_eq!(Caller::parse("okno://kuzbass/peer/3").expect("good").node_id(), Some(3));
    }

    #[test]
    fn a_node_presents_its_own_certificate_and_no_other() {
        use crate::tls::testing::leaf_with_uris;
        let check = |uri: &str| Caller::check_own(&leaf_with_uris(&[uri]), "kuzbass", 3);
        assert_eq!(check("okno://kuzbass/peer/3"), Ok(()));
        for (uri, found) in [
            ("okno://kuzbass/peer/2", "expected okno://kuzbass/peer/3, found okno://kuzbass/peer/2"),
            ("okno://kuzbass/operator/3", "expected okno://kuzbass/peer/3, found okno://kuzbass/operator/3"),
            ("okno://altai/peer/3", "the certificate is of cluster \"altai\", this is \"kuzbass\""),
        ] {
            assert_eq!(check(uri), Err(found.to_owned()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for uri in [
            "",
            "okno://",
            "https://kuzbass/operator/a",
            "okno://kuzbass/operator",
            "okno://kuzbass/operator/",
            "okno://kuzbass/operator/a/b",
            "okno://kuzbass/Operator/a",
            "okno://kuzbass/root/a",
            "okno://Kuzbass/operator/a",
            "okno:///operator/a",
            "okno://kuzbass/operator/a b",
            "okno://kuzbass/operator/a\0",
            "okno://kuzbass/operator/иванова",
            "okno://kuzbass/peer/one",
            "okno://kuzbass/peer/0",
            "okno://kuzbass/peer/01",
            "okno://kuzbass/peer/+1",
        ] {
            assert!(matches!(Caller::parse(uri), Err(IdentityError::Form { .. })), "{uri}");
        }
        let long = format!("okno://kuzbass/operator/{}", "a".repeat(65));
        assert!(Caller::parse(&long).is_err());
    }

    #[test]
    fn a_certificate_must_name_exactly_one_identity_of_this_cluster() {
        let check = |uris: &[&str], expected: Result<&str, &str>| {
            let der = crate::tls::testing::leaf_with_uris(uris);
            let found = Caller::of_certificate(&der, "kuzbass");
            match (found, expected) {
                (Ok(caller), Ok(principal)) => assert_eq!(caller.principal.as_ref(), principal),
                (Err(error), Err(reason)) => assert_eq!(error.reason(), reason, "{error}"),
                (found, _) => panic!("{uris:?} gave {found:?}"),
            }
        };
        check(&["okno://kuzbass/admin/root"], Ok("admin/root"));
        check(&["https://example.org/", "okno://kuzbass/admin/root"], Ok("admin/root"));
        check(&[], Err("CERTIFICATE_WITHOUT_IDENTITY"));
        check(&["okno://kuzbass/admin/root", "okno://kuzbass/board/1"], Err("CERTIFICATE_WITHOUT_IDENTITY"));
        check(&["okno://altai/admin/root"], Err("CERTIFICATE_WRONG_CLUSTER"));
        check(&["okno://kuzbass/emperor/1"], Err("CERTIFICATE_WITHOUT_IDENTITY"));
        assert_eq!(Caller::of_certificate(b"rubbish", "kuzbass"), Err(IdentityError::Unreadable));
    }
}
