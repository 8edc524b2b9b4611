//! The model's table of steps is written by hand; `docs/case-states.md` is made from the domain. They must agree.

use okno_checks::{
    history::{Stage, Step},
    models::case::possible,
};
use std::{collections::BTreeSet, path::Path};

const STAGES: [Stage; 12] = [
    Stage::Draft,
    Stage::Accepted,
    Stage::Interagency,
    Stage::AtAuthority,
    Stage::Suspended,
    Stage::ResultReceived,
    Stage::Refused,
    Stage::ReadyForIssue,
    Stage::Issued,
    Stage::Withdrawn,
    Stage::Unclaimed,
    Stage::Archived,
];

fn steps() -> Vec<(&'static str, Step)> {
    vec![
        ("accept", Step::Accept),
        ("request-interagency", Step::RequestInteragency),
        ("interagency-answered", Step::InteragencyAnswered { request: 1 }),
        ("send-to-authority", Step::SendToAuthority),
        ("suspend", Step::Suspend { reason: String::new() }),
        ("resume", Step::Resume),
        ("receive-result", Step::ReceiveResult),
        ("receive-refusal", Step::ReceiveRefusal),
        ("make-ready", Step::MakeReady),
        ("issue", Step::Issue),
        ("withdraw", Step::Withdraw),
        ("mark-unclaimed", Step::MarkUnclaimed),
        ("archive", Step::Archive),
    ]
}

#[test]
fn the_model_has_the_documented_steps() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/case-states.md");
    let text = std::fs::read_to_string(path).expect("the page is there");
    let documented: BTreeSet<(String, String)> = text
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            (cells[1].to_owned(), cells[2].to_owned())
        })
        .collect();
    assert!(documented.len() > 20, "the table was not found");
    let mut modelled = BTreeSet::new();
    for stage in STAGES {
        let name = serde_json::to_value(stage).expect("a stage has a name");
        let name = name.as_str().expect("a stage's name is text").to_owned();
        for (step, data) in steps() {
            if possible(stage, &data) {
                modelled.insert((name.clone(), step.to_owned()));
            }
        }
    }
    assert_eq!(modelled, documented);
}
