//! One entity over a store of its own, without shards: work in, commit applied, loaded again.

use crate::{
    node::{START_MS, entry, store, time_commit},
    world::{fixture, request_at},
};
use okno_domain::{
    catalogue::{Catalogue, files},
    directory::{self, Directory},
    entity::{Entity, EntityRef, EventMeta, Origin, Principal},
    registry::{AnyCommand, Registered},
};
use okno_runtime::{
    cell::{AnyCell, Cell, CellEnv, CellInput, CellOutput, CommitCounter},
    depth::Depths,
    load::{cell_of, load_state},
    work::{CallWork, Work, entity_key},
    world::Worlds,
};
use okno_storage::{
    commit::{Outcome, RequestKey, RequestRef},
    level::FEATURE_LEVEL,
    state::StateStore,
};
use std::sync::Arc;

/// What a cell decides with, in a cluster at this feature level.
pub fn env(level: u32) -> CellEnv {
    let load = files::read(&[fixture()], &Catalogue::empty("region")).expect("the fixture is right");
    let catalogue = Catalogue::of(&load).expect("the fixture is right");
    let mut directory = Directory::empty("region");
    let meta = EventMeta { time_ms: START_MS, origin: origin("admin", "root") };
    let office = directory::Office {
        code: "tikhaya".into(),
        name: "МФЦ «Тихая улица»".into(),
        utc_offset_minutes: 420,
        ..directory::Office::default()
    };
    directory.evolve(&directory::Event::OfficePut(Arc::new(office)), &meta);
    let person = directory::Person {
        id: "anna".into(),
        name: "Вымыслова Анна".into(),
        role: directory::Role::Officer,
        offices: vec!["tikhaya".into()],
    };
    directory.evolve(&directory::Event::PersonPut(Arc::new(person)), &meta);
    CellEnv {
        worlds: Arc::new(Worlds::fixed(catalogue, directory, level)),
        depths: Arc::new(Depths::default()),
        counter: CommitCounter::default(),
        node: Principal { kind: "node".into(), id: "1".into() },
        generation: Arc::new(|| 1),
    }
}

pub fn origin(kind: &str, id: &str) -> Origin {
    Origin { principal: Principal { kind: kind.into(), id: id.into() }, workstation: "ws-1".into() }
}

pub fn call(entity: &EntityRef, origin: Origin, request: uuid::Uuid, command: AnyCommand) -> Arc<Work> {
    let principal = format!("{}/{}", origin.principal.kind, origin.principal.id);
    Arc::new(Work::Call(CallWork {
        entity: entity_key(entity).expect("a good id"),
        origin,
        request: RequestRef { key: RequestKey { id: request, principal }, hash: [3; 32] },
        command,
        expires_ms: u64::MAX,
    }))
}

/// One entity over a store of its own.
pub struct Bench<E: Registered> {
    pub store: StateStore,
    pub cell: Cell<E>,
    pub this: EntityRef,
    pub env: CellEnv,
    pub now_ms: i64,
    requests: u64,
}

impl<E: Registered> Bench<E> {
    pub fn new(id: &str) -> Self {
        Self::at_level(id, FEATURE_LEVEL)
    }

    pub fn at_level(id: &str, level: u32) -> Self {
        let mut store = store();
        let first = time_commit(1, 1, START_MS).encode().expect("a small commit");
        store.apply(&[entry(1, 1, first)], 1).expect("applies");
        let this = EntityRef { kind: E::KIND, id: id.into() };
        let cell = cell_of::<E>(&store.reader().view(), this.clone(), 1).expect("readable").expect("usable");
        Self { store, cell, this, env: env(level), now_ms: START_MS, requests: 1_000 }
    }

    pub fn run(&mut self, origin: Origin, command: AnyCommand) -> CellOutput {
        self.requests += 1;
        let request = request_at(START_MS, self.requests);
        self.run_as(origin, command, request)
    }

    pub fn run_as(&mut self, origin: Origin, command: AnyCommand, request: uuid::Uuid) -> CellOutput {
        let work = call(&self.this, origin, request, command);
        self.cell.handle(&CellInput { work, stamp_ms: self.now_ms, commit_refusal: false }, &self.env)
    }

    /// Applies what was proposed and loads what then stands there.
    pub fn apply(&mut self, data: &bytes::Bytes) {
        let index = self.store.mark().index + 1;
        let slice = self.store.apply(&[entry(index, 1, data.clone())], index).expect("applies");
        assert_eq!(slice.entries[0].outcome, Outcome::Applied);
    }

    pub fn check(&self) {
        let view = self.store.reader().view();
        let loaded = load_state::<E>(&view, &self.this).expect("readable");
        let state = loaded.map_or_else(|| <E as Entity>::empty(&self.this.id), |loaded| loaded.state);
        assert_eq!(&state, self.cell.state(), "loaded from rows is not what was folded");
    }
}
