//! What pending timers cost: commands, restarts and the firing of other timers, before and after a million are set.
//!
//! - The timers are those of terms (R-C2): a case that is accepted has one for the day on which its term is near and one for
//!   its end, so that half as many cases as timers are opened. They are rows like all others and stand in one order by due
//!   time; nothing of them is kept in memory.
//! - The same cases lie on the same disks both times: first as drafts, which have no timer, then accepted. What differs is one
//!   commit a case with its two timers.
//! - The timers that fire meanwhile are of visitors who are put off for a minute, one a queue, in offices of their own.

use crate::{
    OPENERS, clients,
    figures::{Page, Worker, millis, paced, percentile, ratio, resident_mib, summary},
    open_cases_of, write,
};
use futures::StreamExt;
use okno_client::{Client, v1 as proto};
use okno_tests::{
    cluster::{Cluster, shipped_catalogue},
    desk::{self, Desk, reference},
    people, queue,
};
use proto::advance_case_request::Step;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

/// Timers of one accepted case.
const TIMERS_A_CASE: u64 = 2;
/// Services whose terms differ by a day each: due times are spread over weeks, as where people work.
const SERVICES: u32 = 30;
/// Commands a second while they are measured; what the machine is not busy with.
const RATE: u32 = 500;
/// Longer than visitors are put off for.
const SECONDS: u32 = 90;
const WARM_UP_SECONDS: u32 = 5;
const WORKERS: usize = 32;
/// Documents of a case before the next is opened.
const DOCUMENTS: u32 = 20;
/// Offices with visitors who are put off, how many each, and how far apart: a queue has one timer for all of them, which
/// fires once a second at most.
const OFFICES: usize = 20;
const PUT_OFF: u32 = 10;
const PUT_OFF_EVERY: Duration = Duration::from_secs(3);
/// Restarts of each kind.
const RESTARTS: usize = 3;
const FAMILY: &str = "okno_runtime_timers_late_seconds_bucket";

pub async fn timers(count: u64) -> Value {
    let mut cluster = Cluster::prepare(3);
    cluster.start_all();
    cluster.wait_ready().await;
    furnish(&cluster).await;
    let clients = clients(&cluster);
    let cases = count.div_ceil(TIMERS_A_CASE);
    let begun = Instant::now();
    let opened = open_cases_of(&clients, cases, 0, |number| service(number % SERVICES)).await;
    let seconds_to_open = begun.elapsed().as_secs_f64();

    let without = phase(&mut cluster, 0).await;
    let begun = Instant::now();
    accept_all(&clients, &opened).await;
    let seconds_to_accept = begun.elapsed().as_secs_f64();
    let with = phase(&mut cluster, 1).await;
    json!({
        "measurement": "timers",
        "kind": "terms of accepted cases, two a case",
        "timers": cases * TIMERS_A_CASE,
        "cases": cases,
        "seconds_to_open": seconds_to_open.round(),
        "seconds_to_accept": seconds_to_accept.round(),
        "without": without.told(),
        "with": with.told(),
        "p99_ratio": ratio(percentile(&with.commands, 99), percentile(&without.commands, 99)),
        "follower_ready_later_ms": with.follower.later_than(&without.follower),
        "cluster_writes_later_ms": with.whole.later_than(&without.whole),
    })
}

struct Phase {
    commands: Vec<Duration>,
    /// By bound in seconds: timers that fired meanwhile and were no later.
    late: BTreeMap<String, f64>,
    /// Rows of the family of timers, as the engine estimates them.
    timer_rows: f64,
    leader_mib: u64,
    follower: Restarts,
    whole: Restarts,
}

impl Phase {
    fn told(&self) -> Value {
        json!({
            "timer_rows_estimated": self.timer_rows,
            "commands_a_second_wanted": RATE,
            "command": summary(&self.commands),
            "timers_fired_late_by_seconds_at_most": self.late,
            "leader_mib": self.leader_mib,
            "follower_ready_ms": self.follower.told(),
            "cluster_writes_again_ms": self.whole.told(),
        })
    }
}

/// How long it took, each time.
#[derive(Default)]
struct Restarts(Vec<Duration>);

impl Restarts {
    fn told(&self) -> Vec<f64> {
        self.0.iter().copied().map(millis).collect()
    }

    /// By how much the slowest was slower than another's slowest.
    fn later_than(&self, other: &Self) -> Option<f64> {
        let slowest = |one: &Self| one.0.iter().max().copied().map(millis);
        Some(((slowest(self)? - slowest(other)?) * 100.0).round() / 100.0)
    }
}

async fn phase(cluster: &mut Cluster, number: u32) -> Phase {
    let leader = cluster.wait_ready().await.0;
    let mut workers: Vec<Documents> = (0..WORKERS)
        .map(|n| Documents {
            desk: cluster.desk_at(leader, "operator", &people::writer(n % people::WRITERS_MAX)),
            // Visitors of their own, beyond those of the cases.
            visitor: 900_000 + number * 10_000 + u32::try_from(n).unwrap_or(0) * 300,
            case: String::new(),
            added: 0,
        })
        .collect();
    paced(&mut workers, RATE, WARM_UP_SECONDS).await;
    let before = Page::of(cluster, leader).await;
    let ((), commands) = tokio::join!(put_off_all(cluster, leader), paced(&mut workers, RATE, SECONDS));
    let after = Page::of(cluster, leader).await;
    assert_eq!(cluster.leader().await, leader, "leadership moved: measure again");
    let earlier = before.by_label(FAMILY, "le");
    let late: BTreeMap<String, f64> = after
        .by_label(FAMILY, "le")
        .into_iter()
        .map(|(bound, count)| (bound.clone(), count - earlier.get(&bound).copied().unwrap_or(0.0)))
        .collect();
    let rows = after.by_label("okno_storage_rocksdb_keys", "family");
    let leader_mib = resident_mib(cluster, leader);
    let follower = restarts_of_a_follower(cluster).await;
    let whole = restarts_of_all(cluster).await;
    let timer_rows = rows.get("timer").copied().expect("the family of timers has its figure");
    Phase { commands, late, timer_rows, leader_mib, follower, whole }
}

/// A follower, killed: the end of the log is applied anew.
async fn restarts_of_a_follower(cluster: &mut Cluster) -> Restarts {
    let mut took = Restarts::default();
    for _ in 0..RESTARTS {
        let node = cluster.follower().await;
        cluster.kill(node);
        let begun = Instant::now();
        cluster.start_node(node);
        cluster.wait_ready().await;
        took.0.push(begun.elapsed());
    }
    took
}

/// All nodes, killed: until a write is acknowledged, by a leader that has looked for its timers.
async fn restarts_of_all(cluster: &mut Cluster) -> Restarts {
    let mut took = Restarts::default();
    for turn in 0..RESTARTS {
        cluster.kill_all();
        let begun = Instant::now();
        cluster.start_all();
        cluster.officer().open(990_000 + u32::try_from(turn).unwrap_or(0)).await.expect("a case");
        took.0.push(begun.elapsed());
        cluster.wait_ready().await;
    }
    took
}

/// An officer who adds documents to cases of their own.
struct Documents {
    desk: Desk,
    visitor: u32,
    case: String,
    added: u32,
}

impl Worker for Documents {
    async fn turn(&mut self) {
        if self.case.is_empty() || self.added == DOCUMENTS {
            self.visitor += 1;
            let request = desk::open(people::BUSY_OFFICE, self.visitor);
            self.case = self.desk.call(request).await.expect("a case").case_id;
            self.added = 0;
        } else {
            self.added += 1;
            self.desk.add(&self.case, &format!("д-{}", self.added)).await.expect("a document");
        }
    }
}

fn office(number: usize) -> String {
    format!("later-{number:02}")
}

/// The visitors who are put off, in all offices at a time.
async fn put_off_all(cluster: &Cluster, leader: u64) {
    let officer = cluster.desk_at(leader, "operator", people::OFFICER);
    futures::stream::iter(0..OFFICES)
        .for_each_concurrent(OFFICES, async |number| {
            let office = office(number);
            let mut turn = tokio::time::interval(PUT_OFF_EVERY);
            for _ in 0..PUT_OFF {
                turn.tick().await;
                officer.take_ticket(&office, people::SERVICE).await.expect("a ticket");
                let called = officer.call_next(&office, "1").await.expect("the visitor");
                let request = proto::PutOffTicketRequest {
                    meta: None,
                    office: office.clone(),
                    ticket: Some(reference(&called)),
                    window: "1".into(),
                    minutes: 1,
                };
                officer.call(request).await.expect("put off");
            }
        })
        .await;
}

/// The shipped catalogue and directory, services that ask for no document, offices for those who are put off.
async fn furnish(cluster: &Cluster) {
    let mut files = shipped_catalogue();
    files.push(proto::CatalogueFile { path: "services/measured.toml".into(), text: catalogue() });
    cluster.fill_with(&files).await;
    queue::levelled(cluster).await;
    let admin = cluster.admin();
    let mut codes = vec![people::QUIET_OFFICE.to_owned()];
    for number in 0..OFFICES {
        let code = office(number);
        let quiet = people::offices().swap_remove(0);
        let office = proto::Office { code: code.clone(), kiosks: Vec::new(), ..quiet };
        let request = proto::PutOfficeRequest { meta: None, office: Some(office) };
        admin.call(request).await.expect("an office is taken");
        let window = proto::Window { office: code.clone(), number: "1".into(), ..Default::default() };
        let request = proto::PutWindowRequest { meta: None, window: Some(window) };
        admin.call(request).await.expect("a window is taken");
        codes.push(code);
    }
    let officer = people::people().into_iter().find(|person| person.person_id == people::OFFICER);
    let person = proto::OfficePerson { offices: codes, ..officer.expect("she is one of them") };
    let request = proto::PutPersonRequest { meta: None, person: Some(person) };
    admin.call(request).await.expect("a person is taken");
}

fn service(number: u32) -> String {
    format!("measured.s{number:02}")
}

/// Services made up for the measurement: terms of 10 to 39 calendar days, documents only when they apply.
fn catalogue() -> String {
    let mut text = String::from("format = 1\n");
    for number in 0..SERVICES {
        let source = "{ act = \"Вымышленный приказ № 1\", checked = 2026-01-01, against = \"вымысел\", verified = false }";
        // A string takes whatever is written to it.
        let _ = write!(
            text,
            "[[service]]\ncode = \"{code}\"\nname = {{ ru = \"Замер {number}\", en = \"Measured {number}\" }}\n\
             authority = \"mfc\"\ngroup = \"З\"\nreceivers = [\"person\"]\n\
             execution = {{ days = {days}, kind = \"calendar\" }}\n\
             documents = [{{ code = \"passport\", name = {{ ru = \"Паспорт\", en = \"Passport\" }}, \
             need = \"when_applies\", form = \"original\" }}]\n\
             source = {source}\ndocuments_source = {source}\n\
             delivery = {{ days = 0, kind = \"calendar\", source = {source} }}\n",
            code = service(number),
            days = 10 + number,
        );
    }
    text
}

/// Accepts every case with many calls under way.
async fn accept_all(clients: &[Client], cases: &[String]) {
    let accepted = futures::stream::iter(cases.iter().enumerate())
        .map(|(number, case)| {
            let client = &clients[number % clients.len()];
            write(client, desk::advance(case, Step::Accept(proto::AcceptStep {})))
        })
        .buffer_unordered(OPENERS);
    let count = accepted.fold(0_usize, async |count, _| count + 1).await;
    assert_eq!(count, cases.len());
}
