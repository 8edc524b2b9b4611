//! What clients feel of planned work on a cluster: leadership handed over, every node restarted in turn. The writers use
//! the client library as applications do, so what it hides is hidden here too.

use okno_client::v1 as proto;
use okno_tests::cluster::Cluster;
use okno_tests::load::Load;
use std::time::{Duration, Instant};

const WRITERS: usize = 16;
/// Writes between two events: everybody is back and at work.
const WRITES_BETWEEN: usize = 500;
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
