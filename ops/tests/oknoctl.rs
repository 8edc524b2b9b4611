//! The binary against scripted nodes behind mutual TLS: exit codes, both forms of output, and the benchmark's JSON.

#[path = "../../proto/client/tests/support/mod.rs"]
mod support;

use okno_ops::bench::Report;
use serde_json::Value;
use std::{process::Output, time::Duration};
use support::{CLUSTER, Node, Pki, Step, again, dead_address, later, status};
use tokio::process::Command;
use tonic::Code;

/// Runs `oknoctl` with a context file of these endpoints.
async fn oknoctl(pki: &Pki, endpoints: &[&str], line: &str) -> Output {
    let context = pki.dir.path().join("oknoctl.toml");
    let text = format!(
        "endpoints = {endpoints:?}\ncluster = \"{CLUSTER}\"\nca = \"ca.pem\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\n"
    );
    std::fs::write(&context, text).expect("written");
    Command::new(env!("CARGO_BIN_EXE_oknoctl"))
        .env_clear()
        .arg("--config")
        .arg(&context)
        .args(line.split_whitespace())
        .output()
        .await
        .expect("oknoctl runs")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

const ADD: &str = "case add-document c --kind passport --deadline 10s";
/// Of two attempts a second apart none stands at the end of it, where it could be cut off.
const BRIEFLY: &str = "case add-document c --kind passport --deadline 1900ms";
const PAUSE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_change_that_succeeds() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, Vec::new()).await;
    let table = oknoctl(&pki, &[&node.address], ADD).await;
    assert_eq!((table.status.code(), stdout(&table)), (Some(0), "document 1 added\n"), "{}", stderr(&table));
    let json = oknoctl(&pki, &[&node.address], &format!("{ADD} -o json")).await;
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["document_number"], 1);
}

#[tokio::test]
async fn every_class_of_failure_has_its_exit_code() {
    let pki = Pki::new();
    for (status, reason, expected, class) in [
        (status(Code::InvalidArgument, "SHEETS_INVALID"), "SHEETS_INVALID", 1, "refused"),
        (later("NO_LEADER", PAUSE), "NO_LEADER", 3, "not_applied"),
        (again("OUTCOME_UNKNOWN", PAUSE), "OUTCOME_UNKNOWN", 4, "unknown"),
    ] {
        let script = (0..200).map(|_| Step::Fail(status.clone())).collect();
        let node = Node::start(&pki, 1, 1, script).await;
        let output = oknoctl(&pki, &[&node.address], &format!("{BRIEFLY} -o json")).await;
        assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
        let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert_eq!(error["error"]["class"], class);
        assert_eq!(error["error"]["reason"], reason);
        assert!(error["error"]["request_id"].is_string(), "{error}");
        assert!(output.stdout.is_empty());
        assert!(node.seen().len() <= 2, "the deadline bounds the attempts");
    }
}

#[tokio::test]
async fn an_unknown_outcome_tells_how_to_find_out() {
    let pki = Pki::new();
    let script = (0..200).map(|_| Step::Fail(again("OUTCOME_UNKNOWN", PAUSE))).collect();
    let node = Node::start(&pki, 1, 1, script).await;
    let output = oknoctl(&pki, &[&node.address], BRIEFLY).await;
    let seen = node.seen();
    let last = seen.last().expect("called");
    let hint = format!("--request-id {} --attempt {}", last.request_id, last.attempt + 1);
    assert!(stderr(&output).contains(&hint), "{}", stderr(&output));
    // And that is how it goes on: the same id, the next attempt.
    let fresh = Node::start(&pki, 1, 1, Vec::new()).await;
    let output = oknoctl(&pki, &[&fresh.address], &format!("{ADD} {hint}")).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let now = fresh.seen();
    assert_eq!((&now[0].request_id, now[0].attempt), (&last.request_id, last.attempt + 1));
}

#[tokio::test]
async fn status_shows_every_endpoint_and_fails_when_none_answers() {
    let pki = Pki::new();
    let node = Node::start(&pki, 2, 2, Vec::new()).await;
    let dead = dead_address().await;
    let output = oknoctl(&pki, &[&dead, &node.address], "status -o json").await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["nodes"][0]["endpoint"], dead.as_str());
    assert_eq!(value["nodes"][0]["error"]["reason"], "UNREACHABLE");
    assert_eq!(value["nodes"][1]["status"]["node_id"], 2);
    let none = oknoctl(&pki, &[&dead], "status").await;
    assert_eq!(none.status.code(), Some(3), "{}", stderr(&none));
}

#[tokio::test]
async fn leadership_that_is_there_already_is_done() {
    let pki = Pki::new();
    let follower = Node::start(&pki, 1, 2, Vec::new()).await;
    let leader = Node::start(&pki, 2, 2, Vec::new()).await;
    let nodes = [follower.address.as_str(), &leader.address];
    let output = oknoctl(&pki, &nodes, "transfer-leader --to 2").await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "node 2 leads in term 1\n"));
    // The scripted node hands nothing over: its refusal is the command's.
    let output = oknoctl(&pki, &nodes, "transfer-leader --to 1").await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[tokio::test]
async fn what_cannot_be_set_up_is_a_usage_error() {
    let pki = Pki::new();
    for line in ["case", "case show", "status --key /nonexistent.pem", "status --config /nonexistent.toml"] {
        let output = oknoctl(&pki, &["127.0.0.1:1"], line).await;
        assert_eq!(output.status.code(), Some(2), "{line}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{line}");
    }
    let help = oknoctl(&pki, &["127.0.0.1:1"], "--help").await;
    assert_eq!(help.status.code(), Some(0));
}

#[tokio::test]
async fn the_benchmark_counts_what_it_does() {
    let pki = Pki::new();
    let refused = (0..30).map(|_| Step::Done).chain([Step::Fail(status(Code::Unavailable, "OVERLOADED"))]);
    let node = Node::start(&pki, 1, 1, refused.collect()).await;
    let line = "bench --office c1 --service s --clients 1,4 --seconds 1 --warm-up 0 --op write,read -o json";
    let output = oknoctl(&pki, &[&node.address], line).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Report = serde_json::from_slice(&output.stdout).expect("the agreed shape");
    let runs: Vec<_> = report.runs.iter().map(|run| (run.op.as_str(), run.clients)).collect();
    assert_eq!(runs, [("write", 1), ("write", 4), ("read", 1), ("read", 4)]);
    assert_eq!(report.runs[0].errors.not_applied, 1, "{report:?}");
    for run in &report.runs {
        assert!(run.ops_per_s > 0.0 && run.p50_ms > 0.0 && run.p99_ms >= run.p50_ms, "{run:?}");
    }
    let acknowledged: f64 = report.runs.iter().map(|run| run.ops_per_s).sum();
    assert!(node.seen().len() as f64 >= acknowledged, "more was counted than the node has seen");
}

#[tokio::test]
async fn the_benchmark_at_the_leader_only() {
    let pki = Pki::new();
    let follower = Node::start(&pki, 1, 2, Vec::new()).await;
    let leader = Node::start(&pki, 2, 2, Vec::new()).await;
    let line =
        "bench --office c1 --service s --clients 2 --seconds 1 --warm-up 0 --op write --leader-only -o json";
    let output = oknoctl(&pki, &[&follower.address, &leader.address], line).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // Opening the cases goes through the retrying client, which takes any node.
    assert!(follower.seen().len() <= 8, "{}", follower.seen().len());
    assert!(leader.seen().len() > 8);
}
