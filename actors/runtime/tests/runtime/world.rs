//! Callers, calls and a runtime for tests.

use crate::{
    node::{Node, Running},
    probe::Probe,
};
use bytes::Bytes;
use okno_cluster::{ForwardError, NodeId};
use okno_domain::{
    case, catalogue,
    catalogue::{Catalogue, SourceFile, files},
    directory,
    entity::{Entity, EntityRef, Kind, Principal},
    ids,
    people::{Applicant, Person, PersonName},
    queue,
    registry::{AnyCommand, AnyReply},
};
use okno_runtime::{
    Call, CallResult, Forwarder, RuntimeHandle, RuntimeSettings, SystemCall, SystemResult,
    load::{CellFactory, Loaded, StorageCells, cell_of},
    runtime::Runtime,
};
use okno_storage::{
    commit::{EntityKey, SystemOp},
    error::StorageError,
    state::StateReader,
};
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Cells as in production, except that `directory/probe…` are probes.
pub struct ProbeCells {
    pub reader: StateReader,
    pub storage: StorageCells,
}

impl CellFactory for ProbeCells {
    fn load(&self, key: &EntityKey, term: u64) -> Result<Loaded, StorageError> {
        if key.kind() != "directory" || !key.id().starts_with("probe") {
            return self.storage.load(key, term);
        }
        let view = self.reader.view();
        if let Some(reason) = view.quarantined(key)? {
            return Ok(Loaded::Quarantined(reason));
        }
        let this = EntityRef { kind: Kind::Directory, id: key.id().to_owned() };
        Ok(match cell_of::<Probe>(&view, this, term)? {
            Ok(cell) => Loaded::Cell(Box::new(cell)),
            Err(reason) => Loaded::Unusable(reason),
        })
    }
}

/// Nobody to forward to.
pub struct Nowhere;

impl Forwarder for Nowhere {
    fn forward(
        &self,
        _: NodeId,
        _: Bytes,
        _: Instant,
    ) -> futures::future::BoxFuture<'static, Result<Bytes, ForwardError>> {
        Box::pin(async { Err(ForwardError::NotSent) })
    }
}

pub struct World {
    pub log: Running,
    pub runtime: RuntimeHandle,
    requests: AtomicU64,
}

pub fn admin() -> Principal {
    Principal { kind: "admin".into(), id: "root".into() }
}

pub fn anna() -> Principal {
    Principal { kind: "operator".into(), id: "anna".into() }
}

pub fn probe(id: &str) -> EntityRef {
    EntityRef { kind: Kind::Directory, id: format!("probe{id}") }
}

pub fn settings(node_id: u64) -> RuntimeSettings {
    let fatal = Arc::new(|reason: okno_runtime::End| panic!("the process would end: {reason}"));
    RuntimeSettings { arbiters: 1, shards: 1, ..RuntimeSettings::new(node_id, fatal) }
}

pub fn start(
    log: &Node,
    settings: RuntimeSettings,
    proposer: Arc<Node>,
    forwarder: Arc<dyn Forwarder>,
) -> RuntimeHandle {
    let cells = ProbeCells { reader: log.reader.clone(), storage: StorageCells::new(log.reader.clone()) };
    let runtime = Runtime::start_with(settings, proposer, log.reader.clone(), forwarder, Arc::new(cells))
        .expect("the runtime starts");
    log.add_listener(runtime.listener());
    runtime
}

impl World {
    pub fn new() -> Self {
        Self::with(settings(1))
    }

    pub fn with(settings: RuntimeSettings) -> Self {
        Self::on(Node::start(), settings)
    }

    pub fn on(log: Running, settings: RuntimeSettings) -> Self {
        let runtime = start(&log, settings, Arc::clone(&log), Arc::new(Nowhere));
        Self { log, runtime, requests: AtomicU64::new(0) }
    }

    /// A request id made now by the test's clock.
    pub fn request(&self) -> Uuid {
        let n = self.requests.fetch_add(1, Ordering::SeqCst);
        let ms = self.log.clock_ms.load(Ordering::SeqCst);
        request_at(ms, n)
    }

    pub fn call_as(&self, principal: &Principal, target: &EntityRef, command: AnyCommand) -> Call {
        self.call_with(principal, target, command, self.request())
    }

    pub fn call_with(
        &self,
        principal: &Principal,
        target: &EntityRef,
        command: AnyCommand,
        request: Uuid,
    ) -> Call {
        let mut hash = Sha256::new();
        hash.update(format!("{target} {command:?}"));
        Call {
            principal: principal.clone(),
            workstation: "ws-1".into(),
            request_id: request,
            attempt: 1,
            hash: hash.finalize().into(),
            target: target.clone(),
            command,
            deadline: Instant::now() + Duration::from_secs(20),
            trace: String::new(),
        }
    }

    pub async fn run(&self, target: &EntityRef, script: &str) -> CallResult {
        self.runtime.gateway.call(self.call_as(&admin(), target, crate::probe::script(script))).await
    }

    pub async fn done(&self, principal: &Principal, target: &EntityRef, command: AnyCommand) -> AnyReply {
        match self.runtime.gateway.call(self.call_as(principal, target, command)).await {
            CallResult::Done { reply, .. } => reply,
            other => panic!("{target}: {other:?}"),
        }
    }

    pub async fn system(&self, principal: &Principal, op: SystemOp) -> SystemResult {
        self.system_attempt(principal, op, 1).await
    }

    pub async fn system_attempt(&self, principal: &Principal, op: SystemOp, attempt: u32) -> SystemResult {
        let call = SystemCall {
            principal: principal.clone(),
            workstation: String::new(),
            request_id: self.request(),
            attempt,
            hash: [1; 32],
            op,
            deadline: Instant::now() + Duration::from_secs(20),
            trace: String::new(),
        };
        self.runtime.gateway.system(call).await
    }

    /// A catalogue, an office with a window, an officer.
    pub async fn furnish(&self) {
        let load = files::read(&[fixture()], &Catalogue::empty("region")).expect("the fixture is right");
        let target = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.into() };
        self.done(&admin(), &target, AnyCommand::Catalogue(catalogue::Command::Load(load))).await;
        let office = directory::Office {
            code: "tikhaya".into(),
            name: "МФЦ «Тихая улица»".into(),
            utc_offset_minutes: 420,
            kiosks: vec!["kiosk-1".into()],
            ..directory::Office::default()
        };
        let window = directory::Window {
            office: "tikhaya".into(),
            number: "1".into(),
            ticket_groups: Vec::new(),
            workstation: "ws-1".into(),
        };
        let person = directory::Person {
            id: "anna".into(),
            name: "Вымыслова Анна".into(),
            role: directory::Role::Officer,
            offices: vec!["tikhaya".into()],
        };
        let target = EntityRef { kind: Kind::Directory, id: directory::ENTITY_ID.into() };
        for command in [
            directory::Command::PutOffice(office),
            directory::Command::PutWindow(window),
            directory::Command::PutPerson(person),
        ] {
            self.done(&admin(), &target, AnyCommand::Directory(command)).await;
        }
    }

    /// Opens a case from a ticket, if one is given. Returns its id.
    pub async fn open(&self, ticket: Option<queue::TicketRef>) -> EntityRef {
        let request = self.request();
        let target = EntityRef { kind: Kind::Case, id: ids::case_id(&anna(), request) };
        let call = self.call_with(&anna(), &target, AnyCommand::Case(open_command(ticket)), request);
        match self.runtime.gateway.call(call).await {
            CallResult::Done { .. } => target,
            other => panic!("{other:?}"),
        }
    }

    pub async fn stop(self) {
        self.runtime.shutdown().await;
        drop(self.log);
    }
}

/// The catalogue of the domain's tests: nothing in it is real.
pub fn fixture() -> SourceFile {
    SourceFile::new("catalogue.toml", include_str!("../../../domain/tests/fixtures/catalogue.toml"))
}

pub fn open_command(ticket: Option<queue::TicketRef>) -> case::Command {
    let person = Person {
        name: PersonName {
            last_name: "Образцов".into(), first_name: "Пётр".into(), ..PersonName::default()
        },
        snils: "112-233-445 95".into(),
        ..Person::default()
    };
    case::Command::Open {
        office: "tikhaya".into(),
        service: "paper".into(),
        applicants: vec![Applicant::Person(person)],
        ticket,
        note: "пример".into(),
    }
}

pub fn document(note: &str) -> AnyCommand {
    AnyCommand::Case(case::Command::AddDocument {
        kind: "passport".into(),
        form: case::DocumentForm::Original,
        sheets: 2,
        reference: "00 00 000000".into(),
        note: note.into(),
    })
}

/// The `n`-th request id of a moment.
pub fn request_at(ms: i64, n: u64) -> Uuid {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(ms).expect("after 1970"), &random).into_uuid()
}

/// Waits until something holds; 10 s is far beyond what anything here takes.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never came about: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An entity's state as applied.
pub fn applied<E: okno_domain::registry::Registered>(reader: &StateReader, id: &str) -> E {
    let this = EntityRef { kind: E::KIND, id: id.to_owned() };
    let loaded = okno_runtime::load::load_state::<E>(&reader.view(), &this).expect("readable");
    loaded.map_or_else(|| <E as Entity>::empty(id), |loaded| loaded.state)
}
