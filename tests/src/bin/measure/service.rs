//! What clients feel of planned work on a cluster: leadership handed over, every node restarted in turn, machines replaced. The writers use
//! the client library as applications do, so what it hides is hidden here too.

use okno_client::v1 as proto;
use okno_tests::cluster::Cluster;
use okno_tests::load::Load;
use okno_tests::members::oknoctl;
use okno_tests::plan::Plan;
use std::time::{Duration, Instant};

const WRITERS: usize = 16;
/// Writes between two events: everybody is back and at work.
const WRITES_BETWEEN: usize = 500;
/// Ids of machines that come in the place of others.
const FIRST_NEW: u64 = 11;
/// A window without an acknowledged write after it has failed.
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(30);

/// Hands leadership over, `count` times.
pub async fn transfers(count: usize) -> serde_json::Value {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(WRITES_BETWEEN).await;
    let mut windows = Vec::new();
    for _ in 0..count {
        cluster.wait_ready().await;
        load.progress(WRITES_BETWEEN).await;
        let begun = Instant::now();
        let request = proto::TransferLeaderRequest { meta: None, to: 0 };
        cluster.admin().client.call(request).await.expect("leadership is handed over");
        load.first_write_after(Instant::now(), NEXT_WRITE_WITHIN).await;
        windows.push((begun, Instant::now()));
    }
    finish("transfer", cluster, load, windows).await
}

/// SIGTERM, start and ready again, node by node: what an upgrade does besides exchanging the binary.
pub async fn rolling(rounds: usize) -> serde_json::Value {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(WRITES_BETWEEN).await;
    let mut windows = Vec::new();
    for _ in 0..rounds {
        for node in cluster.ids() {
            load.progress(WRITES_BETWEEN).await;
            let begun = Instant::now();
            let status = cluster.terminate(node).await;
            assert!(status.success(), "node {node} ended with {status}");
            cluster.start_node(node);
            cluster.wait_ready().await;
            load.first_write_after(Instant::now(), NEXT_WRITE_WITHIN).await;
            windows.push((begun, Instant::now()));
        }
    }
    finish("rolling", cluster, load, windows).await
}

/// Puts a new machine in the place of a member, the leader's among them, `count` times. The log is short, so that each new
/// one is sent a copy of the database. The clients are given the addresses of all machines beforehand.
pub async fn replacements(count: usize) -> serde_json::Value {
    let plan = Plan::default().setting("raft", "keep_log_for", "1s").setting("raft", "keep_log_entries", 100);
    let mut cluster = Cluster::prepare_as(&plan);
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    let founders = cluster.ids();
    let new = (0..).map(|n| FIRST_NEW + n).take(count);
    for node in new.clone() {
        cluster.make_joiner(node);
    }
    let load = Load::start(&cluster, WRITERS);
    load.progress(WRITES_BETWEEN).await;
    let mut windows = Vec::new();
    for (node, old) in new.clone().zip(founders.into_iter().chain(new)) {
        load.progress(WRITES_BETWEEN).await;
        let (from, to, address) = (old.to_string(), node.to_string(), cluster.entry(node).peers.to_string());
        let begun = Instant::now();
        cluster.start_node(node);
        let replaced =
            oknoctl(&cluster, &["member", "replace", &from, "--with", &to, "--address", &address]).await;
        assert_eq!(replaced.code, 0, "{replaced:?}");
        load.first_write_after(Instant::now(), NEXT_WRITE_WITHIN).await;
        windows.push((begun, Instant::now()));
        cluster.wait_closed(old, NEXT_WRITE_WITHIN).await;
        cluster.terminate(old).await;
        cluster.retire(old);
        cluster.wait_installed(node, NEXT_WRITE_WITHIN).await;
    }
    finish("replace", cluster, load, windows).await
}

/// Checks that nothing was lost, and says what the windows cost.
async fn finish(
    measurement: &str,
    cluster: Cluster,
    load: Load,
    windows: Vec<(Instant, Instant)>,
) -> serde_json::Value {
    // Panics on a call that failed for its caller.
    let ledger = load.finish().await;
    ledger.assert_on(&cluster, &cluster.ids()).await;
    cluster.assert_alike().await;
    let inside =
        |begun: Instant, answered: Instant| windows.iter().any(|(from, to)| answered > *from && begun < *to);
    let (during, calm): (Vec<_>, Vec<_>) =
        ledger.writes.iter().partition(|(begun, answered)| inside(*begun, *answered));
    let gaps: Vec<u64> = windows.iter().map(|window| ms(longest_silence(&ledger.writes, *window))).collect();
    serde_json::json!({
        "measurement": measurement,
        "writers": WRITERS,
        "events": windows.len(),
        "writes_acknowledged": ledger.writes.len(),
        "calls_failed": ledger.faults.len(),
        "attempts_hidden": ledger.retries,
        "calm_p99_ms": percentile(&calm, 99),
        "during_p50_ms": percentile(&during, 50),
        "during_p99_ms": percentile(&during, 99),
        "during_worst_ms": percentile(&during, 100),
        "longest_silence_ms": gaps.iter().max(),
        "silences_ms": gaps,
        "window_ms": windows.iter().map(|(from, to)| ms(*to - *from)).collect::<Vec<_>>(),
    })
}

/// The longest time within a window in which no write was acknowledged to anybody.
fn longest_silence(writes: &[(Instant, Instant)], (from, to): (Instant, Instant)) -> Duration {
    let mut answered: Vec<Instant> =
        writes.iter().map(|(_, answered)| *answered).filter(|at| *at > from && *at < to).collect();
    answered.sort();
    let ends = std::iter::once(from).chain(answered.iter().copied());
    let next = answered.iter().copied().chain(std::iter::once(to));
    ends.zip(next).map(|(a, b)| b - a).max().unwrap_or_default()
}

fn percentile(writes: &[&(Instant, Instant)], percent: usize) -> Option<u64> {
    let mut took: Vec<Duration> = writes.iter().map(|(begun, answered)| *answered - *begun).collect();
    took.sort();
    took.get((took.len() * percent / 100).min(took.len().saturating_sub(1))).copied().map(ms)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
