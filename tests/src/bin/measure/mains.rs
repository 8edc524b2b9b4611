//! From mains lost at one machine to the notice at a workstation that is attached to another node (R-R4: under 5 s).

use okno_drills::harness::ups::Supplies;
use okno_tests::{cluster::Cluster, station::Station};
use std::time::{Duration, Instant};

/// A notice that takes longer is not told at all.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// How long mains must stand before the alarm is over; short, so that the next try comes soon.
const STEADY: &str = "1s";

/// Loses mains at node 1, `count` times. Needs Debian's nut-server, like the tests of supplies.
pub async fn losses(count: usize) -> serde_json::Value {
    let supplies = Supplies::start(&["u1"]).await;
    let mut cluster = Cluster::prepare(3);
    cluster.set_of(1, "power", "steady", STEADY);
    supplies.feed(&cluster, 1, &["u1"]);
    cluster.start_all();
    cluster.wait_ready().await;
    cluster.fill().await;
    let mut station = Station::attach(&cluster, 2, "ws-tikhaya-3").await;
    let mut told: Vec<Duration> = Vec::new();
    for number in 1..=count {
        let lost = Instant::now();
        supplies.say("u1", "OB DISCHRG", 97, 1_700);
        station.notice("ON_BATTERY", TOLD_WITHIN).await;
        told.push(lost.elapsed());
        eprintln!("try {number}: told after {:?}", lost.elapsed());
        supplies.say("u1", "OL CHRG", 95, 1_700);
        station.notice("ALARM_OVER", TOLD_WITHIN).await;
    }
    told.sort();
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    serde_json::json!({
        "measurement": "mains",
        "losses": count,
        "median_ms": told.get(told.len() / 2).map(ms),
        "worst_ms": told.last().map(ms),
    })
}
