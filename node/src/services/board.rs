//! Hall boards (R-Q3): which number goes to which window, as this node applies it.
//!
//! One [`Hall`] an office follows the queue's journal while anybody watches and keeps what the queue itself keeps: the
//! picture and the last entries by their sequence. Every watcher stands at a sequence of its own and is sent what is
//! behind it, so that a slow one costs no memory: its next frame holds more, or the picture. Sequences are the queue's,
//! replicated, so a board goes on at any node.
//!
//! Invariants of a hall: `tail` has no gaps and ends at `last`; `shown` is what the entries so far leave on the board.

use super::{
    desk::Desk,
    watch::{SLOW_MAX, stopping},
};
use crate::{
    convert::{cases, timestamp},
    failure::Failure,
    front::CallContext,
};
use futures::{Stream, StreamExt};
use okno_domain::{
    entity::{Entity, EntityRef, Kind},
    queue::{BOARD_TAIL, BoardEntry, BoardNews, BoardState, Event, Queue, Share, TicketRef},
    registry::AnyEvent,
};
use okno_proto::v1;
use okno_runtime::query::{HistoryEntry, Query};
use okno_storage::error::StorageError;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Frames on their way to one board: the next waits at its own sequence, not in memory.
const QUEUE_MAX: usize = 2;
/// What changes within it comes in one frame: for people it is at once.
const FRAME_EVERY: Duration = Duration::from_millis(200);
/// One frame of all boards of a node in so long: what boards cost does not grow with their number, they are told more at a
/// time. A frame costs a node and a board some hundred microseconds together.
const FRAME_GAP: Duration = Duration::from_millis(2);
/// Frames that may come at once after a quiet while: the boards of a hall or two.
const FRAMES_AT_ONCE: u32 = 20;
/// Frames that have to wait leave on a grid of it, so that one turn of the node's threads serves several.
const GRID: Duration = Duration::from_millis(10);
/// No frame waits longer, also when boards that went away left their turns behind. Far below [`PROGRESS_EVERY`].
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Gathers what applies meanwhile into one look at the journal.
const GATHER: Duration = Duration::from_millis(50);
/// A frame comes at least so often, so that a board knows its node is alive.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Commits of a queue looked at in one turn.
const ROWS_MAX: usize = 256;
/// How long a board waits for its hall to have read what this node has applied.
const HALL_WAIT_MAX: Duration = Duration::from_secs(5);

pub type BoardStream = Pin<Box<dyn Stream<Item = Result<v1::WatchBoardResponse, tonic::Status>> + Send>>;

/// What a hall shows.
#[derive(Debug, Default)]
struct Picture {
    /// Everything up to this log index is in it.
    index: u64,
    last: u64,
    tail: VecDeque<Arc<BoardEntry>>,
    shown: BTreeMap<TicketRef, Shown>,
}

/// A ticket at a window.
#[derive(Debug)]
struct Shown {
    entry: Arc<BoardEntry>,
    /// What stands for the entry when it is no longer in the tail: a hall that begins then does not know it.
    beyond_tail: Option<Arc<BoardEntry>>,
}

/// What a board is told.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    sequence: u64,
    anew: bool,
    entries: Vec<Arc<BoardEntry>>,
}

impl Picture {
    fn of(queue: &Queue, index: u64) -> Self {
        let (last, shown) = queue.board();
        let oldest = last.saturating_sub(BOARD_TAIL);
        let tail = match queue.board_since(oldest) {
            BoardNews::Entries(entries) => entries.into(),
            BoardNews::StartAnew => VecDeque::new(),
        };
        let shown = shown.into_iter().map(|entry| {
            let beyond_tail = queue.ticket(&entry.ticket).and_then(BoardEntry::beyond_tail).map(Arc::new);
            (entry.ticket.clone(), Shown { entry, beyond_tail })
        });
        let shown = shown.collect();
        Self { index, last, tail, shown }
    }

    fn take(&mut self, commit: HistoryEntry) {
        self.index = commit.index;
        for event in commit.events {
            let AnyEvent::Queue(Event::Moved(moved)) = event else { continue };
            let Some(entry) = BoardEntry::of(&moved, commit.time_ms) else { continue };
            let beyond_tail = BoardEntry::beyond_tail(&moved.ticket).map(Arc::new);
            self.put(Shown { entry: Arc::new(entry), beyond_tail });
        }
    }

    fn put(&mut self, shown: Shown) {
        let entry = Arc::clone(&shown.entry);
        self.last = entry.sequence;
        self.tail.push_back(Arc::clone(&entry));
        if self.tail.len() > BOARD_TAIL as usize {
            self.tail.pop_front();
        }
        match entry.state {
            BoardState::Called | BoardState::Serving => self.shown.insert(entry.ticket.clone(), shown),
            BoardState::Gone => self.shown.remove(&entry.ticket),
        };
    }

    /// The picture's entry of a ticket, the same on every node.
    fn shows(&self, shown: &Shown) -> Arc<BoardEntry> {
        let old = shown.entry.sequence + BOARD_TAIL <= self.last;
        Arc::clone(shown.beyond_tail.as_ref().filter(|_| old).unwrap_or(&shown.entry))
    }

    /// What follows `after`; `None`: the picture is wanted. An unchanged board gives an empty frame.
    fn since(&self, after: Option<u64>) -> Frame {
        let oldest = self.tail.front().map_or(self.last + 1, |entry| entry.sequence);
        match after {
            Some(after) if after <= self.last && after + 1 >= oldest => {
                let news: Vec<_> = self.tail.iter().filter(|entry| entry.sequence > after).collect();
                // Of a ticket only the last: a board shows how things are.
                let newest: BTreeMap<&TicketRef, u64> =
                    news.iter().map(|entry| (&entry.ticket, entry.sequence)).collect();
                let entries = news
                    .into_iter()
                    .filter(|entry| newest.get(&entry.ticket) == Some(&entry.sequence))
                    .map(Arc::clone)
                    .collect();
                Frame { sequence: self.last, anew: false, entries }
            }
            _ => {
                let mut entries: Vec<_> = self.shown.values().map(|shown| self.shows(shown)).collect();
                entries.sort_by(|one, other| one.place().cmp(&other.place()));
                Frame { sequence: self.last, anew: true, entries }
            }
        }
    }
}

/// One office's board on this node.
struct Hall {
    picture: Mutex<Picture>,
    /// Sequence and log index of the picture; its end is the hall's.
    marks: watch::Receiver<(u64, u64)>,
}

/// The halls that somebody watches: at most as many as there are watch streams.
#[derive(Default)]
pub struct Boards {
    halls: Mutex<BTreeMap<String, Weak<Hall>>>,
    pace: Pace,
    told: Told,
}

/// When frames may leave, over all boards: the generic cell rate algorithm (ITU-T I.371). A change of a hall that a thousand
/// boards watch is so no burst of a thousand frames that commits wait for, and who changes alone is told at once.
///
/// A board that waits has one moment, and asks for the next when that has passed: so it waits for at most one frame of every
/// other board.
#[derive(Debug)]
struct Pace {
    begun: Instant,
    /// When all frames that have a moment would have left, had they come evenly.
    through: Mutex<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        let begun = Instant::now();
        Self { begun, through: Mutex::new(begun) }
    }
}

impl Pace {
    /// The moment of a frame that is ready `now`.
    fn moment(&self, now: Instant) -> Instant {
        let ahead = {
            let mut through = self.through.lock();
            let ahead = through.saturating_duration_since(now).min(AHEAD_MAX);
            *through = now + ahead + FRAME_GAP;
            ahead
        };
        let at_once = FRAME_GAP * (FRAMES_AT_ONCE - 1);
        if ahead <= at_once {
            return now;
        }
        let grid = GRID.as_nanos();
        let since = (now + (ahead - at_once)).saturating_duration_since(self.begun).as_nanos();
        let up = (grid - since % grid) % grid;
        now + (ahead - at_once) + Duration::from_nanos(u64::try_from(up).unwrap_or(0))
    }
}

/// What all boards of this node were told.
#[derive(Debug, Default)]
struct Told {
    streams: AtomicU64,
    frames: AtomicU64,
    entries: AtomicU64,
    /// Changes of which a board was told only what came of them.
    coalesced: AtomicU64,
    cut: AtomicU64,
}

impl Told {
    /// Counts a frame to a board that stood at `after`.
    fn frame(&self, after: Option<u64>, frame: &Frame) {
        let entries = frame.entries.len() as u64;
        let changes = after.filter(|_| !frame.anew).map_or(entries, |after| frame.sequence - after);
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.coalesced.fetch_add(changes.saturating_sub(entries), Ordering::Relaxed);
    }
}

impl Boards {
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        let halls = self.halls.lock().values().filter(|hall| hall.strong_count() > 0).count();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed) as f64;
        vec![
            ("halls", halls as f64),
            ("streams", count(&self.told.streams)),
            ("frames_total", count(&self.told.frames)),
            ("entries_total", count(&self.told.entries)),
            ("entries_coalesced_total", count(&self.told.coalesced)),
            ("cut_total", count(&self.told.cut)),
        ]
    }

    /// The hall of an office, which begins to follow the journal if nobody watched it so far.
    fn hall(&self, desk: &Arc<Desk>, office: &str) -> Result<Arc<Hall>, StorageError> {
        let mut halls = self.halls.lock();
        // One that has ended (its journal could not be read) is made anew.
        let known = halls.get(office).and_then(Weak::upgrade);
        if let Some(hall) = known.filter(|hall| hall.marks.has_changed().is_ok()) {
            return Ok(hall);
        }
        halls.retain(|_, hall| hall.strong_count() > 0);
        let slices = desk.query.subscribe();
        let picture = picture_now(&desk.query, office)?;
        let (marks, seen) = watch::channel((picture.last, picture.index));
        let hall = Arc::new(Hall { picture: Mutex::new(picture), marks: seen });
        halls.insert(office.to_owned(), Arc::downgrade(&hall));
        tokio::spawn(follow(desk.query.clone(), office.to_owned(), Arc::downgrade(&hall), marks, slices));
        Ok(hall)
    }
}

fn picture_now(query: &Query, office: &str) -> Result<Picture, StorageError> {
    let snapshot = query.snapshot()?;
    let queue = snapshot.queue(office, Share::Board)?;
    let queue = queue.map_or_else(|| Queue::empty(office), |read| read.value);
    Ok(Picture::of(&queue, snapshot.applied_index))
}

/// Keeps a hall's picture until nobody watches it any more.
async fn follow(
    query: Query,
    office: String,
    hall: Weak<Hall>,
    marks: watch::Sender<(u64, u64)>,
    mut slices: tokio::sync::broadcast::Receiver<Arc<okno_storage::state::AppliedSlice>>,
) {
    let queue = EntityRef { kind: Kind::Queue, id: office.clone() };
    loop {
        // What applied before the subscription, and whatever has since.
        loop {
            let Some(hall) = hall.upgrade() else { return };
            let after = hall.picture.lock().index;
            let through = query.applied().0;
            let (reader, of) = (query.clone(), queue.clone());
            // Not in place: that would move the network thread's other work to another thread, twenty times a second.
            let found = tokio::task::spawn_blocking(move || reader.history(&of, after, ROWS_MAX)).await;
            let commits = match found {
                Ok(Ok(commits)) => commits,
                // The runtime ends; or a panic, which the log has.
                Err(_) => return,
                Ok(Err(error)) => {
                    // The watchers are told to come back, and whoever reads next learns what is wrong with the store.
                    tracing::error!(office, error = crate::observability::chain(&error), "a board ends");
                    return;
                }
            };
            let full = commits.len() == ROWS_MAX;
            let mut picture = hall.picture.lock();
            for commit in commits {
                picture.take(commit);
            }
            if !full {
                picture.index = picture.index.max(through);
            }
            // A receiver is in the hall.
            let _ = marks.send((picture.last, picture.index));
            if !full {
                break;
            }
        }
        tokio::select! {
            slice = slices.recv() => match slice {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    tokio::time::sleep(GATHER).await;
                    slices = slices.resubscribe();
                }
                Err(RecvError::Closed) => return,
            },
            // An idle office's hall learns in time that nobody watches.
            () = tokio::time::sleep(PROGRESS_EVERY) => {}
        }
    }
}

/// Begins to show an office's board.
pub fn start(
    desk: &Arc<Desk>,
    context: &CallContext,
    message: &v1::WatchBoardRequest,
) -> Result<BoardStream, Failure> {
    if desk.query.world().directory.office(&message.office).is_none() {
        return Err(Failure::not_found("Офис не найден", "no such office", "OFFICE_UNKNOWN"));
    }
    let permit = desk.watches.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Failure::exhausted("WATCHES_FULL", "too many watches on this node"))?;
    let hall = desk.long_read(|| desk.boards.hall(desk, &message.office))?;
    let (frames, received) = mpsc::channel(QUEUE_MAX);
    let (ended, end) = oneshot::channel();
    let marks = hall.marks.clone();
    let board = Board {
        desk: desk.clone(),
        hall,
        marks,
        after: message.after,
        from_index: desk.query.applied().0,
        frames,
        _permit: permit,
    };
    let language = context.language;
    desk.boards.told.streams.fetch_add(1, Ordering::Relaxed);
    let counted = Arc::clone(desk);
    tokio::spawn(async move {
        let failure = board.run().await;
        counted.boards.told.streams.fetch_sub(1, Ordering::Relaxed);
        // The board may be gone.
        let _ = ended.send(failure);
    });
    let end = futures::stream::once(end).filter_map(move |end| async move {
        end.ok().flatten().map(|failure: Failure| Err(failure.status(language)))
    });
    Ok(Box::pin(ReceiverStream::new(received).map(Ok).chain(end)))
}

/// One watching board.
struct Board {
    desk: Arc<Desk>,
    hall: Arc<Hall>,
    marks: watch::Receiver<(u64, u64)>,
    /// The last sequence it was told; `None`: nothing yet.
    after: Option<u64>,
    /// The hall must have read so far, so that a board never goes back in time when it changes nodes.
    from_index: u64,
    frames: mpsc::Sender<v1::WatchBoardResponse>,
    _permit: OwnedSemaphorePermit,
}

/// What a board waits for, as long as it is there and the node goes on.
struct Stays {
    frames: mpsc::Sender<v1::WatchBoardResponse>,
    stop: CancellationToken,
}

impl Stays {
    async fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, Option<Failure>> {
        tokio::select! {
            came = what => Ok(came),
            () = self.frames.closed() => Err(None),
            () = self.stop.cancelled() => Err(Some(stopping())),
        }
    }
}

impl Board {
    /// Until the board goes (`None`) or the stream has to end.
    async fn run(mut self) -> Option<Failure> {
        match self.tell().await {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn tell(&mut self) -> Result<Infallible, Option<Failure>> {
        let from_index = self.from_index;
        let read = self.marks.wait_for(|(_, index)| *index >= from_index);
        match tokio::time::timeout(HALL_WAIT_MAX, read).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(Some(behind())),
        }
        let stays = Stays { frames: self.frames.clone(), stop: self.desk.stop.clone() };
        loop {
            let frame = {
                let (sequence, _) = *self.marks.borrow_and_update();
                let frame = self.hall.picture.lock().since(self.after);
                debug_assert!(frame.sequence >= sequence, "a picture is no older than its mark");
                frame
            };
            let sent_at = Instant::now();
            self.desk.boards.told.frame(self.after, &frame);
            self.after = Some(frame.sequence);
            self.send(frame).await?;
            let told = self.after.unwrap_or_default();
            let news = self.marks.wait_for(|(last, _)| *last > told);
            let progress = sent_at + PROGRESS_EVERY;
            match stays.wait(tokio::time::timeout_at(progress, news)).await? {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(Some(behind())),
                // A sign of life, and in its time.
                Err(_) => continue,
            }
            // What follows until its moment comes in the same frame.
            stays.wait(tokio::time::sleep_until(sent_at + FRAME_EVERY)).await?;
            let moment = self.desk.boards.pace.moment(Instant::now());
            stays.wait(tokio::time::sleep_until(moment)).await?;
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), Option<Failure>> {
        let response = v1::WatchBoardResponse {
            sequence: frame.sequence,
            anew: frame.anew,
            entries: frame.entries.iter().map(|entry| shown(entry)).collect(),
            served_by: self.desk.node_id,
        };
        match self.frames.send_timeout(response, SLOW_MAX).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                self.desk.boards.told.cut.fetch_add(1, Ordering::Relaxed);
                Err(Some(Failure::exhausted(
                    "WATCH_TOO_SLOW",
                    "nothing was taken for 30 s: resume with the last sequence",
                )))
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(None),
        }
    }
}

/// Halls speak Russian to everybody: it is what the loudspeakers are made for.
fn shown(entry: &BoardEntry) -> v1::BoardEntry {
    let state = match entry.state {
        BoardState::Called => v1::BoardState::Called,
        BoardState::Serving => v1::BoardState::Serving,
        BoardState::Gone => v1::BoardState::Gone,
    };
    v1::BoardEntry {
        sequence: entry.sequence,
        ticket: Some(cases::ticket(&entry.ticket)),
        window: entry.window.clone(),
        state: state.into(),
        calls: u32::from(entry.calls),
        at: timestamp(entry.at_ms),
        spoken: entry.spoken().unwrap_or_default(),
    }
}

fn behind() -> Failure {
    Failure::not_applied(
        "NODE_BEHIND",
        Duration::from_millis(500),
        "this node cannot show the board: resume on another",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cmp::Reverse, collections::BinaryHeap};

    fn entry(sequence: u64, number: u64, state: BoardState) -> Arc<BoardEntry> {
        let ticket = TicketRef { day: jiff::civil::date(2026, 3, 2), number: format!("А{number:03}") };
        Arc::new(BoardEntry { sequence, ticket, window: "1".into(), state, calls: 1, at_ms: 0 })
    }

    fn picture(entries: Vec<Arc<BoardEntry>>) -> Picture {
        let mut picture = Picture::default();
        for entry in entries {
            let beyond_tail = Some(Arc::new(BoardEntry { sequence: 0, at_ms: 7, ..(*entry).clone() }));
            picture.put(Shown { entry, beyond_tail });
        }
        picture
    }

    /// A hall that followed the queue all the time, and one that begins now.
    #[test]
    fn a_visitor_beyond_the_tail_is_shown_alike_on_every_node() {
        let called = |sequence, number| entry(sequence, number, BoardState::Called);
        let mut all = vec![called(1, 1), called(2, 2)];
        all.extend((3..=BOARD_TAIL).map(|sequence| called(sequence, 3)));
        let mut board = picture(all);
        let sequences = |board: &Picture| -> Vec<u64> {
            board.since(None).entries.iter().map(|entry| entry.sequence).collect()
        };
        assert_eq!(sequences(&board), [1, 2, BOARD_TAIL], "all are in the tail");
        // Two more, and the tail knows neither of the first: their entries are made from their tickets.
        for sequence in BOARD_TAIL + 1..=BOARD_TAIL + 2 {
            board.put(Shown { entry: called(sequence, 3), beyond_tail: None });
        }
        assert_eq!(sequences(&board), [0, 0, BOARD_TAIL + 2]);
        let shown = board.since(None).entries;
        assert!(shown[..2].iter().all(|entry| entry.at_ms == 7), "{shown:?}");
        assert_eq!(board.tail.front().map(|entry| entry.sequence), Some(3));
    }

    #[test]
    fn a_frame_is_what_is_new_or_the_picture() {
        let called = |sequence, number| entry(sequence, number, BoardState::Called);
        let all = vec![called(4, 1), called(5, 2), entry(6, 1, BoardState::Gone), called(7, 3)];
        let board = picture(all.clone());
        // Of the first ticket only its end is told.
        let frame = board.since(Some(3));
        assert_eq!((frame.sequence, frame.anew), (7, false));
        assert_eq!(frame.entries, [all[1].clone(), all[2].clone(), all[3].clone()]);
        assert_eq!(board.since(Some(6)).entries, [all[3].clone()]);
        assert_eq!(board.since(Some(7)), Frame { sequence: 7, anew: false, entries: vec![] });
        // Too long ago, of another queue, or never before: the picture.
        for after in [Some(2), Some(8), None] {
            let frame = board.since(after);
            assert!(frame.anew, "{after:?}");
            assert_eq!(frame.entries, [all[1].clone(), all[3].clone()]);
        }
    }

    #[test]
    fn what_is_told_is_counted() {
        let called = |sequence, number| entry(sequence, number, BoardState::Called);
        let board = picture(vec![called(4, 1), called(5, 2), entry(6, 1, BoardState::Gone), called(7, 3)]);
        let boards = Boards::default();
        for after in [None, Some(3), Some(7)] {
            boards.told.frame(after, &board.since(after));
        }
        let shown = boards.figures();
        let value = |name: &str| shown.iter().find(|(known, _)| *known == name).expect("shown").1;
        // The picture has two; of four changes three are told, because the first ticket is gone again.
        assert_eq!((value("frames_total"), value("entries_total")), (3.0, 5.0));
        assert_eq!(value("entries_coalesced_total"), 1.0);
        for (name, _) in shown {
            let family = format!("okno_board_{name}");
            assert!(crate::observability::described::find(&family).is_some(), "{family}");
        }
    }

    #[test]
    fn who_changes_alone_is_told_at_once_and_a_thousand_in_turn() {
        let pace = Pace::default();
        let ms = |moment: Instant| (moment - pace.begun).as_millis();
        let at = |ms| pace.begun + Duration::from_millis(ms);
        // Boards of quiet halls: never more than a few within a moment.
        for now in (0..10_000).step_by(40).map(at) {
            for _ in 0..FRAMES_AT_ONCE {
                assert_eq!(pace.moment(now), now);
            }
        }
        // A hall of a thousand: the first at once, the others evenly, on the grid, and all within two seconds.
        let moments: Vec<u128> = (0..1_000).map(|_| ms(pace.moment(at(20_003))) - 20_003).collect();
        assert!(moments.is_sorted());
        assert_eq!(moments.iter().filter(|wait| **wait == 0).count(), FRAMES_AT_ONCE as usize);
        for (number, wait) in moments.iter().enumerate().skip(FRAMES_AT_ONCE as usize) {
            let even = 2 * (number as u128 + 1 - u128::from(FRAMES_AT_ONCE));
            assert!((even..even + 10).contains(wait), "{number}: {wait}");
            assert_eq!((wait + 20_003) % 10, 0);
        }
        // Turns that nobody takes up any more hold nobody back for long.
        let left_behind = (0..10_000).map(|_| ms(pace.moment(at(21_000)))).max();
        assert_eq!(left_behind, Some(21_000 + 5_000 - 38 + 8), "on the grid");
        // Each asks again when it was told: the turn goes on, and nobody waits longer than for one frame of each.
        let mut waits = BinaryHeap::from_iter((0..1_000).map(|_| Reverse(pace.moment(at(30_000)))));
        for _ in 0..5_000 {
            let Reverse(now) = waits.pop().expect("a thousand");
            let next = pace.moment(now);
            assert!(next - now <= FRAME_GAP * 1_000 + GRID, "{:?}", next - now);
            waits.push(Reverse(next));
        }
    }

    #[test]
    fn an_empty_board_has_no_past() {
        let board = Picture::default();
        assert_eq!(board.since(Some(0)), Frame { sequence: 0, anew: false, entries: vec![] });
        assert_eq!(board.since(None), Frame { sequence: 0, anew: true, entries: vec![] });
    }
}
