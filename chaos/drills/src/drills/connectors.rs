//! Connectors that die or stand still with messages in hand: at least once outside, exactly once inside.

use crate::bench::Bench;
use crate::drill::Drill;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::channel::{self, Policy};
use crate::harness::cluster::Cluster;
use crate::harness::desk::meta;
use crate::harness::plan::Plan;
use crate::harness::process::{child_of, signal_child};
use crate::harness::station::{self, Player};
use crate::harness::{eventually, queue};
use crate::load::exchange::Askers;
use crate::load::hall::{Hall, OFFICE, name};
use okno_checks::invariants::Invariant;
use okno_client::v1 as proto;
use rand::Rng;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A network of nodes whose streams of connectors beat fast.
pub fn plan() -> Plan {
    Plan::default().setting("channels", "heartbeat", format!("{}ms", channel::HEARTBEAT_MS))
}

/// Installs the channel, once the cluster is at its level.
pub async fn install(cluster: &Cluster, policy: &Policy) {
    queue::levelled(cluster).await;
    let installed = cluster.admin().call(channel::install(&channel::module(policy))).await;
    installed.expect("the module is installed");
}

/// What the leader says of the channel.
pub async fn figures(bench: &mut Bench) -> proto::ChannelFigures {
    channel::figures(&bench.cluster().admin()).await.expect("the channel is there")
}

/// Waits until so many connectors are attached.
pub async fn attached(cluster: &Cluster, count: usize) {
    let admin = cluster.admin();
    eventually(&format!("{count} connectors are attached"), ATTACHED_WITHIN, async || {
        let request = proto::ShowChannelRequest { channel: channel::CHANNEL.into(), read: None };
        let shown = admin.call(request).await.map_err(|error| error.to_string())?.connectors;
        if shown.len() == count { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
}

/// What was delivered comes back after this, when nothing is heard of who has it.
const WORK: Duration = Duration::from_secs(3);
const ASKERS: usize = 4;
const ANSWERS: usize = 6;
/// A connector waits up to 10 s before it tries again what it was refused.
const ATTACHED_WITHIN: Duration = Duration::from_secs(40);
/// A lost delivery, its work deadline, and the work of whoever gets it next.
const ANSWERS_WITHIN: Duration = Duration::from_secs(40);
const PROGRAM: &str = "okno-chaos";

fn policy() -> Policy {
    Policy { work_ms: u32::try_from(WORK.as_millis()).expect("seconds"), ..Policy::default() }
}

pub const CONNECTOR_KILLED: Drill = Drill {
    name: "connector-killed",
    faults: &[35],
    needs: &[],
    scenario: "Two connectors work for a channel that cases ask all the time: one that a node starts and looks after, one by \
               itself. They are killed (SIGKILL) in turns with messages in hand.",
    expected: "What they had is handed out again when its work deadline is over, to whoever is there; the node starts its \
               connector again; every request is answered once, to its case; nobody else is slowed.",
    run: |bench| Box::pin(connector_killed(bench)),
};

const KILLS: usize = 3;

async fn connector_killed(bench: &mut Bench) {
    bench.injected("connector-killed", 0);
    bench.injected("delivery-lost-with-its-connector", 0);
    let works = Duration::from_millis(1_200);
    bench.prepare(plan());
    let cluster = bench.cluster();
    let nodes = cluster.ids();
    let host = nodes[0];
    let local = station::connector(cluster, &channel::certificate(cluster, "egrn-1"), works, &nodes);
    cluster.add_connector(host, "egrn", local);
    let other = station::connector(cluster, &channel::certificate(cluster, "egrn-2"), works, &nodes);
    bench.begin().await;
    install(bench.cluster(), &policy()).await;
    let mut player = station::start_connector(&other);
    attached(bench.cluster(), 2).await;
    let mut askers = Askers::new(bench.cluster());
    askers.work(ASKERS);
    askers.progress(ANSWERS, ANSWERS_WITHIN).await;

    let parent = bench.cluster().pid(host).expect("it runs");
    for round in 0..2 * KILLS {
        let moment = Duration::from_millis(bench.rng.gen_range(100..1_000));
        tokio::time::sleep(moment).await;
        let fault;
        if round % 2 == 0 {
            let own = child_of(parent, &program()).expect("the node's connector runs");
            fault = bench.fault(format!("the connector of node {host} is killed"));
            signal_child(own, libc::SIGKILL);
            eventually("the node starts it again", ATTACHED_WITHIN, async || {
                let now = child_of(parent, &program());
                if now.is_some_and(|now| now != own) { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
        } else {
            fault = bench.fault("the connector by itself is killed");
            player.kill();
            player = station::start_connector(&other);
        }
        bench.injected("connector-killed", 1);
        askers.progress(ANSWERS, ANSWERS_WITHIN).await;
        bench.over(fault);
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    }
    attached(bench.cluster(), 2).await;
    let figures = figures(bench).await;
    bench.injected("delivery-lost-with-its-connector", figures.failed_total + figures.unheard_total);
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    let findings = askers.close(bench.cluster()).await;
    findings.enter(bench);
}

/// As the process table has this program.
fn program() -> String {
    let own = std::env::current_exe().expect("a running program has a file");
    let name = own.file_name().map_or_else(|| PROGRAM.to_owned(), |name| name.to_string_lossy().into_owned());
    // The kernel keeps 15 bytes.
    name.chars().take(15).collect()
}

pub const CONNECTOR_PAUSED: Drill = Drill {
    name: "connector-paused",
    faults: &[27, 35],
    needs: &[],
    scenario: "A connector stands still (SIGSTOP) with messages in hand and its connection open; when another has them, it \
               runs again and says what it has to say of them.",
    expected: "Its stream is ended, its leases lapse, the messages are handed to the other; what it says afterwards under its \
               old tokens is refused as DELIVERY_LOST and changes nothing; then it works on.",
    run: |bench| Box::pin(connector_paused(bench)),
};

const PAUSES: usize = 2;

async fn connector_paused(bench: &mut Bench) {
    bench.injected("connector-paused", 0);
    bench.injected("handed-to-another", 0);
    bench.start(plan()).await;
    install(bench.cluster(), &policy()).await;
    let nodes = bench.cluster().ids();
    // The one is quick and is stopped; the other is slow, and still at it when the first says its late word.
    let quick = channel::certificate(bench.cluster(), "egrn-1");
    let quick = station::start_connector(&station::connector(bench.cluster(), &quick, WORK / 2, &nodes));
    let slow = channel::certificate(bench.cluster(), "egrn-2");
    let slow = station::start_connector(&station::connector(bench.cluster(), &slow, 2 * WORK, &nodes));
    attached(bench.cluster(), 2).await;
    let mut askers = Askers::new(bench.cluster());
    askers.work(ASKERS);
    for _ in 0..PAUSES {
        let (held, fault) = hold_and_pause(bench, &quick).await;
        bench.injected("connector-paused", 1);
        let taken = eventually("what it had is handed to the other", ANSWERS_WITHIN, async || {
            let again: BTreeSet<String> = slow.said("got ").iter().filter_map(|line| second(line)).collect();
            let taken = held.iter().filter(|id| again.contains(*id)).count();
            if taken > 0 {
                Ok(taken)
            } else {
                Err(format!("{held:?} are held, {again:?} were handed out again"))
            }
        })
        .await;
        bench.injected("handed-to-another", taken as u64);
        bench.figure("handed_to_another_ms", fault.began.elapsed().as_secs_f64() * 1e3);
        quick.resume();
        bench.over(fault);
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
        eventually("it learns that its word does not count", ANSWERS_WITHIN, async || {
            let told = held.iter().any(|id| {
                quick.has_said(&["a verdict does not count", id, "DELIVERY_LOST"])
                    || quick.has_said(&["a delivery counts no longer", id])
            });
            if told { Ok(()) } else { Err("it was told nothing") }
        })
        .await;
        askers.progress(ANSWERS, ANSWERS_WITHIN).await;
    }
    let late = quick.has_said(&["a verdict does not count", "DELIVERY_LOST"]);
    bench.check(Invariant::TokenNewest, late, "a completion under an old token was refused as DELIVERY_LOST");
    attached(bench.cluster(), 2).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    let findings = askers.close(bench.cluster()).await;
    findings.enter(bench);
    drop((quick, slow));
}

/// Stops a connector while it works on messages; returns these.
async fn hold_and_pause(bench: &mut Bench, quick: &Player) -> (BTreeSet<String>, crate::bench::Fault) {
    let working = || {
        let got: BTreeSet<String> =
            quick.said("got ").iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
        let done: BTreeSet<String> = quick.said("done ").into_iter().collect();
        got.difference(&done).cloned().collect::<BTreeSet<String>>()
    };
    eventually("it works on messages", ANSWERS_WITHIN, async || {
        if working().is_empty() { Err("it has none") } else { Ok(()) }
    })
    .await;
    let fault = bench.fault("a connector stands still");
    quick.pause().await;
    (working(), fault)
}

/// The message of a line that tells of a delivery after the first.
fn second(line: &str) -> Option<String> {
    let (id, delivery) = line.split_once(' ')?;
    (delivery.parse::<u32>().ok()? > 1).then(|| id.to_owned())
}

pub const LEADER_LOST_IN_BETWEEN: Drill = Drill {
    name: "leader-lost-in-between",
    faults: &[1, 28],
    needs: &[],
    scenario: "The leader is killed (SIGKILL) between a delivery and its completion, and between the call of a visitor and the \
               beginning of the visit, again and again; a window repeats its call, and a connector its verdict.",
    expected: "The next leader takes the completion under the old token and the visit where it was; a repeated request has the \
               first one's answer; every request is answered once, every visitor served once.",
    run: |bench| Box::pin(leader_lost_in_between(bench)),
};

const ROUNDS: u32 = 3;
const HELD: u32 = 4;
/// Nobody of the hall's own works there.
const WINDOW: &str = "3";

async fn leader_lost_in_between(bench: &mut Bench) {
    bench.injected("leader-killed-in-between", 0);
    bench.start(plan()).await;
    install(bench.cluster(), &Policy::default()).await;
    let connector = channel::connector(bench.cluster(), "egrn-1");
    let hall = Hall::open(bench.cluster());
    // Nobody else works for the channel: what is asked is the drill's to answer.
    let askers = Askers::new(bench.cluster());
    for round in 1..=ROUNDS {
        for _ in 0..HELD {
            askers.ask(channel::answer_to).await;
        }
        let mut held = Vec::new();
        while held.len() < HELD as usize {
            let pulled = connector.call(channel::pull(HELD, 5_000)).await.expect("a pull is answered");
            held.extend(pulled.deliveries);
        }
        let acknowledge = proto::AcknowledgeMessagesRequest {
            channel: channel::CHANNEL.into(),
            deliveries: held.iter().map(channel::name).collect(),
        };
        let refused = connector.call(acknowledge).await.expect("receipts are taken").refused;
        assert!(refused.is_empty(), "{refused:?}");
        hall.progress(1, NEXT_WRITE_WITHIN).await;
        let (call, called) = eventually("somebody waits", NEXT_WRITE_WITHIN, async || {
            // An id of its own for each try: that of the call that succeeds is repeated below.
            let call = proto::CallNextRequest {
                meta: meta(okno_client::new_request_id(), 1),
                office: OFFICE.into(),
                window: WINDOW.into(),
            };
            match hall.clerk.call_next_as(call.clone()).await {
                Err(error) if error.reason() == "QUEUE_EMPTY" => Err(error.to_string()),
                called => Ok((call, called.expect("a visitor is called"))),
            }
        })
        .await;

        let leader = bench.cluster().leader().await;
        let fault = bench.fault(format!("round {round}: node {leader}, the leader, is killed"));
        bench.cluster().kill(leader);
        bench.injected("leader-killed-in-between", 1);
        // Both at once, as after any loss of a leader: whoever is first finds the next one.
        let verdicts: Vec<proto::Verdict> = held
            .iter()
            .map(|delivery| channel::complete(delivery, &channel::answer_to(&delivery.body)))
            .collect();
        let mut settle = channel::settle(verdicts);
        settle.meta = meta(okno_client::new_request_id(), 1);
        let (settled, begun) =
            tokio::join!(connector.call(settle.clone()), hall.clerk.begin(&called, WINDOW));
        let settled = settled.expect("tokens stay good under the next leader");
        let counted = settled.results.iter().filter(|result| result.reason.is_empty()).count();
        let detail = format!("round {round}: {counted} of {HELD} completions counted under the next leader");
        bench.check(Invariant::AnsweredOnce, counted == HELD as usize, detail);
        let begun = begun.expect("the visit begins under the next leader");
        bench.check(
            Invariant::TicketKept,
            name(&begun) == name(&called),
            "the visitor is the one who was called",
        );
        bench.recovered(fault, NEXT_WRITE_WITHIN).await;
        // Asked again under the same ids: the first answers, and nothing happens.
        settle.meta.as_mut().expect("set above").attempt = 2;
        let again = connector.call(settle).await;
        let same = again.as_ref().is_ok_and(|again| again.results == settled.results);
        bench.check(
            Invariant::OnceARequest,
            same,
            format!("round {round}: the verdicts told again: {again:?}"),
        );
        let repeated = hall.clerk.desk().call(call).await;
        let same = repeated
            .as_ref()
            .is_ok_and(|answer| answer.ticket.as_ref().is_some_and(|t| name(t) == name(&called)));
        bench.check(Invariant::OnceARequest, same, format!("round {round}: the call repeated: {repeated:?}"));
        hall.clerk.finish(&called, WINDOW).await.expect("the visit ends");
        bench.cluster().start_node(leader);
        bench.over(fault);
        bench.redundant(fault, REDUNDANT_WITHIN).await;
        bench.cluster().wait_ready().await;
    }
    bench.served_since(Instant::now(), NEXT_WRITE_WITHIN).await;
    let figures = figures(bench).await;
    let detail = format!("{} deliveries of {} messages", figures.handed_total, ROUNDS * HELD);
    bench.check(Invariant::AnsweredOnce, figures.handed_total == u64::from(ROUNDS * HELD), detail);
    let findings = askers.close(bench.cluster()).await;
    findings.enter(bench);
    let findings = hall.close(bench.cluster()).await;
    findings.enter(bench);
}

#[cfg(test)]
mod tests {
    use super::second;

    #[test]
    fn a_delivery_after_the_first_is_told_apart() {
        assert_eq!(second("case.1 2"), Some("case.1".to_owned()));
        assert_eq!(second("case.1 1"), None);
        assert_eq!(second("case.1"), None);
    }
}
