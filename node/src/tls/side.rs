//! What one side (clients or peers) has in force, and how new files are taken over.

use super::{
    connection::Connections,
    material::{Material, TlsError},
};
use crate::{
    observability::alarms::{Alarms, kinds},
    settings::TlsSection,
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{ServerConfig, pki_types::UnixTime};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

/// The certificates in force.
pub struct InForce {
    pub material: Arc<Material>,
    pub server: Arc<ServerConfig>,
}

/// What a reload came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Reload {
    Unchanged,
    /// Taken over; so many connections no longer passed and were closed.
    Replaced {
        closed: usize,
    },
    /// The files cannot be used: the old ones stay in force and an alarm stands.
    Refused {
        reason: String,
    },
}

/// One side of the node's TLS. Invariant: what is in force was checked as a whole.
pub struct Side {
    /// `clients` or `peers`; names alarms and metrics.
    pub name: &'static str,
    /// The cluster certificates must name.
    pub cluster: Arc<str>,
    section: TlsSection,
    in_force: ArcSwap<InForce>,
    pub connections: Arc<Connections>,
    alarms: Arc<Alarms>,
    /// Checked on every new own certificate: see [`Side::require_own`].
    own_check: OnceLock<OwnCheck>,
    /// Why the files that lie there now are not taken over: said once, they are looked at again and again.
    refused: Mutex<Option<String>>,
}

/// Says what is wrong with a certificate we would present ourselves.
pub type OwnCheck = Box<dyn Fn(&Material) -> Result<(), String> + Send + Sync>;

impl Side {
    pub fn load(
        name: &'static str,
        cluster: &str,
        section: TlsSection,
        alarms: Arc<Alarms>,
    ) -> Result<Arc<Self>, TlsError> {
        let material = Arc::new(Material::load(&section)?);
        let server = Arc::new(material.server_config()?);
        let side = Self {
            name,
            cluster: cluster.into(),
            section,
            in_force: ArcSwap::from_pointee(InForce { material, server }),
            connections: Arc::new(Connections::default()),
            alarms,
            own_check: OnceLock::new(),
            refused: Mutex::default(),
        };
        side.watch_expiry(UnixTime::now());
        Ok(Arc::new(side))
    }

    /// Demands something of our own certificate, now and at every reload.
    pub fn require_own(&self, check: OwnCheck) -> Result<(), String> {
        check(&self.in_force.load().material)?;
        // A second demand would be a mistake of the caller; the first stays.
        let _ = self.own_check.set(check);
        Ok(())
    }

    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Files whose change matters.
    pub fn files(&self) -> Vec<PathBuf> {
        let section = &self.section;
        let mut files = vec![section.ca.clone(), section.certificate.clone(), section.key.clone()];
        files.extend(section.revocation_lists.iter().cloned());
        files
    }

    /// Reads the files again. Reads disks and checks signatures: call it off the network threads.
    pub fn reload(&self) -> Reload {
        let now = UnixTime::now();
        let alarm = if self.name == "clients" { kinds::TLS_CLIENTS_FILES } else { kinds::TLS_PEERS_FILES };
        let loaded = Material::load(&self.section).and_then(|material| {
            let old = self.in_force.load();
            if material.digest() == old.material.digest() {
                return Ok(None);
            }
            material.check_not_older(&old.material)?;
            if let Some(check) = self.own_check.get() {
                check(&material).map_err(|detail| TlsError::Rejected { what: "own certificate", detail })?;
            }
            let server = Arc::new(material.server_config()?);
            let verifier = material.client_verifier()?;
            Ok(Some((InForce { material: Arc::new(material), server }, verifier)))
        });
        let outcome = match loaded {
            Ok(None) => {
                self.alarms.clear(alarm);
                Reload::Unchanged
            }
            Ok(Some((in_force, verifier))) => {
                self.in_force.store(Arc::new(in_force));
                self.alarms.clear(alarm);
                let closed = self.connections.recheck(verifier.as_ref(), now);
                tracing::info!(side = self.name, closed, "certificates taken over");
                Reload::Replaced { closed }
            }
            Err(error) => {
                let reason = crate::observability::chain(&error);
                if self.refused.lock().replace(reason.clone()).as_ref() != Some(&reason) {
                    tracing::warn!(
                        side = self.name,
                        reason,
                        "new certificate files refused, the old ones stay in force"
                    );
                }
                if !error.is_for_want_of_descriptors() {
                    self.alarms.raise((alarm, reason.clone()));
                }
                Reload::Refused { reason }
            }
        };
        if !matches!(outcome, Reload::Refused { .. }) {
            self.refused.lock().take();
        }
        self.watch_expiry(now);
        outcome
    }

    /// Raises or clears the alarms that depend on time alone.
    fn watch_expiry(&self, now: UnixTime) {
        const NOTICE_SECONDS: i64 = 14 * 24 * 3600;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let material = self.in_force.load().material.clone();
        let (lists, ends, own) = match self.name {
            "clients" => (
                kinds::TLS_CLIENTS_REVOCATION_LISTS,
                kinds::TLS_CLIENTS_REVOCATION_ENDS,
                kinds::TLS_CLIENTS_CERTIFICATE,
            ),
            _ => (
                kinds::TLS_PEERS_REVOCATION_LISTS,
                kinds::TLS_PEERS_REVOCATION_ENDS,
                kinds::TLS_PEERS_CERTIFICATE,
            ),
        };
        let expired = material.lists_expired(now).first().map(|path| {
            format!("{} has passed its next update: new connections are refused", path.display())
        });
        self.alarms.set(lists, expired);
        let ending = material.lists_ending(now).first().map(|(path, left)| {
            format!("{} ends in {} h: nobody is let in then", path.display(), left / 3_600)
        });
        self.alarms.set(ends, ending);
        let left = material.not_after() - now;
        let near = left < NOTICE_SECONDS;
        self.alarms
            .set(own, near.then(|| format!("our certificate ends in {} days", left.div_euclid(24 * 3600))));
    }
}
