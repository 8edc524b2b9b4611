//! Members that come and go while leaders are lost, machines that come back without their data, and one survivor.

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::drills::network;
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::fate::{Fate, Look};
use crate::harness::cluster::okno;
use crate::harness::members::oknoctl;
use crate::harness::plan::{Launch, Plan};
use crate::harness::{POLL, eventually};
use crate::net::fault::{self, Fault};
use crate::net::lab::{self, Lab};
use okno_checks::invariants::Invariant;
use std::time::{Duration, Instant};

pub const MEMBERS_CHANGE: Drill = Drill {
    name: "members-change",
    faults: &[31],
    needs: &[Need::Root, Need::NetworkNamespaces, Need::Oknoctl],
    scenario: "Under load a node is added while the leader is killed, a member is taken out while the leader is cut off \
               from the others, and another is added while the leader is paused.",
    expected: "Each change comes to its end, once, when its command is repeated until it succeeds; the joiners vote, who \
               was taken out closes itself; one leader a term, nothing acknowledged is lost.",
    run: |bench| Box::pin(members_change(bench)),
};

pub const DATA_WIPED: Drill = Drill {
    name: "data-wiped",
    faults: &[32],
    needs: &[Need::Oknoctl],
    scenario: "Under load a follower is killed and its data are removed. It comes back with nothing; then made anew under its \
               old id; then under a new id, in the old one's place.",
    expected: "With nothing it does not start; under the old id it closes itself and says why; under the new one it joins, \
               gets what it lacks and votes.",
    run: |bench| Box::pin(data_wiped(bench)),
};

pub const ONE_SURVIVOR: Drill = Drill {
    name: "one-survivor",
    faults: &[46, 47],
    needs: &[Need::Oknoctl],
    scenario: "Under load both followers are lost for good. The leader's directory is made a cluster of its own by force \
               and started; a member of the old cluster comes back beside it; then it grows to three again.",
    expected: "The last index recovered is stated, and nothing acknowledged is lost, for the survivor had it all; the \
               cluster id is new; the old member is let in by nobody and follows nobody.",
    run: |bench| Box::pin(one_survivor(bench)),
};

/// A node joins, catches up and votes; a change is repeated until it is so.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);
/// How long a stranger is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// A log so short that whoever joins or was away needs a copy.
pub(super) fn short() -> Plan {
    Plan::default().setting("raft", "keep_log_for", "1s").setting("raft", "keep_log_entries", 100)
}

/// Repeats a change of members until it is so; returns how often it was asked for.
async fn change(bench: &mut Bench, arguments: &[&str]) -> u64 {
    let cluster = bench.cluster();
    let mut asked = 0;
    eventually(&format!("{arguments:?}"), CHANGED_WITHIN, async || {
        asked += 1;
        // Short of the usual patience: who leads may change at any moment, and nobody is told of it.
        let said = oknoctl(cluster, &[&["--deadline", "4s", "member"], arguments].concat()).await;
        if said.code == 0 { Ok(()) } else { Err(said) }
    })
    .await;
    asked
}

async fn members_change(bench: &mut Bench) {
    for kind in ["added-while-leader-killed", "removed-while-leader-isolated", "added-while-leader-paused"] {
        bench.injected(kind, 0);
    }
    let all: Vec<u64> = (1..=5).collect();
    bench.keep(Lab::new(&all));
    let mut plan = short();
    for node in 1..=3 {
        plan = plan.host(node, lab::address(node).into()).launch(node, Launch::by(Lab::prefix(node)));
    }
    bench.start(plan).await;
    for node in [4, 5] {
        bench.cluster().make_joiner_on(node, lab::address(node));
        bench.cluster().set_launch(node, Launch::by(Lab::prefix(node)));
        bench.absent(node, "it has not joined yet");
    }

    bench.cluster().start_node(4);
    let address = bench.cluster().entry(4).peers.to_string();
    let leader = network::led(bench).await.0;
    let fault = bench.fault(format!("node 4 is added while node {leader}, the leader, is killed"));
    let add = ["add", "4", "--address", &address];
    // On its way when the leader goes: what became of it nobody knows.
    let asked = ask(bench, leader, &add);
    bench.cluster().kill(leader);
    bench.injected("added-while-leader-killed", 1);
    drop(asked);
    let times = change(bench, &add).await;
    bench.note(format!("it was asked for {times} times"));
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    bench.cluster().start_node(leader);
    bench.over(fault);
    bench.cluster().wait_voter(4, CHANGED_WITHIN).await;
    bench.absent.remove(&4);
    bench.redundant(fault, REDUNDANT_WITHIN).await;

    let leader = network::led(bench).await.0;
    let gone =
        bench.cluster().ids().into_iter().find(|node| *node < 4 && *node != leader).expect("one of two");
    let fault = bench.fault(format!(
        "node {gone} is taken out while node {leader}, the leader, is cut off from the others"
    ));
    let rules = fault::around(leader, &[1, 2, 3, 4], Fault::Drop);
    let remove = ["remove", &gone.to_string()];
    let asked = ask(bench, leader, &remove);
    bench.recovered(fault, network::NEXT_WRITE_WITHIN).await;
    let times = change(bench, &remove).await;
    bench.note(format!("it was asked for {times} times"));
    drop(asked);
    network::heal(bench, fault, "removed-while-leader-isolated", rules);
    let (reason, remedy) = bench.cluster().wait_closed(gone, CHANGED_WITHIN).await;
    let said = reason.starts_with("removed") && remedy.contains("--join");
    bench.check(Invariant::StopsWhenWrong, said, format!("node {gone} was taken out: {reason}; {remedy}"));
    bench.cluster().terminate(gone).await;
    bench.cluster().retire(gone);
    bench.redundant(fault, REDUNDANT_WITHIN).await;

    bench.cluster().start_node(5);
    let address = bench.cluster().entry(5).peers.to_string();
    let leader = network::led(bench).await.0;
    let fault = bench.fault(format!("node 5 is added while node {leader}, the leader, is paused"));
    let add = ["add", "5", "--address", &address];
    let asked = ask(bench, leader, &add);
    bench.cluster().pause(leader);
    bench.injected("added-while-leader-paused", 1);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    let times = change(bench, &add).await;
    bench.note(format!("it was asked for {times} times"));
    bench.cluster().resume(leader);
    bench.over(fault);
    drop(asked);
    bench.cluster().wait_voter(5, CHANGED_WITHIN).await;
    bench.absent.remove(&5);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
    let listed = oknoctl(bench.cluster(), &["member", "list"]).await.done();
    let listed: Vec<u64> = listed["members"]
        .as_array()
        .map(|all| all.iter().filter_map(|member| member["node_id"].as_u64()).collect())
        .unwrap_or_default();
    let mut expected = bench.cluster().ids();
    expected.sort_unstable();
    bench.check(
        Invariant::SameState,
        listed == expected,
        format!("members {listed:?}, expected {expected:?}"),
    );
}

/// Asks one node for a change, and does not wait for what it says; ends with the handle.
fn ask(bench: &mut Bench, of: u64, arguments: &[&str]) -> tokio::process::Child {
    let node = of.to_string();
    let mut command = tokio::process::Command::from(crate::harness::cluster::bare(
        &crate::harness::cluster::sibling("oknoctl"),
    ));
    command
        .arg("--config")
        .arg(&bench.cluster().file.context)
        .args(["--node", &node, "member"])
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("oknoctl can be started")
}

async fn data_wiped(bench: &mut Bench) {
    bench.injected("directories-wiped", 0);
    bench.start(short()).await;
    let node = bench.cluster().follower().await;
    let fault = bench.fault(format!("node {node} is killed and loses its data"));
    bench.cluster().kill(node);
    bench.cluster().wipe(node);
    bench.injected("directories-wiped", 1);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    let (status, said) = bench.cluster().start_refused(node, NEXT_WRITE_WITHIN);
    let refused = !status.success() && said.contains("never used");
    bench.check(Invariant::StopsWhenWrong, refused, format!("with nothing it ended with {status}"));

    let entry = bench.cluster().entry(node).clone();
    let settings = entry.settings.display().to_string();
    let made = okno(&["init", "--config", &settings, "--members", bench.cluster().founders()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let look = Look::begin(bench, node).await;
    bench.cluster().start_node(node);
    let fate = look.fate(bench, REDUNDANT_WITHIN).await;
    let told =
        matches!(&fate, Fate::Quarantined { reason, took_part: false, .. } if reason.contains("incarnation"));
    bench.check(Invariant::StopsWhenWrong, told, format!("under its old id node {node} {fate}"));
    bench.cluster().terminate(node).await;
    bench.cluster().wipe(node);

    bench.cluster().make_joiner_at(4, node);
    bench.cluster().start_node(4);
    let (old, address) = (node.to_string(), bench.cluster().entry(4).peers.to_string());
    let replace = ["replace", &old, "--with", "4", "--address", &address];
    let began = Instant::now();
    change(bench, &replace).await;
    bench.figure("replaced_within_ms", began.elapsed().as_secs_f64() * 1e3);
    bench.over(fault);
    bench.cluster().wait_voter(4, CHANGED_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

async fn one_survivor(bench: &mut Bench) {
    bench.injected("members-lost-for-good", 0);
    bench.start(short()).await;
    let survivor = network::led(bench).await.0;
    let lost: Vec<u64> = bench.cluster().ids().into_iter().filter(|node| *node != survivor).collect();
    let fault =
        bench.fault(format!("nodes {lost:?} are lost; node {survivor}, which led, is all that is left"));
    for node in &lost {
        bench.cluster().kill(*node);
        bench.injected("members-lost-for-good", 1);
    }
    bench.cluster().kill(survivor);
    let old_entry = bench.cluster().entry(lost[0]).clone();
    let data = bench.cluster().entry(survivor).data.display().to_string();
    let old_id = bench.cluster().file.cluster_id.to_string();
    let looked = oknoctl(bench.cluster(), &["recover", "--data-dir", &data]).await.done();
    let made = oknoctl(bench.cluster(), &["recover", "--data-dir", &data, "--confirm", &old_id]).await.done();
    let stated = made["last_index"] == looked["last_index"] && made["last_index"].as_u64() > Some(0);
    bench.check(Invariant::Restorable, stated, format!("stated before {looked}, done {made}"));
    bench.figure("last_index_recovered", made["last_index"].as_f64().unwrap_or_default());
    let id: uuid::Uuid =
        made["cluster"].as_str().and_then(|id| id.parse().ok()).expect("a cluster id is told");
    bench.check(Invariant::Restorable, id.to_string() != old_id, "the cluster id is new");
    bench.cluster().refound(survivor, id);
    bench.cluster().start_node(survivor);
    let back = bench.recovered(fault, CHANGED_WITHIN).await;
    bench.figure("served_again_after_ms", back.as_secs_f64() * 1e3);

    // One of the lost ones was only away.
    bench.cluster().file.nodes.push(old_entry.clone());
    bench.absent(old_entry.id, "it is of the cluster that was given up");
    bench.cluster().start_node(old_entry.id);
    let desk = bench.cluster().desk_at(old_entry.id, "admin", "dev");
    let (watched, mut answered, mut led) = (Instant::now(), 0, Vec::new());
    while watched.elapsed() < WATCHED {
        if let Ok(status) = desk.status().await {
            answered += 1;
            led.extend((status.leader != 0).then_some(status.leader));
        }
        tokio::time::sleep(POLL).await;
    }
    let alone = answered > 0 && led.is_empty();
    let text = format!("the old member answered {answered} times, led by {led:?}");
    bench.check(Invariant::StopsWhenWrong, alone, text);
    bench.cluster().kill(old_entry.id);
    bench.cluster().retire(old_entry.id);

    for node in [11, 12] {
        bench.cluster().make_joiner(node);
        bench.cluster().start_node(node);
        let took = bench.cluster().add_voter(node, CHANGED_WITHIN).await;
        bench.figure(&format!("node_{node}_voted_after_ms"), took.as_secs_f64() * 1e3);
    }
    bench.over(fault);
    bench.redundant(fault, CHANGED_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}
