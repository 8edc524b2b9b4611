//! The clients and the checks by themselves: against one entity store that never fails, decides in one thread and
//! remembers requests (`desk`), behind a network that loses and delays. Whatever the clients do there is linearizable
//! by construction, so a model that says otherwise is wrong; and what this desk is told to do wrong must be found.

mod desk;

use desk::{Desk, Fault};
use okno_checks::{examine::examine, invariants::Invariant};
use std::collections::BTreeMap;

const SEEDS: u64 = 300;

#[test]
fn an_honest_desk_is_believed() {
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let (mut resolved, mut unresolved, mut links) = (0, 0, 0);
    for seed in 0..SEEDS {
        let history = Desk::run(seed, None);
        let examined = examine(&history);
        assert!(examined.held(), "seed {seed}: {:#?}", examined.verdicts);
        for (name, count) in examined.outcomes {
            *outcomes.entry(name).or_default() += count;
        }
        for operation in &history.operations {
            if let okno_checks::history::Outcome::Refused(reason) = &operation.outcome {
                *reasons.entry(reason.clone()).or_default() += 1;
            }
        }
        resolved += examined.resolved;
        unresolved += examined.unresolved;
        links += history.finals[0].cases.values().filter(|case| case.link.is_some()).count();
    }
    println!("{outcomes:?} {reasons:#?} told later {resolved}, never {unresolved}, links {links}");
    // What the checks are there for has to happen.
    let total: u64 = outcomes.values().sum();
    assert!(outcomes["done"] * 2 > total, "{outcomes:?}");
    assert!(resolved > 0 && unresolved > 0 && links > 0);
    for reason in [
        "CASE_UNKNOWN",
        "CASE_CLOSED",
        "CASE_STEP_IMPOSSIBLE",
        "DOCUMENT_TAKEN_IN",
        "DOCUMENT_UNKNOWN",
        "REQUEST_ANSWERED",
        "SUSPENSION_REASON_UNKNOWN",
        "STORAGE_NOT_OVER",
        "FIELD_INVALID",
        "OFFICE_FOREIGN",
        "SERVICE_INACTIVE",
        "SERVICE_UNKNOWN",
        "CATEGORY_UNKNOWN",
        "QUEUE_EMPTY",
        "TICKET_STATE",
        "WINDOW_BUSY",
        "WINDOW_OTHER",
        "WINDOW_UNKNOWN",
        "REQUEST_ID_REUSED",
        "REQUEST_ID_MALFORMED",
    ] {
        assert!(reasons.contains_key(reason), "nobody was refused as {reason}: {reasons:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [1, 2, 3] {
        assert_eq!(Desk::run(seed, None), Desk::run(seed, None));
    }
}

/// Each way of being dishonest is found within so many seeds, by one of these.
#[test]
fn a_dishonest_desk_is_found_out() {
    use Invariant::{Acknowledged, Linearizable, MessagesOnce, NothingUnasked, OnceARequest};
    for (fault, by) in [
        (Fault::ForgetsRequests, &[OnceARequest, Linearizable][..]),
        (Fault::LosesAcknowledged, &[Acknowledged, Linearizable]),
        (Fault::ReadsOld, &[Linearizable]),
        (Fault::RefusesFromTheFuture, &[Linearizable]),
        (Fault::NotAppliedTakesEffect, &[NothingUnasked, Linearizable]),
        (Fault::LosesMessages, &[MessagesOnce]),
        (Fault::CallsOneTicketTwice, &[Linearizable]),
    ] {
        let found = (0..60).find_map(|seed| {
            let examined = examine(&Desk::run(seed, Some(fault)));
            let broken: Vec<_> =
                examined.verdicts.iter().filter(|verdict| !verdict.held).map(|verdict| verdict.id).collect();
            (!broken.is_empty()).then_some((seed, broken))
        });
        let (seed, broken) = found.unwrap_or_else(|| panic!("{fault:?} was not found"));
        assert!(broken.iter().any(|id| by.contains(id)), "{fault:?}, seed {seed}: found by {broken:?}");
        println!("{fault:?}: seed {seed}, {broken:?}");
    }
}
