//! Histories of a random sequential execution, its operations stretched until they overlap: accepted, whatever became
//! unknown; and rejected once one outcome is changed into what cannot have been.

use okno_checks::{
    examine::{Examined, examine},
    history::{
        Call, CaseSeen, Entity, Final, History, Operation, Outcome, Reply, RequestId, Seen, Service, Setting,
        Stage, Step,
    },
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CASE: &str = "c1";
/// Between the moments at which two operations take effect.
const PACE: u64 = 100;

/// What one operation is to be.
#[derive(Debug, Clone)]
struct Plan {
    kind: u8,
    number: u32,
    /// How far its begin lies before its effect, and its end behind.
    before: u64,
    behind: u64,
    /// The client is not told; of these some never happened.
    unknown: bool,
    happened: bool,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = (0..12_u8, 1..6_u32, 0..400_u64, 0..400_u64, prop::bool::weighted(0.15), any::<bool>())
        .prop_map(|(kind, number, before, behind, unknown, happened)| Plan {
            kind,
            number,
            before,
            behind,
            unknown,
            happened,
        });
    prop::collection::vec(plan, 1..60)
}

/// A case as simple as can be: drafts that are accepted or withdrawn.
#[derive(Default)]
struct Case {
    stage: Option<Stage>,
    documents: Vec<(u32, String)>,
    documents_last: u32,
    steps: u32,
    index: u64,
}

impl Case {
    fn seen(&self) -> Seen {
        self.stage.map_or(Seen::Absent, |stage| {
            Seen::Case(CaseSeen {
                stage,
                documents: self.documents.clone(),
                documents_last: self.documents_last,
                steps_last: self.steps,
                requests_last: 0,
                requests_open: 0,
                link: None,
                index: self.index,
            })
        })
    }

    fn take(&mut self, call: &Call, index: u64) -> Outcome {
        let refused = |reason: &str| Outcome::Refused(reason.to_owned());
        let reply = match (call, self.stage) {
            (Call::ReadCase, _) => {
                return Outcome::Done { reply: Reply::Read(self.seen()), index: self.index };
            }
            (Call::OpenCase { .. }, None) => {
                self.stage = Some(Stage::Draft);
                Reply::Opened
            }
            (Call::OpenCase { .. }, Some(_)) => return refused("CASE_EXISTS"),
            (_, None) => return refused("CASE_UNKNOWN"),
            (Call::AddDocument { .. }, Some(Stage::Withdrawn)) => return refused("CASE_CLOSED"),
            (Call::AddDocument { reference, .. }, Some(_)) => {
                self.documents_last += 1;
                self.documents.push((self.documents_last, reference.clone()));
                Reply::DocumentAdded { document: self.documents_last }
            }
            (Call::RemoveDocument { document }, Some(stage)) => {
                if !self.documents.iter().any(|(number, _)| number == document) {
                    return refused("DOCUMENT_UNKNOWN");
                }
                if stage != Stage::Draft {
                    return refused("DOCUMENT_TAKEN_IN");
                }
                self.documents.retain(|(number, _)| number != document);
                Reply::DocumentRemoved
            }
            (Call::Advance(step), Some(stage)) => {
                let stage = match (step, stage) {
                    (Step::Accept, Stage::Draft) => Stage::Accepted,
                    (Step::Withdraw, Stage::Draft | Stage::Accepted) => Stage::Withdrawn,
                    _ => return refused("CASE_STEP_IMPOSSIBLE"),
                };
                self.stage = Some(stage);
                self.steps += 1;
                Reply::Advanced { step: self.steps, stage, request: 0 }
            }
            _ => unreachable!("the plans hold no other calls"),
        };
        self.index = index;
        Outcome::Done { reply, index }
    }
}

fn history(plans: &[Plan]) -> History {
    let service = Service { active: true, letter: 'А', suspensions: [].into(), storage: false };
    let mut history = History {
        setting: Setting {
            services: BTreeMap::from([("paper".to_owned(), service)]),
            days: vec![(0, 20_260_302)],
            ..Setting::default()
        },
        ..History::default()
    };
    let mut case = Case::default();
    for (nth, plan) in plans.iter().enumerate() {
        let call = match plan.kind {
            _ if nth == 0 => open(),
            0..=4 => Call::AddDocument { reference: format!("d{nth}"), sheets: 1 },
            5 => Call::RemoveDocument { document: plan.number },
            6 if plan.number == 1 => Call::Advance(Step::Withdraw),
            6 => Call::Advance(Step::Accept),
            7 if plan.number == 1 => open(),
            _ => Call::ReadCase,
        };
        let at = (nth as u64 + 5) * PACE;
        let unknown = plan.unknown && !call.reads();
        let happens = !unknown || plan.happened;
        let outcome = happens.then(|| case.take(&call, at));
        history.operations.push(Operation {
            client: nth as u32,
            entity: Entity::Case(CASE.into()),
            request: (!call.reads()).then_some(RequestId(nth as u128)),
            call,
            begun: at - plan.before,
            ended: Some(at + plan.behind),
            first_attempt: 1,
            attempts: 1,
            outcome: match outcome {
                Some(outcome) if !unknown => outcome,
                _ => Outcome::Unknown("NO_ANSWER".into()),
            },
            late: Vec::new(),
        });
    }
    if let Seen::Case(seen) = case.seen() {
        for node in 1..=3 {
            let cases = BTreeMap::from([(CASE.to_owned(), seen.clone())]);
            history.finals.push(Final { node, cases, queues: BTreeMap::new() });
        }
    } else {
        history.finals.push(Final { node: 1, cases: BTreeMap::new(), queues: BTreeMap::new() });
    }
    history.operations.sort_by_key(|operation| operation.begun);
    history
}

fn open() -> Call {
    Call::OpenCase { office: "tikhaya".into(), service: "paper".into(), ticket: None }
}

/// Changes one outcome into something that no execution of these calls can give.
fn lie(history: &mut History, at: usize) -> Option<String> {
    let count = history.operations.len();
    // A document of an unknown outcome may have the next number, and be removed again: nobody can tell them apart then.
    let unknown = |operation: &Operation| {
        matches!(operation.call, Call::AddDocument { .. }) && matches!(operation.outcome, Outcome::Unknown(_))
    };
    let beyond = if history.operations.iter().any(unknown) { count as u32 } else { 1 };
    for nth in (0..count).map(|nth| (at + nth) % count) {
        let operation = &mut history.operations[nth];
        let told = format!("{:?} → {:?}", operation.call, operation.outcome);
        match (&operation.call, &mut operation.outcome) {
            // No other call gives this document its number.
            (Call::AddDocument { .. }, Outcome::Done { reply: Reply::DocumentAdded { document }, .. }) => {
                *document += beyond;
            }
            (Call::Advance(_), Outcome::Done { reply: Reply::Advanced { step, .. }, .. }) => *step += 1,
            (Call::ReadCase, Outcome::Done { reply: Reply::Read(Seen::Case(seen)), .. }) => {
                seen.documents.push((seen.documents_last + 1, "nobody's".into()));
                seen.documents_last += 1;
            }
            (Call::RemoveDocument { .. }, outcome @ Outcome::Refused(_)) => {
                *outcome = Outcome::Refused("CASE_CLOSED".into());
            }
            (Call::AddDocument { reference, .. }, outcome @ Outcome::Refused(_)) => {
                // Told that it is there, with the highest number of all.
                let _asked = reference;
                *outcome = Outcome::Done { reply: Reply::DocumentAdded { document: 1_000 }, index: 1 };
            }
            _ => continue,
        }
        return Some(told);
    }
    None
}

fn broken(examined: &Examined) -> Vec<&str> {
    examined.verdicts.iter().filter(|held| !held.held).map(|held| held.id.id()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn what_happened_is_accepted(plans in plans()) {
        let history = history(&plans);
        let examined = examine(&history);
        prop_assert!(examined.held(), "{:#?}\n{history:#?}", examined.verdicts);
    }

    #[test]
    fn what_cannot_have_happened_is_rejected(plans in plans(), at in 0..60_usize) {
        let mut history = history(&plans);
        if let Some(told) = lie(&mut history, at) {
            let examined = examine(&history);
            prop_assert!(!broken(&examined).is_empty(), "{told} was changed and accepted: {history:#?}");
        }
    }

    /// An acknowledged document that the stores lack is missed whatever else is unknown.
    #[test]
    fn what_is_lost_is_missed(plans in plans(), at in 0..60_usize) {
        let mut history = history(&plans);
        let removed: Vec<u32> = history
            .operations
            .iter()
            .filter_map(|operation| match operation.call {
                Call::RemoveDocument { document } => Some(document),
                _ => None,
            })
            .collect();
        let kept: Vec<u32> = history
            .operations
            .iter()
            .filter_map(|operation| match operation.outcome {
                Outcome::Done { reply: Reply::DocumentAdded { document }, .. } => Some(document),
                _ => None,
            })
            .filter(|document| !removed.contains(document))
            .collect();
        if !kept.is_empty() {
            let lost = kept[at % kept.len()];
            for node in &mut history.finals {
                for case in node.cases.values_mut() {
                    case.documents.retain(|(number, _)| *number != lost);
                }
            }
            let examined = examine(&history);
            prop_assert!(broken(&examined).contains(&"acknowledged-survives"), "{:#?}", examined.verdicts);
        }
    }
}
