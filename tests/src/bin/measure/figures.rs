//! What measurements have in common: calls at an even pace, times summed up, figures read from nodes.

use okno_drills::{harness::http, limits};
use okno_tests::cluster::Cluster;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// One who makes a call whenever its turn comes.
pub trait Worker {
    async fn turn(&mut self);
}

/// Gives out `rate` turns a second for so many seconds, at even distances, and tells how long after its moment each
/// was done: a turn that found no worker free has waited, and that is counted. The clock has steps of a millisecond.
pub async fn paced(workers: &mut [impl Worker], rate: u32, seconds: u32) -> Vec<Duration> {
    let (next, turns) = (Cell::new(0), rate * seconds);
    let begun = Instant::now();
    let working = workers.iter_mut().map(async |worker| {
        let mut took = Vec::new();
        while next.get() < turns {
            let number = next.replace(next.get() + 1);
            let moment = begun + Duration::from_secs(1) * number / rate;
            tokio::time::sleep_until(moment.into()).await;
            worker.turn().await;
            took.push(moment.elapsed());
        }
        took
    });
    futures::future::join_all(working).await.concat()
}

/// Count, median, 99th percentile and the longest, in milliseconds.
pub fn summary(times: &[Duration]) -> Value {
    json!({
        "count": times.len(),
        "p50_ms": percentile(times, 50).map(millis),
        "p99_ms": percentile(times, 99).map(millis),
        "worst_ms": percentile(times, 100).map(millis),
    })
}

pub fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let place = (sorted.len() * percent / 100).min(sorted.len().checked_sub(1)?);
    sorted.get(place).copied()
}

/// To hundredths.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

/// One time's part of another, to hundredths; `None`: one of them is missing or nought.
pub fn ratio(one: Option<Duration>, other: Option<Duration>) -> Option<f64> {
    let (one, other) = (one?.as_secs_f64(), other?.as_secs_f64());
    (other > 0.0).then(|| (one / other * 100.0).round() / 100.0)
}

/// A node's page of figures: family with its labels, as shown, and the value.
#[derive(Debug, Default)]
pub struct Page(BTreeMap<String, f64>);

impl Page {
    pub async fn of(cluster: &Cluster, node: u64) -> Self {
        let text = http::get(cluster.entry(node).health, "/metrics").await.expect("a node shows its figures");
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Those of a family that has labels, by the label `key`.
    pub fn by_label(&self, family: &str, key: &str) -> BTreeMap<String, f64> {
        let (begin, key) = (format!("{family}{{"), format!("{key}=\""));
        let of_family = self.0.iter().filter(|(name, _)| name.starts_with(&begin));
        let labelled = of_family.filter_map(|(name, value)| {
            let (_, rest) = name.split_once(&key)?;
            Some((rest.split_once('"')?.0.to_owned(), *value))
        });
        labelled.collect()
    }
}

/// Resident memory of a node, MiB.
pub fn resident_mib(cluster: &Cluster, node: u64) -> u64 {
    cluster.pid(node).and_then(limits::resident).expect("it runs") >> 20
}
