//! `oknoctl bench`: a closed loop of N clients through the public API, under mutual TLS.
//!
//! Every client has one operation under way at a time. `write` adds an entry of about 1 KB to a case, which succeeds
//! once a quorum has it on disk and it is applied; `read` gets a case, linearizable. The cases are opened beforehand,
//! four to a client, so that clients do not wait for each other's entities. The load shares the machine with what it
//! measures, so it runs on one thread and one lean connection per client, and never retries: a failed operation is
//! counted by its class.

mod link;
mod report;

pub use report::{Errors, Report, Run};

use crate::{
    cli::{self, Failure, Format},
    sample,
};
use clap::{Args, ValueEnum};
use futures::{StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use link::Link;
use okno_client::{
    Class, Client, Connector,
    v1::{
        AddDocumentRequest, DocumentForm, GetCaseRequest, ListOfficesRequest, ListServicesRequest,
        OpenCaseRequest, ReadOptions, ReceiverKind, RequestMeta,
    },
};
use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::LocalSet;

/// Entities a client goes round: commits of one entity follow each other, so one alone would measure latency only.
const CASES_PER_CLIENT: usize = 4;
/// A case takes 500 documents; a full one is replaced by a new one outside of the measurement.
const DOCUMENTS_PER_CASE: u32 = 490;
/// Cases are opened by so many calls at a time.
const SETUP_CONCURRENCY: usize = 32;
/// Of one operation: beyond it the outcome counts as unknown.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed operation, so that a node that is gone does not turn the loop into a busy one.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);
/// Makes a document's command about 1 KB on the wire.
const NOTE_BYTES: usize = 860;
/// Latencies are kept in microseconds up to a minute, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Options of the benchmark.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Numbers of clients, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: Vec<u32>,
    /// Length of a run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Load before the measurement begins
    #[arg(long, default_value_t = 2)]
    pub warm_up: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "write,read")]
    pub op: Vec<Op>,
    /// Connections at most; clients beyond share them
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Call the leader only
    #[arg(long)]
    pub leader_only: bool,
    /// Office of the cases; the first one unless given
    #[arg(long)]
    pub office: Option<String>,
    /// Service of the cases; the first active one for citizens unless given
    #[arg(long)]
    pub service: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Add a document of about 1 KB, durable on a quorum
    Write,
    /// Get a case, linearizable
    Read,
}

impl Op {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// Runs every combination asked for and prints the report.
pub async fn run(client: Client, args: BenchArgs, format: Format) -> Result<(), Failure> {
    let leader = client.find_leader().await;
    let endpoints: Vec<String> = client.endpoints().map(str::to_owned).collect();
    let targets = if args.leader_only {
        let leader =
            leader.ok_or_else(|| Failure::Usage("--leader-only: no endpoint is known to lead".to_owned()))?;
        vec![endpoints[leader].clone()]
    } else {
        endpoints
    };
    let place = place(&client, &args).await?;
    let settings = client.settings();
    let files = Arc::new(settings.tls.clone());
    let connectors = targets
        .iter()
        .map(|address| Connector::new(address, Arc::clone(&files), &settings.cluster))
        .collect::<Result<Vec<_>, _>>()?;
    let mut runs = Vec::new();
    for op in &args.op {
        for clients in &args.clients {
            eprintln!("{} with {clients} clients: {} s", op.name(), args.seconds);
            let run = Bench { client: &client, args: &args, place: &place, connectors: &connectors };
            runs.push(run.measure(*op, *clients).await?);
        }
    }
    let report = Report { profile: env!("OKNO_PROFILE").to_owned(), tls: "mutual TLS 1.3".to_owned(), runs };
    match format {
        Format::Json => cli::line(&report.to_json()),
        Format::Table => cli::line(&report.to_table()),
    }
    Ok(())
}

/// Where cases are opened.
struct Place {
    office: String,
    service: String,
}

async fn place(client: &Client, args: &BenchArgs) -> Result<Place, Failure> {
    let office = match &args.office {
        Some(office) => office.clone(),
        None => {
            let offices =
                client.call(ListOfficesRequest { page_size: 1, ..ListOfficesRequest::default() }).await?;
            let first = offices.response.offices.into_iter().next();
            first.ok_or_else(|| Failure::Usage("the directory has no office: give --office".to_owned()))?.code
        }
    };
    let service = match &args.service {
        Some(service) => service.clone(),
        None => {
            let services =
                client.call(ListServicesRequest { page_size: 200, ..ListServicesRequest::default() }).await?;
            let fits =
                |receivers: &[i32]| receivers.is_empty() || receivers.contains(&ReceiverKind::Person.into());
            let first = services.response.services.into_iter().find(|s| s.active && fits(&s.receivers));
            first
                .ok_or_else(|| {
                    Failure::Usage("the catalogue has no service for citizens: load it first".to_owned())
                })?
                .code
        }
    };
    Ok(Place { office, service })
}

struct Bench<'a> {
    client: &'a Client,
    args: &'a BenchArgs,
    place: &'a Place,
    connectors: &'a [Connector],
}

/// What the clients of a run have measured together.
struct Tally {
    latencies: Histogram<u64>,
    errors: Errors,
    /// Only what begins and ends between these counts.
    from: Instant,
    until: Instant,
}

impl Tally {
    fn done(&mut self, began: Instant, ended: Instant) {
        if began >= self.from && ended <= self.until {
            let micros = u64::try_from((ended - began).as_micros()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(micros.max(1));
        }
    }

    fn failed(&mut self, began: Instant, class: Class) {
        if began >= self.from {
            match class {
                Class::Refused => self.errors.refused += 1,
                Class::NotApplied => self.errors.not_applied += 1,
                Class::Unknown => self.errors.unknown += 1,
            }
        }
    }
}

impl Bench<'_> {
    async fn measure(&self, op: Op, clients: u32) -> Result<Run, Failure> {
        let count = clients as usize;
        let cases = self.open_cases(count * CASES_PER_CLIENT, op).await?;
        let links: Vec<Rc<Link>> = (0..count.min(self.args.connections as usize))
            .map(|n| Link::new(self.connectors[n % self.connectors.len()].clone()).map(Rc::new))
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::Usage(error.to_string()))?;
        for link in &links {
            link.connect().await.map_err(|error| Failure::Broken(format!("{}: {error}", link.address())))?;
        }
        let from = Instant::now() + Duration::from_secs(self.args.warm_up.into());
        let until = from + Duration::from_secs(self.args.seconds.into());
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .map_err(|error| Failure::Broken(format!("histogram: {error}")))?;
        let tally = Rc::new(RefCell::new(Tally { latencies, errors: Errors::default(), from, until }));
        let local = LocalSet::new();
        for (n, own) in cases.chunks(CASES_PER_CLIENT).enumerate() {
            let worker = Worker {
                link: Rc::clone(&links[n % links.len()]),
                tally: Rc::clone(&tally),
                cases: own.iter().map(|id| Target { case_id: id.clone(), documents: 0 }).collect(),
                document: document(),
                open: self.open_request(n),
            };
            local.spawn_local(worker.run(op, until));
        }
        local.await;
        let tally = tally.borrow();
        let percentile = |p: f64| milliseconds(tally.latencies.value_at_quantile(p));
        Ok(Run {
            op: op.name().to_owned(),
            clients,
            seconds: self.args.seconds,
            ops_per_s: rounded(tally.latencies.len() as f64 / f64::from(self.args.seconds), 1),
            p50_ms: percentile(0.5),
            p99_ms: percentile(0.99),
            p999_ms: percentile(0.999),
            errors: tally.errors,
        })
    }

    /// Opens cases through the retrying client; those for reading get one document, as most cases have few.
    async fn open_cases(&self, count: usize, op: Op) -> Result<Vec<String>, Failure> {
        futures::stream::iter((0..count).map(|n| async move {
            let case_id = self.client.call(self.open_request(n)).await?.response.case_id;
            if op == Op::Read {
                self.client.call(AddDocumentRequest { case_id: case_id.clone(), ..document() }).await?;
            }
            Ok::<_, Failure>(case_id)
        }))
        .buffered(SETUP_CONCURRENCY)
        .try_collect()
        .await
    }

    fn open_request(&self, n: usize) -> OpenCaseRequest {
        OpenCaseRequest {
            meta: None,
            office: self.place.office.clone(),
            service: self.place.service.clone(),
            applicants: vec![sample::applicant(u32::try_from(n).unwrap_or(u32::MAX))],
            ticket: None,
            note: String::new(),
        }
    }
}

fn document() -> AddDocumentRequest {
    AddDocumentRequest {
        meta: None,
        case_id: String::new(),
        kind: "application".to_owned(),
        form: DocumentForm::Original.into(),
        sheets: 2,
        reference: "0000 000000".to_owned(),
        note: "Load of the benchmark. ".chars().cycle().take(NOTE_BYTES).collect(),
    }
}

fn milliseconds(micros: u64) -> f64 {
    rounded(micros as f64 / 1000.0, 3)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// A case a client writes to or reads.
struct Target {
    case_id: String,
    documents: u32,
}

/// One client of the closed loop.
struct Worker {
    link: Rc<Link>,
    tally: Rc<RefCell<Tally>>,
    cases: Vec<Target>,
    document: AddDocumentRequest,
    open: OpenCaseRequest,
}

impl Worker {
    async fn run(mut self, op: Op, until: Instant) {
        let mut turn = 0;
        while Instant::now() < until {
            turn = (turn + 1) % self.cases.len();
            let began = Instant::now();
            let result = match op {
                Op::Write => self.write(turn).await,
                Op::Read => self.read(turn).await,
            };
            match result {
                Ok(()) => self.tally.borrow_mut().done(began, Instant::now()),
                Err(class) => {
                    self.tally.borrow_mut().failed(began, class);
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
            if self.cases[turn].documents >= DOCUMENTS_PER_CASE {
                self.replace(turn).await;
            }
        }
    }

    async fn write(&mut self, turn: usize) -> Result<(), Class> {
        let target = &mut self.cases[turn];
        let mut request = self.document.clone();
        request.meta = meta();
        request.case_id.clone_from(&target.case_id);
        let response = self.link.call(request, OPERATION_TIMEOUT).await?;
        target.documents = response.document_number;
        Ok(())
    }

    async fn read(&self, turn: usize) -> Result<(), Class> {
        let request =
            GetCaseRequest { read: Some(ReadOptions::default()), case_id: self.cases[turn].case_id.clone() };
        self.link.call(request, OPERATION_TIMEOUT).await.map(drop)
    }

    /// Puts a new case in the place of a full one; if that fails now, the next turn tries again.
    async fn replace(&mut self, turn: usize) {
        let mut request = self.open.clone();
        request.meta = meta();
        if let Ok(response) = self.link.call(request, OPERATION_TIMEOUT).await {
            self.cases[turn] = Target { case_id: response.case_id, documents: 0 };
        }
    }
}

fn meta() -> Option<RequestMeta> {
    Some(RequestMeta {
        request_id: okno_client::new_request_id().to_string(),
        attempt: 1,
        workstation: String::new(),
    })
}
