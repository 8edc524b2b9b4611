//! Copies of the database: taken for members that lack what was cut, sent, received, and kept until raft takes or refuses
//! them. The rules are the driver's (`core::snapshots`) and the storage's; here are threads and files.
//!
//! Invariants
//! - One copy at a time is taken or received, and none of it on the raft or apply thread; only the checkpoint itself
//!   touches the live database. A received one that raft has not judged yet counts: each is a whole database on the disk.
//! - A received copy is answered exactly once: installed, or why not.

use super::{fatal::EXIT_IO, hub::Hub};
use crate::{
    api::NodeId,
    core::{event::Event, steps},
    settings::level,
    status::REMEDY_REBUILD,
    transport::{CopyLimits, SnapshotSink},
};
use bytes::Bytes;
use okno_storage::{
    error::StorageError,
    identity::IdentityRecord,
    snapshot::{Candidate, CopyOf, Home, Manifest, Put, Receiver, SnapshotError, Source, Wanted},
};
use parking_lot::Mutex;
use prost_raft::Message as _;
use raft::eraftpb::Message;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release},
    },
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What became of a received copy.
pub type Verdict = Result<(), String>;

/// Whose copies: what only `identity` knows.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub cluster: Uuid,
    pub generation: u64,
    /// Where its hash chain begins.
    pub genesis: [u8; 32],
    /// It joined and has nothing yet: the generation it is told by its first copy.
    pub untold: bool,
}

impl Owner {
    pub fn of(record: &IdentityRecord, applied: u64) -> Self {
        Self {
            cluster: record.cluster,
            generation: record.later.generation,
            genesis: record.genesis_chain(),
            untold: record.later.joined && applied == 0,
        }
    }
}

pub struct Copies {
    /// `None`: this node neither takes nor installs copies (tests, and data that cannot be used).
    home: Option<Arc<dyn Home>>,
    owner: Mutex<Owner>,
    source: Mutex<Option<Arc<dyn Source>>>,
    /// Received, checked, and not yet taken by raft.
    candidates: Mutex<BTreeMap<u64, (Candidate, oneshot::Sender<Verdict>)>>,
    receiving: AtomicBool,
    next: AtomicU64,
    pub taken: AtomicU64,
    pub sent: AtomicU64,
    pub sent_failed: AtomicU64,
    pub installed: AtomicU64,
    pub refused: AtomicU64,
}

impl Copies {
    pub fn new(home: Option<Arc<dyn Home>>, owner: Owner) -> Self {
        Self {
            home,
            owner: Mutex::new(owner),
            source: Mutex::default(),
            candidates: Mutex::default(),
            receiving: AtomicBool::new(false),
            next: AtomicU64::new(1),
            taken: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_failed: AtomicU64::new(0),
            installed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub fn owner(&self) -> Owner {
        *self.owner.lock()
    }

    /// A copy was installed, and with it the generation of the cluster it is of.
    pub fn set_owner(&self, owner: Owner) {
        *self.owner.lock() = owner;
    }

    /// Takes a copy, in a thread of its own; answered by [`Event::Copied`].
    pub fn take(hub: &Arc<Hub>) {
        let own = hub.clone();
        let taking = std::thread::Builder::new().name("okno-copy".into()).spawn(move || {
            let hub = own;
            let Owner { cluster, generation, genesis, .. } = hub.copies.owner();
            let of = CopyOf { cluster, generation, genesis, node_id: hub.own };
            // Read at the rate it may be sent at: the disk is the live database's too.
            let mut pace = Pace::new(hub.settings.snapshot_bytes_per_second);
            let mut go_on = |bytes| {
                std::thread::sleep(pace.after(bytes));
                !hub.is_stopping()
            };
            let taken = match &hub.copies.home {
                Some(home) => home.take(&of, &mut go_on),
                None => Err(SnapshotError::GivenUp),
            };
            let copied = taken.and_then(|source| Ok((steps::copy_facts(source.manifest())?, source)));
            match copied {
                Ok((facts, source)) => {
                    tracing::info!(
                        index = facts.index,
                        bytes = source.manifest().total_bytes(),
                        "a copy is ready to be sent"
                    );
                    hub.copies.taken.fetch_add(1, Relaxed);
                    *hub.copies.source.lock() = Some(source);
                    hub.push(Event::Copied(Some(facts)));
                }
                Err(SnapshotError::Storage(error @ (StorageError::Io { .. } | StorageError::Engine(_)))) => {
                    // A full disk, or a failing one: the members' data path has the same disk and will say which.
                    tracing::error!(%error, "no copy can be taken for a member that needs one");
                    hub.push(Event::Copied(None));
                }
                Err(SnapshotError::Storage(error @ StorageError::Corrupt { .. })) => {
                    // Taking a copy reads everything (rule 12).
                    hub.push(Event::Copied(None));
                    hub.quarantine(&format!("taking a copy found damage: {error}"), REMEDY_REBUILD);
                }
                Err(error) => {
                    tracing::warn!(%error, "no copy was taken");
                    hub.push(Event::Copied(None));
                }
            }
        });
        if let Err(error) = taking {
            tracing::error!(%error, "no thread to take a copy");
            hub.push(Event::Copied(None));
        }
    }

    pub fn drop_copy(&self) {
        *self.source.lock() = None;
    }

    /// Sends the copy that raft's message speaks of; answered by [`Event::Sent`].
    pub fn send(hub: &Arc<Hub>, message: Message) {
        let to = message.to;
        let index = message.get_snapshot().get_metadata().index;
        let source = hub.copies.source.lock().clone().filter(|s| s.manifest().index == index);
        let transport = hub.transport.get().cloned();
        let (Some(source), Some(transport)) = (source, transport) else {
            return hub.push(Event::Sent { to, installed: false });
        };
        let limits = CopyLimits { bytes_per_second: hub.settings.snapshot_bytes_per_second };
        let sending = transport.send_copy(to, source, message.encode_to_vec().into(), limits);
        let own = hub.clone();
        hub.runtime.spawn(async move {
            let result = sending.await;
            let count = if result.is_ok() { &own.copies.sent } else { &own.copies.sent_failed };
            count.fetch_add(1, Relaxed);
            match &result {
                Ok(()) => tracing::info!(to, index, "a copy was sent and installed"),
                Err(why) => tracing::warn!(to, index, %why, "a copy was not installed"),
            }
            own.push(Event::Sent { to, installed: result.is_ok() });
        });
    }

    /// Raft takes it: it is to be installed now.
    pub fn claim(&self, copy: u64) -> Option<(Candidate, oneshot::Sender<Verdict>)> {
        self.candidates.lock().remove(&copy)
    }

    /// Raft does not need it.
    pub fn discard(&self, copy: u64) {
        if let Some((candidate, tell)) = self.claim(copy) {
            drop(candidate);
            self.refused.fetch_add(1, Relaxed);
            let _ = tell.send(Err("raft has no need of it".into()));
        }
    }

    /// Refuses what can be seen from the manifest alone.
    fn check(hub: &Hub, manifest: &Manifest) -> Result<(), SnapshotError> {
        let owner = hub.copies.owner();
        let generation = if owner.untold { manifest.generation } else { owner.generation };
        if (manifest.cluster, manifest.generation) != (owner.cluster, generation) {
            return Err(SnapshotError::Foreign {
                found: format!("cluster {} generation {}", manifest.cluster, manifest.generation),
                own: format!("cluster {} generation {}", owner.cluster, owner.generation),
            });
        }
        if manifest.level > level::known() {
            return Err(SnapshotError::Newer { level: manifest.level });
        }
        let (applied, _) = hub.reader.applied();
        if manifest.index <= applied {
            return Err(SnapshotError::Old { index: manifest.index, applied });
        }
        if manifest.members.get(hub.own).is_none() {
            return Err(SnapshotError::NotAMember { index: manifest.index, node_id: hub.own });
        }
        Ok(())
    }

    /// A member begins to send a copy. `Err`: refused.
    pub fn receive(
        hub: &Arc<Hub>,
        from: NodeId,
        manifest: &[u8],
        message: &[u8],
    ) -> Result<Box<dyn SnapshotSink>, String> {
        let home = hub.copies.home.clone().ok_or("this node takes no copies")?;
        let manifest = Manifest::decode(manifest).map_err(|e| e.to_string())?;
        let message = Message::decode(message).map_err(|_| "raft's message is malformed")?;
        let said = message.get_snapshot().get_metadata();
        if message.from != from || (said.index, said.term) != (manifest.index, manifest.term) {
            return Err("raft's message and the manifest differ".into());
        }
        let facts = steps::copy_facts(&manifest).map_err(|e| e.to_string())?;
        if said.get_conf_state() != &facts.conf_state {
            return Err("raft's message and the manifest name different configurations".into());
        }
        if let Err(why) = Self::check(hub, &manifest) {
            if matches!(why, SnapshotError::Old { .. }) {
                hub.push(Event::NotNeeded { from, message: Box::new(message) });
            }
            return Err(why.to_string());
        }
        if hub.copies.receiving.swap(true, AcqRel) {
            return Err("another copy is being received".into());
        }
        let busy = Receiving(hub.clone());
        // Its sender need not have waited for the verdict.
        if !hub.copies.candidates.lock().is_empty() {
            return Err("a copy that was received is not judged yet".into());
        }
        let place = home.incoming().map_err(|e| busy.fail(e.into()))?;
        let stopping = hub.clone();
        let receiver =
            Receiver::begin(manifest, place, &mut |_| !stopping.is_stopping()).map_err(|e| busy.fail(e))?;
        Ok(Box::new(Sink { busy, home, from, message, receiver: Some(receiver) }))
    }
}

/// One transfer is under way.
struct Receiving(Arc<Hub>);

impl Receiving {
    /// A disk that fails on the data path ends the process (rule 12).
    fn fail(&self, error: SnapshotError) -> String {
        if let SnapshotError::Storage(StorageError::Io { .. }) = &error {
            self.0.fatal.exit(EXIT_IO, &format!("receiving a copy: {error}"));
        }
        error.to_string()
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.copies.receiving.store(false, Release);
    }
}

struct Sink {
    busy: Receiving,
    home: Arc<dyn Home>,
    from: NodeId,
    message: Message,
    receiver: Option<Receiver>,
}

impl SnapshotSink for Sink {
    fn wanted(&self) -> Option<Wanted> {
        self.receiver.as_ref().and_then(Receiver::wanted)
    }

    fn put(&mut self, at: Wanted, data: &Bytes, crc: u32) -> Result<Option<String>, String> {
        let Some(receiver) = &mut self.receiver else { return Err("the copy is complete".into()) };
        match receiver.put(at, data, crc) {
            Ok(Put::Taken) => Ok(None),
            Ok(Put::Refused(why) | Put::Damaged(why)) => Ok(Some(why)),
            Err(error) => Err(self.busy.fail(error)),
        }
    }

    fn finish(&mut self) -> Result<oneshot::Receiver<Verdict>, String> {
        let receiver = self.receiver.take().ok_or("the copy is complete")?;
        let candidate = self.home.candidate(receiver).map_err(|e| self.busy.fail(e))?;
        let hub = &self.busy.0;
        let (tell, hear) = oneshot::channel();
        let copy = hub.copies.next.fetch_add(1, Relaxed);
        hub.copies.candidates.lock().insert(copy, (candidate, tell));
        let message = Box::new(std::mem::take(&mut self.message));
        hub.push(Event::Received { from: self.from, message, copy });
        Ok(hear)
    }
}

/// Bytes in a second, kept by sleeping; 0: no limit.
pub struct Pace {
    per_second: u64,
}

impl Pace {
    pub fn new(per_second: u64) -> Self {
        Self { per_second }
    }

    /// How long these bytes may take.
    pub fn after(&mut self, bytes: u64) -> std::time::Duration {
        let micros = bytes.saturating_mul(1_000_000).checked_div(self.per_second).unwrap_or(0);
        std::time::Duration::from_micros(micros)
    }
}
