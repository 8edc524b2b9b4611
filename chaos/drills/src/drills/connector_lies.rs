//! Connectors that lie, flood, loop, or come back with what is theirs no longer: a clear refusal each, nothing lost, nobody
//! else slowed.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::drills::connectors::{figures, install, plan};
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::channel::{self, Policy, Raw, acknowledge, complete, settle};
use crate::harness::desk::Desk;
use crate::harness::station;
use crate::load::exchange::Askers;
use futures::StreamExt;
use okno_checks::invariants::Invariant;
use okno_client::{Class, v1 as proto};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub const CONNECTOR_LYING: Drill = Drill {
    name: "connector-lying",
    faults: &[36, 37],
    needs: &[],
    scenario: "A connector answers with tokens nobody gave, twice, for messages of others and for none, with bodies of up to \
               100 MB; it attaches in a loop and calls as fast as it can, while an honest one works for the same channel.",
    expected: "Each is refused by name and changes nothing; the honest connector's requests are answered in their usual time; \
               what the liar holds is answered once, by its one good verdict.",
    run: |bench| Box::pin(connector_lying(bench)),
};

const ASKERS: usize = 3;
const ANSWERS: usize = 6;
/// Of an honest request while the other lies: far from the minute after which a lease would help.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
const HUNDRED_MEGABYTES: usize = 100 << 20;
const ATTACHES: usize = 60;
const CALLS: usize = 300;
const CALLS_AT_ONCE: usize = 100;

async fn connector_lying(bench: &mut Bench) {
    for kind in ["lie", "huge-verdict", "attached-in-a-loop", "flood-turned-away"] {
        bench.injected(kind, 0);
    }
    bench.start(plan()).await;
    // What the liar holds stays its own to the end of the drill.
    install(bench.cluster(), &Policy { work_ms: 300_000, ..Policy::default() }).await;
    let certificate = channel::certificate(bench.cluster(), "egrn-1");
    let liar = bench.cluster().desk_with(&certificate);
    let mut askers = Askers::new(bench.cluster());
    let mut two = Vec::new();
    for _ in 0..2 {
        askers.ask(channel::answer_to).await;
        let delivery = channel::pulled(&liar).await;
        liar.call(acknowledge(&delivery)).await.expect("a receipt is taken");
        two.push(delivery);
    }
    askers.work(ASKERS);
    let nodes = bench.cluster().ids();
    let honest = channel::certificate(bench.cluster(), "egrn-2");
    let honest = station::connector(bench.cluster(), &honest, Duration::from_millis(50), &nodes);
    let honest = station::start_connector(&honest);
    let (own, other) = (two[0].clone(), two[1].clone());
    let usual = askers.progress(ANSWERS, 2 * ANSWERED_WITHIN).await;

    let fault = bench.fault("a connector lies");
    lies(bench, &liar, &own, &other).await;
    let huge = channel::say_too_much(bench.cluster(), &certificate, &own, HUNDRED_MEGABYTES).await;
    bench.injected("huge-verdict", 1);
    let detail = format!("100 MB were answered with {:?} {}", huge.code(), channel::reason(&huge));
    let turned_away = channel::reason(&huge) == "MESSAGE_TOO_LARGE";
    bench.check(Invariant::MemoryBounded, turned_away, detail);
    loops(bench).await;
    floods(bench).await;
    let slowed = askers.progress(ANSWERS, 2 * ANSWERED_WITHIN).await;
    bench.over(fault);
    bench.figure("answer_max_before_ms", usual.as_secs_f64() * 1e3);
    bench.figure("answer_max_meanwhile_ms", slowed.as_secs_f64() * 1e3);
    let (count, longest) = askers.answered_since(fault.began);
    let detail = format!("{count} honest requests meanwhile, {} ms at most", longest.as_millis());
    bench.check(Invariant::NeighboursUnharmed, longest <= ANSWERED_WITHIN, detail);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.cluster().assert_running();

    // One verdict counts; the lie in the same call hinders nothing. Then a second one counts for nothing.
    let lie = proto::Verdict { token: "1.1.999999".into(), ..complete(&other, b"lie") };
    let mixed = settle(vec![complete(&own, &channel::answer_to(&own.body)), lie]);
    let results = liar.call(mixed).await.expect("one of the two counts").results;
    let reasons: Vec<&str> = results.iter().map(|result| result.reason.as_str()).collect();
    bench.check(
        Invariant::TokenNewest,
        reasons == ["", "DELIVERY_LOST"],
        format!("two verdicts: {reasons:?}"),
    );
    refused(bench, &liar, complete(&own, b"twice"), &["MESSAGE_UNKNOWN"], "completed twice").await;
    bench.injected("lie", 2);
    let last = complete(&other, &channel::answer_to(&other.body));
    liar.call(settle(vec![last])).await.expect("its own verdict counts");
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    let findings = askers.close(bench.cluster()).await;
    findings.enter(bench);
    drop(honest);
}

/// One verdict that must not count.
async fn refused(bench: &mut Bench, desk: &Desk, verdict: proto::Verdict, reasons: &[&str], what: &str) {
    let answer = desk.call(settle(vec![verdict])).await;
    let found = match &answer {
        Ok(_) => "taken".to_owned(),
        Err(error) => error.reason().to_owned(),
    };
    let refused = answer.is_err_and(|error| error.class() == Class::Refused);
    let held = refused && reasons.contains(&found.as_str());
    bench.check(Invariant::TokenNewest, held, format!("{what}: {found}"));
}

async fn lies(bench: &mut Bench, liar: &Desk, own: &proto::Delivery, other: &proto::Delivery) {
    for token in ["1.1.999999", "not a token", "", other.token.as_str()] {
        let lie = proto::Verdict { token: token.into(), ..complete(own, b"lie") };
        refused(bench, liar, lie, &["DELIVERY_LOST"], &format!("under token {token:?}")).await;
    }
    let nowhere = proto::Verdict { message_id: format!("{}.77", own.case), ..complete(own, b"lie") };
    refused(bench, liar, nowhere, &["MESSAGE_UNKNOWN"], "for a message that is not there").await;
    let second = channel::connector(bench.cluster(), "egrn-2");
    refused(bench, &second, complete(own, b"lie"), &["LEASE_FOREIGN"], "for another's message").await;
    let stranger = channel::connector(bench.cluster(), "stranger");
    refused(bench, &stranger, complete(own, b"lie"), &["CHANNEL_FOREIGN"], "by a stranger").await;
    for (bytes, reason) in [(65_537, "BODY_TOO_LARGE"), (900_000, "BODY_TOO_LARGE")] {
        let large = complete(own, &vec![b'x'; bytes]);
        refused(bench, liar, large, &[reason], &format!("{bytes} bytes")).await;
    }
    let many = liar.call(settle(vec![complete(own, b""); 65])).await;
    let named = many.as_ref().is_err_and(|error| error.reason() == "CALL_TOO_LARGE");
    bench.check(Invariant::TokenNewest, named, "65 verdicts in one call are too many");
    bench.injected("lie", 10);
}

/// Attaches again and again, and is told to wait.
async fn loops(bench: &mut Bench) {
    let node = bench.cluster().follower().await;
    let looping = channel::connector_at(bench.cluster(), node, "egrn-1");
    let mut told = None;
    let mut attaches = 0;
    while told.is_none() && attaches < ATTACHES {
        attaches += 1;
        match Raw::try_attach(&looping, &format!("loop-{attaches}"), 0).await {
            Ok(stream) => drop(stream),
            Err(error) => told = Some(error.reason().to_owned()),
        }
    }
    bench.injected("attached-in-a-loop", attaches as u64);
    let held = told.as_deref() == Some("CONNECTOR_LOOPS");
    bench.check(
        Invariant::NeighboursUnharmed,
        held,
        format!("after {attaches} streams it was told {told:?}"),
    );
}

/// Calls as fast as it can; what is over its bound is turned away at once.
async fn floods(bench: &mut Bench) {
    let node = bench.cluster().leader().await;
    let flooding = channel::connector_at(bench.cluster(), node, "egrn-1");
    let began = Instant::now();
    let reasons: Vec<String> = futures::stream::iter(0..CALLS)
        .map(|_| async {
            // Lies again, as many as a call takes: they cost it as much as truth would.
            let lie = proto::Verdict {
                message_id: "nothing.1".into(),
                token: "1.1.1".into(),
                said: Some(proto::verdict::Said::Fail(proto::FailMessage::default())),
            };
            let request = settle(vec![lie; 64]);
            flooding.once(request).await.map_or_else(|error| error.reason().to_owned(), |_| String::new())
        })
        .buffer_unordered(CALLS_AT_ONCE)
        .collect()
        .await;
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for reason in &reasons {
        *counts.entry(reason).or_default() += 1;
    }
    bench.injected("flood-turned-away", counts.get("CONNECTOR_FLOODS").copied().unwrap_or(0));
    bench.figure("flood_ms", began.elapsed().as_secs_f64() * 1e3);
    let known = counts.keys().all(|reason| ["", "CONNECTOR_FLOODS", "MESSAGE_UNKNOWN"].contains(reason));
    bench.check(Invariant::NeighboursUnharmed, known, format!("{CALLS} calls were answered so: {counts:?}"));
}

pub const OLD_TOKEN: Drill = Drill {
    name: "old-token",
    faults: &[28, 35],
    needs: &[],
    scenario: "A connector lets its lease lapse; when another has the message, and again when another leader rules, it says \
               everything that can be said under its old token.",
    expected: "Nothing under the old token counts, before and after the leader was lost; the case has the answer of the newest \
               token's holder, once.",
    run: |bench| Box::pin(old_token(bench)),
};

const WORK: Duration = Duration::from_secs(4);
const ROUNDS: u32 = 2;

async fn old_token(bench: &mut Bench) {
    use proto::verdict::Said;
    bench.injected("old-token", 0);
    bench.injected("lease-lapsed", 0);
    bench.start(plan()).await;
    let work_ms = u32::try_from(WORK.as_millis()).expect("seconds");
    install(bench.cluster(), &Policy { work_ms, ..Policy::default() }).await;
    let first = channel::connector(bench.cluster(), "egrn-1");
    let second = channel::connector(bench.cluster(), "egrn-2");
    let askers = Askers::new(bench.cluster());
    let newest = |body: &[u8]| [b"newest: ", body].concat();
    for round in 1..=ROUNDS {
        askers.ask(newest).await;
        let old = channel::pulled(&first).await;
        let heard = first.call(acknowledge(&old)).await.expect("a receipt is taken");
        assert!(heard.refused.is_empty(), "{heard:?}");
        let fault = bench.fault(format!("round {round}: a connector lets its lease lapse"));
        let new = channel::pulled(&second).await;
        bench.injected("lease-lapsed", 1);
        let detail =
            format!("delivery {} of {}, handed out again as {}", old.delivery, old.message_id, new.delivery);
        let same =
            new.message_id == old.message_id && new.token != old.token && new.delivery == old.delivery + 1;
        bench.check(Invariant::TokenNewest, same, detail);
        second.call(acknowledge(&new)).await.expect("a receipt is taken");
        everything(bench, &first, &old, "after the hand-over").await;

        // The next leader knows it too. Its work deadline begins anew there, so that the second is in time.
        let leader = bench.cluster().leader().await;
        let lost = bench.fault(format!("node {leader}, the leader, is killed"));
        bench.cluster().kill(leader);
        everything(bench, &first, &old, "under the next leader").await;
        let done = second.call(settle(vec![complete(&new, &newest(&new.body))])).await;
        let (mut reason, mut settled) = (String::new(), done.is_ok());
        if let Err(error) = &done {
            reason = error.reason().to_owned();
        }
        if reason == "DELIVERY_LOST" {
            // On a machine this slow even the second was late: it takes the message anew.
            bench.injected("lease-lapsed", 1);
            let again = channel::pulled(&second).await;
            settled = second.call(settle(vec![complete(&again, &newest(&again.body))])).await.is_ok();
        }
        bench.check(
            Invariant::AnsweredOnce,
            settled,
            format!("round {round}: the newest token counts {reason}"),
        );
        for said in [
            Said::Complete(proto::CompleteMessage {
                summary: "поздно".into(),
                body: Some(b"old".to_vec().into()),
            }),
            Said::Reject(proto::RejectMessage { reason: "поздно".into(), body: None }),
        ] {
            let late = proto::Verdict { said: Some(said), ..complete(&old, b"") };
            refused(bench, &first, late, &["MESSAGE_UNKNOWN"], "when all is over").await;
            bench.injected("old-token", 1);
        }
        bench.recovered(lost, NEXT_WRITE_WITHIN).await;
        bench.cluster().start_node(leader);
        bench.over(lost);
        bench.over(fault);
        bench.redundant(lost, REDUNDANT_WITHIN).await;
        bench.cluster().wait_ready().await;
    }
    let figures = figures(bench).await;
    bench.figure("deliveries", figures.handed_total as f64);
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    let findings = askers.close(bench.cluster()).await;
    findings.enter(bench);
}

/// Everything that can be said of a message, under a token that is old.
async fn everything(bench: &mut Bench, first: &Desk, old: &proto::Delivery, when: &str) {
    use proto::verdict::Said;
    let other = proto::OtherRequest { channel: "other".into(), kind: "k".into(), ..Default::default() };
    let all = [
        Said::Complete(proto::CompleteMessage {
            summary: "поздно".into(),
            body: Some(b"old".to_vec().into()),
        }),
        Said::Fail(proto::FailMessage { reason: "поздно".into(), ..Default::default() }),
        Said::Reject(proto::RejectMessage { reason: "поздно".into(), body: None }),
        Said::Progress(proto::ReportProgress { text: "иду".into() }),
        Said::Ask(proto::AskOthers { requests: vec![other] }),
    ];
    for said in all {
        let verdict = proto::Verdict { said: Some(said), ..complete(old, b"") };
        refused(bench, first, verdict, &["DELIVERY_LOST"], when).await;
        bench.injected("old-token", 1);
    }
    let receipt = first.call(acknowledge(old)).await.map(|answer| answer.refused);
    let named =
        receipt.as_ref().is_ok_and(|refused| refused.len() == 1 && refused[0].reason == "DELIVERY_LOST");
    bench.check(Invariant::TokenNewest, named, format!("a receipt {when}: {receipt:?}"));
    bench.injected("old-token", 1);
}
