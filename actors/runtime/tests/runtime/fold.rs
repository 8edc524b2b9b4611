//! Rule 8 through the codec: what is loaded from the rows that commits wrote is what the cell folded, whatever the
//! history; and what stands in a commit twice would stand in it once.

use crate::{
    node::{START_MS, entry, store, time_commit},
    probe::{Probe, script},
    world::{document, fixture, open_command, request_at},
};
use okno_domain::{
    case::{Case, Step},
    catalogue::{Catalogue, files},
    directory::{self, Directory},
    entity::{Entity, EntityRef, EventMeta, Kind, Origin, Principal},
    ids,
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
    commit::{Body, Commit, Outcome, RequestKey, RequestRef},
    state::StateStore,
};
use proptest::prelude::*;
use std::sync::Arc;

pub fn env() -> CellEnv {
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
        worlds: Arc::new(Worlds::fixed(catalogue, directory)),
        depths: Arc::new(Depths::default()),
        counter: CommitCounter::default(),
        node: Principal { kind: "node".into(), id: "1".into() },
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
        let mut store = store();
        let first = time_commit(1, 1, START_MS).encode().expect("a small commit");
        store.apply(&[entry(1, 1, first)], 1).expect("applies");
        let this = EntityRef { kind: E::KIND, id: id.into() };
        let cell = cell_of::<E>(&store.reader().view(), this.clone(), 1).expect("readable").expect("usable");
        Self { store, cell, this, env: env(), now_ms: START_MS, requests: 0 }
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

fn words() -> impl Strategy<Value = String> {
    let part = || prop_oneof!["[a-d]", "row[a-c]"];
    prop_oneof![
        5 => (part(), "[a-z]{1,90}").prop_map(|(part, text)| format!("put {part} {text}")),
        2 => part().prop_map(|part| format!("drop {part}")),
        1 => ("[xyz]", 0..1_000_i64).prop_map(|(name, after)| format!("put t 1; timer {name} {}", START_MS + after)),
        1 => "[xyz]".prop_map(|name| format!("clear {name}")),
        1 => Just("quiet".to_owned()),
        1 => Just("refuse".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn load_equals_fold(scripts in proptest::collection::vec(proptest::collection::vec(words(), 1..4), 1..25)) {
        let mut bench = Bench::<Probe>::new("probe-fold");
        for words in scripts {
            bench.now_ms += 7;
            match bench.run(origin("admin", "root"), script(&words.join("; "))) {
                CellOutput::Proposed { data, .. } => bench.apply(&data),
                CellOutput::Refused { spoiled: false, .. } => {}
                other => prop_assert!(false, "{other:?}"),
            }
            bench.check();
        }
        // The timers a rebuilt cell knows are the rows that are there.
        let view = bench.store.reader().view();
        let rows = view.timers(None, i64::MAX, 100).expect("readable");
        let loaded = load_state::<Probe>(&view, &bench.this).expect("readable");
        if let Some(loaded) = loaded {
            let mut known = loaded.timers;
            // A timer cleared by a decision without events leaves its line in the stored list until the next one.
            known.retain(|timer| rows.contains(timer));
            known.sort();
            prop_assert_eq!(known, rows);
        }
    }
}

/// The real case, through its life: as stored, as folded.
#[test]
fn a_case_loads_as_it_was_folded() {
    let anna = origin("operator", "anna");
    let request = request_at(START_MS, 1);
    let id = ids::case_id(&anna.principal, request);
    let mut bench = Bench::<Case>::new(&id);
    let opened = bench.run_as(anna.clone(), AnyCommand::Case(open_command(None)), request);
    let mut outputs = vec![opened];
    for n in 0..3 {
        outputs.push(bench.run(anna.clone(), document(&format!("пример {n}"))));
    }
    let accept = AnyCommand::Case(okno_domain::case::Command::Advance { step: Step::Accept });
    outputs.push(bench.run(anna, accept));
    for output in outputs {
        let CellOutput::Proposed { data, .. } = output else { panic!("{output:?}") };
        bench.apply(&data);
    }
    bench.check();
    assert_eq!(bench.cell.state().documents().len(), 3);
}

/// Design §2: a body stands in a commit once; a document of about 1 KB makes a commit little larger than itself.
#[test]
fn a_body_stands_in_a_commit_once() {
    let anna = origin("operator", "anna");
    let request = request_at(START_MS, 1);
    let id = ids::case_id(&anna.principal, request);
    let mut bench = Bench::<Case>::new(&id);
    let opened = bench.run_as(anna.clone(), AnyCommand::Case(open_command(None)), request);
    let CellOutput::Proposed { data, .. } = opened else { panic!("{opened:?}") };
    bench.apply(&data);
    let output = bench.run(anna, document(&"п".repeat(480)));
    let CellOutput::Proposed { data, .. } = output else { panic!("{output:?}") };
    let commit = Commit::decode(&data).expect("what was encoded can be decoded");
    assert_eq!(commit.parts.len(), 1);
    let part = commit.parts[0].value.as_ref().expect("written");
    assert!(matches!(part.body, Body::OfEvent { event: 0, .. }), "{:?}", part.body);
    assert_eq!(commit.rows, [], "a document changes no index row (design §9)");
    assert!(data.len() < 1_500, "{} bytes for a document of 1 KB", data.len());
    assert_eq!(Kind::Case.name(), commit.entity.kind());
}
