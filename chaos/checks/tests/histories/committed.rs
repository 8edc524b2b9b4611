//! The files under `histories/`: each bad one breaks exactly the invariants it names, each good one none.

use okno_checks::{examine::examine, history::History, invariants::Invariant};
use serde::Deserialize;
use std::{collections::BTreeSet, path::Path};

#[derive(Deserialize)]
struct Committed {
    about: String,
    #[serde(default)]
    breaks: BTreeSet<Invariant>,
    history: History,
}

fn committed(kind: &str) -> Vec<(String, Committed)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories").join(kind);
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of histories is there")
        .map(|entry| {
            let path = entry.expect("the folder can be read").path();
            let text = std::fs::read_to_string(&path).expect("a history can be read");
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (name, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

#[test]
fn bad_histories_are_rejected_for_what_is_wrong() {
    let bad = committed("bad");
    assert!(bad.len() >= 15, "only {} bad histories", bad.len());
    for (name, Committed { about, breaks, history }) in bad {
        assert!(!breaks.is_empty(), "{name} names no invariant");
        let examined = examine(&history);
        assert_eq!(examined.undecided, 0, "{name}");
        let broken: BTreeSet<_> =
            examined.verdicts.iter().filter(|verdict| !verdict.held).map(|verdict| verdict.id).collect();
        assert_eq!(broken, breaks, "{name}: {about}\n{:#?}", examined.verdicts);
    }
}

#[test]
fn good_histories_are_accepted() {
    let good = committed("good");
    assert!(good.len() >= 8, "only {} good histories", good.len());
    for (name, Committed { about, breaks, history }) in good {
        assert!(breaks.is_empty(), "{name} is good");
        let examined = examine(&history);
        assert!(examined.held(), "{name}: {about}\n{:#?}", examined.verdicts);
    }
}

#[test]
fn a_history_survives_being_written() {
    for (name, Committed { history, .. }) in committed("bad").into_iter().chain(committed("good")) {
        let text = serde_json::to_string(&history).expect("a history can be written");
        let again: History = serde_json::from_str(&text).expect("what was written can be read");
        assert_eq!(again, history, "{name}");
    }
}

#[test]
fn the_shortest_broken_part_is_told() {
    let (_, lost) =
        committed("bad").into_iter().find(|(name, _)| name == "lost-update").expect("it is committed");
    let examined = examine(&lost.history);
    let told = examined.verdicts.iter().find(|verdict| !verdict.held).map(|verdict| verdict.detail.clone());
    let told = told.expect("it is broken");
    assert!(told.contains("case c1: no order of the 3 operations that had ended by 7"), "{told}");
    assert!(told.contains("client 2: AddDocument"), "{told}");
}
