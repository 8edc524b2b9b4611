//! Rule 8 through the codec: what is loaded from the rows that commits wrote is what the cell folded, whatever the
//! history; and what stands in a commit twice would stand in it once.

use crate::{
    bench::{Bench, origin},
    node::START_MS,
    probe::{Probe, script},
    world::{document, open_command, request_at},
};
use okno_domain::{
    case::{Case, Step},
    entity::Kind,
    ids,
    registry::AnyCommand,
};
use okno_runtime::{cell::CellOutput, load::load_state};
use okno_storage::commit::{Body, Commit};
use proptest::prelude::*;

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
