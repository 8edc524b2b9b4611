//! `measure-backup [CASES]`: what a backup of a living cluster costs, and how fast it comes back. One JSON object.
//!
//! Opens so many cases (1,000,000), measures paced writes at half of what the cluster takes, first without and then
//! during a backup of everything, and the same around a second backup, which stores what is new, as one does every day;
//! then verifies the second and restores it to three data directories. Says when and for how long writes waited.
//! `scripts/measure-operations.sh` builds and runs it; `docs/operations.md` has the figures.

use okno_client::{Call, Client};
use okno_tests::{
    cluster::{Cluster, bare, sibling},
    desk, people,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Calls under way at a time while cases are opened: enough to fill the leader's batches.
const OPENERS: usize = 128;
/// Writers of the paced load; a late one does not hold up the others.
const PACED: usize = 64;
/// How long full and half load are measured.
const FULL: Duration = Duration::from_secs(20);
const HALF: Duration = Duration::from_secs(120);
/// A second in which a write waited longer than this, in milliseconds, is named.
const LONG_MS: f64 = 250.0;
/// A backup may take so long, and four hours is what a restore may take (R-R7).
const FOUR_HOURS: f64 = 4.0 * 3_600.0;

fn main() -> ExitCode {
    let cases = match std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse::<u64>()) {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("measure-backup: {error}\nusage: measure-backup [CASES]");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("{:#}", runtime.block_on(measure(cases)));
    ExitCode::SUCCESS
}

/// Runs `oknoctl -o json`; it must succeed. Also the seconds it took.
async fn oknoctl(context: &Path, arguments: &[String]) -> (Value, f64) {
    let mut command = tokio::process::Command::from(bare(&sibling("oknoctl")));
    let begun = Instant::now();
    let output = command
        .args(["-o", "json", "--config"])
        .arg(context)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("oknoctl can be started");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&output.stdout).expect("JSON was asked for"), seconds)
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

async fn measure(cases: u64) -> Value {
    let mut cluster = Cluster::prepare(3);
    let target = cluster.scratch().join("target");
    let target_text = target.display().to_string();
    cluster.set("backup", "target", target_text.as_str());
    cluster.set("backup", "same_medium", true);
    let context = cluster.file.context.clone();
    oknoctl(&context, &words(&format!("backup init --target {target_text}"))).await;
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    let clients: Vec<Client> =
        (0..people::WRITERS_MAX).map(|n| cluster.desk("operator", &people::writer(n)).client).collect();
    let begun = Instant::now();
    let opened = open_cases(&clients, cases).await;
    let seconds_to_open = begun.elapsed().as_secs_f64();
    eprintln!("{cases} cases in {seconds_to_open:.0} s");

    let full = Load::start(&clients, &opened, None);
    tokio::time::sleep(FULL).await;
    let full = full.stop().await;
    let rate = full.len() as f64 / FULL.as_secs_f64() / 2.0;
    let mut rounds = Vec::new();
    let mut made = Value::Null;
    for name in ["first", "next"] {
        let without = Load::start(&clients, &opened, Some(rate));
        tokio::time::sleep(HALF).await;
        let without = without.stop().await;
        let during = Load::start(&clients, &opened, Some(rate));
        let seconds;
        (made, seconds) = oknoctl(&context, &words("backup now")).await;
        let during = during.stop().await;
        let waited = (Waited::of(&without), Waited::of(&during));
        eprintln!("{name} backup in {seconds:.0} s; without {:?}, during {:?}", waited.0, waited.1);
        rounds.push((seconds, made["backup"]["new_bytes"].clone(), waited));
    }

    cluster.kill_all();
    let (verified, verify_seconds) =
        oknoctl(&context, &words(&format!("backup verify --target {target_text}"))).await;
    let members: Vec<String> = (1..=3).map(|id| format!("{id}=127.0.0.1:{}", 7_000 + id)).collect();
    let mut restore = words(&format!("restore --from {target_text} --until backup --members"));
    restore.push(members.join(","));
    restore.push("--backup".into());
    restore.push(made["backup"]["id"].as_str().expect("an id").to_owned());
    for id in 1..=3 {
        let directory = cluster.scratch().join(format!("restored-{id}"));
        restore.extend(["--to".to_owned(), format!("{id}={}", directory.display())]);
    }
    let (restored, restore_seconds) = oknoctl(&context, &restore).await;
    assert_eq!(restored["digest"], made["backup"]["digest"], "what comes back is what was there");

    let bytes = verified["bytes"].as_f64().expect("a number");
    let each = |seconds: f64| {
        json!({
            "seconds": seconds,
            "mb_per_s": bytes / seconds / 1e6,
            "cases_per_s": cases as f64 / seconds,
            "gb_in_four_hours": bytes / seconds * FOUR_HOURS / 1e9,
            "cases_in_four_hours": cases as f64 / seconds * FOUR_HOURS,
        })
    };
    json!({
        "measurement": "backup",
        "cases": cases,
        "seconds_to_open": seconds_to_open,
        "bytes": bytes,
        "backup_live": each(rounds[0].0),
        "verify": each(verify_seconds),
        "restore_to_three_directories": each(restore_seconds),
        "digest_equal": true,
        "writes_per_s_at_half_load": rate,
        "rounds": rounds.iter().map(|(seconds, new_bytes, (without, during))| json!({
            "seconds": seconds,
            "new_bytes": new_bytes,
            "p99_ms_without": without.p99,
            "p99_ms_during": during.p99,
            "p99_ratio": during.p99 / without.p99,
            "worst_ms_without": without.worst,
            "worst_ms_during": during.worst,
        })).collect::<Vec<_>>(),
    })
}

/// Opens cases with many calls under way; returns the ids of some, to write to.
async fn open_cases(clients: &[Client], count: u64) -> Arc<Vec<String>> {
    let next = Arc::new(AtomicU64::new(0));
    let openers = (0..OPENERS).map(|n| {
        let (client, next) = (clients[n % clients.len()].clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut some = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return some;
                }
                let visitor = u32::try_from(number).unwrap_or(0);
                let id = write(&client, desk::open(people::BUSY_OFFICE, visitor)).await.case_id;
                if number % 100_000 == 99_999 {
                    eprintln!("{} cases", number + 1);
                }
                // A case takes 500 documents: enough of them for the writes to come.
                if number.is_multiple_of(100) || count < 10_000 {
                    some.push(id);
                }
            }
        })
    });
    let opened = futures::future::join_all(openers).await;
    Arc::new(opened.into_iter().flat_map(|ids| ids.expect("an opener never panics")).collect())
}

async fn write<C: Call>(client: &Client, request: C) -> C::Response {
    client.call(request).await.expect("a healthy cluster takes it").response
}

/// When a write was due, in seconds since its load began, and how many milliseconds later it was done.
type Write = (f64, f64);

/// Writers, as fast as they can or paced, one after the other and not all at once. A write's time counts from when it was
/// due, so that waiting for one's turn counts too.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Vec<Write>>>,
}

impl Load {
    fn start(clients: &[Client], cases: &Arc<Vec<String>>, rate: Option<f64>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = uuid::Uuid::now_v7();
        let begun = Instant::now();
        let writers = (0..PACED)
            .map(|n| {
                let (client, cases) = (clients[n % clients.len()].clone(), Arc::clone(cases));
                let stop = Arc::clone(&stop);
                let pause = rate.map(|rate| Duration::from_secs_f64(PACED as f64 / rate));
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    for number in 0_u32.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let due = match pause {
                            Some(pause) => begun + pause.mul_f64(f64::from(number) + n as f64 / PACED as f64),
                            None => Instant::now(),
                        };
                        tokio::time::sleep_until(due.into()).await;
                        let case = &cases[(n + PACED * number as usize) % cases.len()];
                        write(&client, desk::document(case, &format!("{run}-{n}-{number}"))).await;
                        let at = due.duration_since(begun).as_secs_f64();
                        latencies.push((at, due.elapsed().as_secs_f64() * 1e3));
                    }
                    latencies
                })
            })
            .collect();
        Self { stop, writers }
    }

    async fn stop(self) -> Vec<Write> {
        self.stop.store(true, Ordering::Relaxed);
        let all = futures::future::join_all(self.writers).await;
        all.into_iter().flat_map(|one| one.expect("never panics")).collect()
    }
}

/// How long the writes of a load took, in milliseconds.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
struct Waited {
    p50: f64,
    p99: f64,
    worst: f64,
    /// Seconds of the load in which a write waited longer than [`LONG_MS`], and for how long.
    long: BTreeMap<u64, f64>,
}

impl Waited {
    fn of(writes: &[Write]) -> Self {
        let mut sorted: Vec<f64> = writes.iter().map(|(_, took)| *took).collect();
        sorted.sort_by(f64::total_cmp);
        let part = |part: usize| sorted.get(sorted.len() * part / 100).copied().unwrap_or_default();
        let mut long: BTreeMap<u64, f64> = BTreeMap::new();
        for (at, took) in writes.iter().filter(|(_, took)| *took > LONG_MS) {
            let worst = long.entry(*at as u64).or_default();
            *worst = worst.max(*took);
        }
        Self { p50: part(50), p99: part(99), worst: sorted.last().copied().unwrap_or_default(), long }
    }
}
