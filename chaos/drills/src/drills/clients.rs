//! Clients that die, hang, or ask again: workstations with open streams, requests that are repeated.

use crate::bench::Bench;
use crate::drill::{Drill, Need};
use crate::drills::process::{NEXT_WRITE_WITHIN, REDUNDANT_WITHIN, SOME_WRITES};
use crate::harness::cluster::{bare, sibling};
use crate::harness::plan::Plan;
use crate::harness::process::Process;
use crate::harness::{desk, eventually, http, people};
use okno_checks::invariants::Invariant;
use okno_client::{CallError, v1 as proto};
use std::process::Stdio;
use std::time::Duration;

pub const WORKSTATION_LOST: Drill = Drill {
    name: "workstation-lost",
    faults: &[35],
    needs: &[Need::Oknoctl],
    scenario: "Twenty clients hold streams of changes open; half of them are killed (SIGKILL), the others stand still \
               (SIGSTOP) with their connections open while changes come.",
    expected: "Nobody else notices: the nodes let the dead go, hold back for the standing ones no more than their bounds \
               allow, and the work goes on.",
    run: |bench| Box::pin(workstation_lost(bench)),
};

const WATCHERS: usize = 20;
/// A connection whose process is gone is closed by the kernel; the node notices at once or at its next write.
const LET_GO_WITHIN: Duration = Duration::from_secs(20);
/// Changes that pile up in front of somebody who stands still.
const MEANWHILE: Duration = Duration::from_secs(5);

async fn workstation_lost(bench: &mut Bench) {
    bench.injected("client-killed", 0);
    bench.injected("client-paused", 0);
    bench.start(Plan::default()).await;
    let before = connections(bench).await;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut command = bare(&sibling("oknoctl"));
        let file = &bench.cluster().file;
        let endpoints: Vec<String> = file.nodes.iter().map(|entry| entry.clients.to_string()).collect();
        let auditor = &file.identities["auditor/revizor"];
        command
            .args(["--endpoints", &endpoints.join(","), "--cluster", &file.cluster, "--ca"])
            .arg(&file.authorities["clients"].certificate)
            .arg("--cert")
            .arg(&auditor.certificate)
            .arg("--key")
            .arg(&auditor.key)
            .args(["case", "watch", "--office", people::BUSY_OFFICE])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        watchers.push(Process::start(command, "oknoctl").expect("oknoctl can be started"));
    }
    eventually("every watcher is connected", LET_GO_WITHIN, async || {
        for watcher in &mut watchers {
            assert!(watcher.try_wait().is_none(), "a watcher ended by itself");
        }
        let now = connections(bench).await;
        if now >= before + WATCHERS as f64 { Ok(()) } else { Err(format!("{before} before, {now} now")) }
    })
    .await;
    let full = connections(bench).await;
    let fault = bench.fault(format!("{} clients are killed, {} stand still", WATCHERS / 2, WATCHERS / 2));
    let standing = watchers.split_off(WATCHERS / 2);
    for watcher in &standing {
        watcher.signal(libc::SIGSTOP);
        bench.injected("client-paused", 1);
    }
    let killed = watchers.len();
    for mut watcher in watchers {
        watcher.kill();
        watcher.wait();
        bench.injected("client-killed", 1);
    }
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    eventually("the nodes let the dead go", LET_GO_WITHIN, async || {
        let now = connections(bench).await;
        if now <= full - killed as f64 { Ok(()) } else { Err(format!("{full} before, {now} now")) }
    })
    .await;
    tokio::time::sleep(MEANWHILE).await;
    drop(standing);
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.progress(SOME_WRITES, NEXT_WRITE_WITHIN).await;
}

/// Connections of clients at all nodes, as the nodes count them.
async fn connections(bench: &mut Bench) -> f64 {
    let mut all = 0.0;
    for node in bench.cluster().ids() {
        let address = bench.cluster().entry(node).health;
        let text = http::get(address, "/metrics").await.expect("a node tells its figures");
        let figure = text
            .lines()
            .find(|line| line.starts_with("okno_clients_connections "))
            .and_then(|line| line.rsplit_once(' '))
            .and_then(|(_, value)| value.parse::<f64>().ok());
        all += figure.expect("connections are among the figures");
    }
    all
}

pub const REPLAYED_IDS: Drill = Drill {
    name: "replayed-ids",
    faults: &[38],
    needs: &[],
    scenario: "Requests that succeeded are made again under their ids: at every node, after the leader was killed, after \
               all nodes were restarted; and with other contents, and by somebody else.",
    expected: "The same answer every time and one effect; other contents under a known id are refused by name; an id of \
               somebody else's is another request.",
    run: |bench| Box::pin(replayed_ids(bench)),
};

struct Replay {
    open: proto::OpenCaseRequest,
    case: String,
    add: proto::AddDocumentRequest,
    number: u32,
    index: u64,
}

async fn replayed_ids(bench: &mut Bench) {
    bench.injected("replay", 0);
    bench.injected("reuse", 0);
    bench.start(Plan::default()).await;
    let officer = bench.cluster().officer();
    let mut open = desk::open(people::QUIET_OFFICE, 1);
    open.meta = desk::meta(uuid::Uuid::now_v7(), 1);
    let opened = officer.call(open.clone()).await.expect("a case is opened");
    let mut add = desk::document(&opened.case_id, "once");
    add.meta = desk::meta(uuid::Uuid::now_v7(), 1);
    let added = officer.call(add.clone()).await.expect("a document is taken");
    let index = |meta: &Option<proto::WriteMeta>| meta.as_ref().map_or(0, |meta| meta.applied_index);
    let replay =
        Replay { open, case: opened.case_id, add, number: added.document_number, index: index(&added.meta) };
    again(bench, &replay, "at once").await;

    let leader = bench.cluster().leader().await;
    let fault = bench.fault(format!("node {leader}, the leader, is killed"));
    bench.cluster().kill(leader);
    bench.recovered(fault, NEXT_WRITE_WITHIN).await;
    again(bench, &replay, "after the leader was lost").await;
    bench.cluster().start_node(leader);
    bench.over(fault);
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.cluster().wait_ready().await;

    let fault = bench.fault("all nodes are killed and started");
    bench.cluster().kill_all();
    bench.cluster().start_all();
    bench.over(fault);
    bench.recovered(fault, REDUNDANT_WITHIN).await;
    bench.redundant(fault, REDUNDANT_WITHIN).await;
    bench.cluster().wait_ready().await;
    again(bench, &replay, "after a restart of all").await;

    // Another caller's id is another request, even when the ids are the same.
    let mut theirs = desk::open(people::BUSY_OFFICE, 900_000);
    theirs.meta.clone_from(&replay.open.meta);
    theirs.office = people::QUIET_OFFICE.into();
    let stranger = bench.cluster().desk("operator", &people::writer(0));
    let answer = stranger.call(theirs).await;
    let apart = match &answer {
        Ok(opened) => opened.case_id != replay.case,
        // Of another office: refused for that, and not told somebody else's answer.
        Err(error) => matches!(error, CallError::Refused(_)) && error.reason() != "REQUEST_ID_REUSED",
    };
    bench.check(Invariant::OnceARequest, apart, "somebody else's request of the same id is another one");
}

async fn again(bench: &mut Bench, replay: &Replay, when: &str) {
    for node in bench.cluster().running() {
        let own = bench.cluster().desk_at(node, "operator", people::OFFICER);
        let opened = own.call(replay.open.clone()).await;
        let same = opened.as_ref().is_ok_and(|answer| answer.case_id == replay.case);
        bench.check(Invariant::OnceARequest, same, format!("opening again at node {node} {when}"));
        let added = own.call(replay.add.clone()).await;
        let same = added.as_ref().is_ok_and(|answer| {
            let index = answer.meta.as_ref().map_or(0, |meta| meta.applied_index);
            answer.document_number == replay.number && index == replay.index
        });
        bench.check(Invariant::OnceARequest, same, format!("adding again at node {node} {when}"));
        bench.injected("replay", 2);
        let mut other = desk::document(&replay.case, "another");
        other.meta.clone_from(&replay.add.meta);
        let refused = own.call(other).await;
        let named = refused.as_ref().is_err_and(|error| error.reason() == "REQUEST_ID_REUSED");
        bench.check(Invariant::OnceARequest, named, format!("other contents at node {node} {when}"));
        bench.injected("reuse", 1);
    }
    let case = bench.cluster().officer().case(&replay.case).await.expect("the case is there");
    let detail = format!("{} documents {when}", case.documents.len());
    bench.check(Invariant::OnceARequest, case.documents.len() == 1, detail);
}
