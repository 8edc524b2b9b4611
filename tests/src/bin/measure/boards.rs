//! What the boards of an office cost it: 500 commits a second in one office without boards, and with many that watch it on
//! one node, in turns.
//!
//! - The commits are visits: ticket, call, call again, begin, finish; four of the five change the board.
//! - Writers and boards are at the leader: the node that decides, replicates and applies also serves every board.
//! - Every board is a client of its own with a connection of its own, as in a hall. They share a thread of this process that
//!   yields to everything else: boards are machines of their own, and what they cost the node is asked for. That they keep up all
//!   the same is checked.
//! - At the end every board must show what the queue shows, having been told of every change or of a later one of the ticket.

use crate::figures::{Page, Worker, millis, paced, percentile, ratio, resident_mib, summary};
use futures::StreamExt;
use okno_client::{Board, BoardWatch, v1 as proto};
use okno_tests::{
    cluster::{Cluster, DevFile, NodeEntry, Pair},
    desk::{Desk, reference},
    eventually, people,
    people::BUSY_OFFICE as OFFICE,
    queue,
};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::watch;

/// What an office may come to, with every window at work.
const RATE: u32 = 500;
const SECONDS: u32 = 7;
/// Phases with boards; one more is without, for they take turns: a disk that is slow for a while is slow for both.
const ROUNDS: usize = 11;
/// Counted by nobody: connections, caches and windows are opened in it.
const WARM_UP_SECONDS: u32 = 5;
/// Each has one visitor at a time: more than ever have a call under way.
const WINDOWS: usize = 48;
/// Letters of the office's groups, one a service: 999 tickets each.
const LETTERS: &str = "АБВГДЕЖЗИКЛМНОПРСТ";
const SERVICES: [&str; 17] = [
    "fns.inn",
    "fns.register-extract",
    "fns.sole-trader",
    "mfc.bankruptcy",
    "mvd.driving-licence",
    "mvd.no-criminal-record",
    "mvd.passport-abroad",
    "mvd.passport",
    "mvd.residence",
    "mvd.stay",
    "rosreestr.cadastre-rights",
    "rosreestr.extract",
    "rosreestr.rights",
    "sfr.birth-grant",
    "sfr.maternity-capital",
    "sfr.snils",
    "sfr.unified-benefit",
];
/// Boards that connect at a time: fewer than a node takes handshakes.
const CONNECTING: usize = 16;
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
/// Until the last change has reached every board: its frame is under way for a fraction of a second.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

pub async fn boards(watchers: usize) -> Value {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await.0;
    furnish(&cluster).await;
    let taken = Rc::new(Cell::new(0));
    let mut visits: Vec<Visit> = (1..=WINDOWS)
        .map(|window| Visit {
            desk: cluster.desk_at(leader, "operator", &people::writer(window % people::WRITERS_MAX)),
            window: window.to_string(),
            taken: Rc::clone(&taken),
            at: At::Nothing,
        })
        .collect();
    paced(&mut visits, RATE, WARM_UP_SECONDS).await;

    let (mut without, mut with) = (vec![phase(&cluster, leader, &mut visits).await], Vec::new());
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let watching = Watching::start(&cluster, leader, watchers).await;
        with.push(phase(&cluster, leader, &mut visits).await);
        seen.push(watching.end(&cluster, leader).await);
        without.push(phase(&cluster, leader, &mut visits).await);
    }
    assert_eq!(cluster.leader().await, leader, "leadership moved: measure again");

    let p99 = |phases: &[Phase]| percentile(&Phase::all(phases), 99);
    json!({
        "measurement": "boards",
        "commits_a_second_wanted": RATE,
        "watchers": watchers,
        "watched_node": leader,
        "without": summary(&Phase::all(&without)),
        "with": summary(&Phase::all(&with)),
        "p99_ratio": ratio(p99(&with), p99(&without)),
        "p99_ratio_of_median_phases": ratio(Phase::median_p99(&with), Phase::median_p99(&without)),
        // To the mean of the phases before and after it, the median of all phases with boards: a host that is slow for some
        // phases is slow on both sides.
        "p99_ratio_to_neighbours": median(to_neighbours(&with, &without)),
        // What the machine does by itself shows in how far phases of one kind differ.
        "phases_without": without.iter().map(Phase::told).collect::<Vec<_>>(),
        "phases_with": with.iter().map(Phase::told).collect::<Vec<_>>(),
        "boards": seen,
    })
}

struct Phase {
    seconds: f64,
    times: Vec<Duration>,
    leader_mib: u64,
    /// CPU of every node, in seconds a second.
    cpu: BTreeMap<u64, f64>,
}

impl Phase {
    /// Every commit of these phases.
    fn all(phases: &[Self]) -> Vec<Duration> {
        phases.iter().flat_map(|phase| &phase.times).copied().collect()
    }

    fn p99(&self) -> f64 {
        percentile(&self.times, 99).unwrap_or_default().as_secs_f64()
    }

    /// Of the phase in the middle: one in which the disk or the host stood still does not decide.
    fn median_p99(phases: &[Self]) -> Option<Duration> {
        median(phases.iter().map(Self::p99).collect()).map(Duration::from_secs_f64)
    }

    fn told(&self) -> Value {
        json!({
            "commits_a_second": (self.times.len() as f64 / self.seconds).round(),
            "commit": summary(&self.times),
            "watched_node_mib": self.leader_mib,
            "cores_used_by_node": self.cpu,
        })
    }
}

/// Phase `n` with boards stands between the phases `n` and `n + 1` without.
fn to_neighbours(with: &[Phase], without: &[Phase]) -> Vec<f64> {
    let around = without.windows(2).map(|around| (around[0].p99() + around[1].p99()) / 2.0);
    with.iter().zip(around).map(|(phase, around)| phase.p99() / around).collect()
}

fn median(mut each: Vec<f64>) -> Option<f64> {
    each.sort_by(f64::total_cmp);
    let lower = each.len().checked_sub(1)? / 2;
    Some((each[lower] + each[each.len() / 2]) / 2.0)
}

async fn phase(cluster: &Cluster, leader: u64, visits: &mut [Visit]) -> Phase {
    let before = cpu(cluster).await;
    let begun = Instant::now();
    let times = paced(visits, RATE, SECONDS).await;
    let seconds = begun.elapsed().as_secs_f64();
    let leader_mib = resident_mib(cluster, leader);
    let used = cpu(cluster).await;
    let share =
        |(node, after): (u64, f64)| (node, ((after - before[&node]) / seconds * 100.0).round() / 100.0);
    Phase { seconds, times, leader_mib, cpu: used.into_iter().map(share).collect() }
}

async fn cpu(cluster: &Cluster) -> BTreeMap<u64, f64> {
    let mut used = BTreeMap::new();
    for node in cluster.ids() {
        let page = Page::of(cluster, node).await;
        used.insert(node, page.get("process_cpu_seconds_total").expect("every node shows its CPU"));
    }
    used
}

/// The whole queue, a letter for every service, and windows enough.
async fn furnish(cluster: &Cluster) {
    queue::levelled(cluster).await;
    let admin = cluster.admin();
    let groups = SERVICES.iter().zip(LETTERS.chars()).map(|(service, letter)| proto::ServiceGroup {
        letter: letter.into(),
        name: (*service).into(),
        services: vec![(*service).into()],
    });
    let settings =
        proto::QueueSettings { office: OFFICE.into(), groups: groups.collect(), ..Default::default() };
    let request = proto::PutQueueSettingsRequest { meta: None, settings: Some(settings) };
    admin.call(request).await.expect("the settings are good");
    for number in 1..=WINDOWS {
        let window =
            proto::Window { office: OFFICE.into(), number: number.to_string(), ..Default::default() };
        let request = proto::PutWindowRequest { meta: None, window: Some(window) };
        admin.call(request).await.expect("a window is taken");
    }
}

/// Where a window's visit stands.
enum At {
    Nothing,
    Waiting,
    Called(proto::Ticket),
    CalledAgain(proto::Ticket),
    Serving(proto::Ticket),
}

/// One window: visit after visit, a commit a turn. A window calls once for every ticket that it had given out, so that
/// somebody always waits.
struct Visit {
    desk: Desk,
    window: String,
    /// Tickets of all windows so far: services take turns.
    taken: Rc<Cell<usize>>,
    at: At,
}

impl Worker for Visit {
    async fn turn(&mut self) {
        let (desk, window) = (&self.desk, &self.window);
        self.at = match std::mem::replace(&mut self.at, At::Nothing) {
            At::Nothing => {
                let number = self.taken.replace(self.taken.get() + 1);
                desk.take_ticket(OFFICE, SERVICES[number % SERVICES.len()]).await.expect("a ticket");
                At::Waiting
            }
            At::Waiting => At::Called(desk.call_next(OFFICE, window).await.expect("somebody waits")),
            At::Called(ticket) => {
                let request = proto::CallAgainRequest {
                    meta: None,
                    office: OFFICE.into(),
                    ticket: Some(reference(&ticket)),
                    window: window.clone(),
                };
                desk.call(request).await.expect("called again");
                At::CalledAgain(ticket)
            }
            At::CalledAgain(ticket) => {
                At::Serving(desk.begin(&ticket, window).await.expect("the visitor came"))
            }
            At::Serving(ticket) => {
                desk.finish(&ticket, window).await.expect("done");
                At::Nothing
            }
        };
    }
}

/// What one board was told.
#[derive(Default)]
struct Seen {
    /// Sequence of the first picture and of the last frame.
    first: u64,
    last: u64,
    /// Frames with news, frames that are a sign of life; pictures among them.
    frames: u64,
    idle: u64,
    anew: u64,
    entries: u64,
    /// How old the newest entry of a frame was, by the clock of this machine.
    ages: Vec<Duration>,
    board: Board,
}

/// How far the boards are, for those who wait for them.
#[derive(Default)]
struct Progress {
    connected: AtomicUsize,
    /// By board: the sequence of its last frame.
    sequences: Vec<AtomicU64>,
}

/// Boards at work on a thread of their own.
struct Watching {
    progress: Arc<Progress>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<Vec<Seen>>,
}

impl Watching {
    async fn start(cluster: &Cluster, node: u64, count: usize) -> Self {
        let sequences = (0..count).map(|_| AtomicU64::new(0)).collect();
        let progress = Arc::new(Progress { connected: AtomicUsize::new(0), sequences });
        let (stop, stopped) = watch::channel(false);
        let (file, entry) = (cluster.file.clone(), cluster.entry(node).clone());
        let pair = cluster.identity("board", "board-tikhaya").clone();
        let shared = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            yield_to_others();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(watch_all(&file, &entry, &pair, &shared, &stopped))
        });
        let watching = Self { progress, stop, thread };
        eventually("every board has its picture", CONNECTED_WITHIN, async || {
            let connected = watching.progress.connected.load(Ordering::Relaxed);
            if connected == count { Ok(()) } else { Err(format!("{connected} of {count}")) }
        })
        .await;
        watching
    }

    /// Waits until every board shows what there is, and ends them.
    async fn end(self, cluster: &Cluster, node: u64) -> Value {
        let watched_mib = resident_mib(cluster, node);
        let desk = cluster.desk_at(node, "board", "board-tikhaya");
        let picture = BoardWatch::new(desk.client, request()).next().await.expect("the picture");
        let mut shown = Board::default();
        shown.take(&picture);
        eventually("every board shows the last change", SHOWN_WITHIN, async || {
            let behind = |at: &&AtomicU64| at.load(Ordering::Relaxed) < picture.sequence;
            let behind = self.progress.sequences.iter().filter(behind).count();
            if behind == 0 { Ok(()) } else { Err(format!("{behind} are behind")) }
        })
        .await;
        self.stop.send_replace(true);
        let joined =
            tokio::task::spawn_blocking(|| self.thread.join()).await.expect("a thread is waited for");
        let boards = joined.expect("no board fails");
        for seen in &boards {
            assert_eq!(seen.board, shown, "a board shows what the queue shows");
        }
        let sum = |of: fn(&Seen) -> u64| boards.iter().map(of).sum::<u64>();
        // What every board would have been told change by change.
        let changes = sum(|seen| seen.last - seen.first);
        let ages: Vec<Duration> = boards.iter().flat_map(|seen| seen.ages.iter().copied()).collect();
        json!({
            "frames": sum(|seen| seen.frames),
            "frames_idle": sum(|seen| seen.idle),
            "pictures_again": sum(|seen| seen.anew),
            "changes": changes,
            "entries_told": sum(|seen| seen.entries),
            "entries_coalesced": changes.saturating_sub(sum(|seen| seen.entries)),
            "change_to_board_p50_ms": percentile(&ages, 50).map(millis),
            "change_to_board_p99_ms": percentile(&ages, 99).map(millis),
            "watched_node_mib_while_watched": watched_mib,
        })
    }
}

/// This thread runs when nothing else wants to (`SCHED_IDLE`).
fn yield_to_others() {
    let this = std::fs::read_link("/proc/thread-self").expect("a thread knows itself");
    let thread = this.file_name().expect("its last part is the thread's number");
    let done = std::process::Command::new("chrt").args(["--idle", "--pid", "0"]).arg(thread).output();
    assert!(done.expect("chrt is installed").status.success(), "a thread may yield");
}

fn request() -> proto::WatchBoardRequest {
    proto::WatchBoardRequest { office: OFFICE.into(), ..proto::WatchBoardRequest::default() }
}

async fn watch_all(
    file: &DevFile,
    node: &NodeEntry,
    pair: &Pair,
    progress: &Progress,
    stopped: &watch::Receiver<bool>,
) -> Vec<Seen> {
    // Connected some at a time, and all of them watched from their first frame on.
    let turns = tokio::sync::Semaphore::new(CONNECTING);
    let boards: futures::stream::FuturesUnordered<_> = (0..progress.sequences.len())
        .map(async |number| {
            let turn = turns.acquire().await.expect("never closed");
            let desk = Desk::connect(file, pair, std::iter::once(node));
            let mut watch = BoardWatch::new(desk.client, request());
            let picture = watch.next().await.expect("the picture");
            drop(turn);
            progress.connected.fetch_add(1, Ordering::Relaxed);
            watch_one(watch, &picture, &progress.sequences[number], stopped.clone()).await
        })
        .collect();
    boards.collect().await
}

async fn watch_one(
    mut watch: BoardWatch,
    picture: &proto::WatchBoardResponse,
    sequence: &AtomicU64,
    mut stopped: watch::Receiver<bool>,
) -> Seen {
    let mut seen = Seen { first: picture.sequence, last: picture.sequence, ..Seen::default() };
    seen.board.take(picture);
    sequence.store(picture.sequence, Ordering::Relaxed);
    loop {
        let frame = tokio::select! {
            frame = watch.next() => frame.expect("the board goes on"),
            _ = stopped.wait_for(|stopped| *stopped) => return seen,
        };
        seen.take(&frame);
        sequence.store(frame.sequence, Ordering::Relaxed);
    }
}

impl Seen {
    fn take(&mut self, frame: &proto::WatchBoardResponse) {
        self.anew += u64::from(frame.anew);
        if frame.sequence == self.last {
            self.idle += 1;
        } else {
            self.frames += 1;
            self.entries += frame.entries.len() as u64;
            // Behind the newest of a picture there may have come one that is gone again.
            let newest = frame.entries.last().filter(|newest| newest.sequence == frame.sequence);
            let at = newest.and_then(|newest| SystemTime::try_from(newest.at?).ok());
            self.ages.extend(at.and_then(|at| at.elapsed().ok()));
        }
        self.last = frame.sequence;
        self.board.take(frame);
    }
}
