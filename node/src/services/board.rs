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

/// Frames on their way to one board: the next waits at its own sequence, not in memory.
const QUEUE_MAX: usize = 2;
/// What changes within it comes in one frame: for people it is at once.
const FRAME_EVERY: Duration = Duration::from_millis(200);
/// Frames of all boards of a node in a second: what boards cost does not grow with their number, they are told more at a
/// time. A frame costs a node and a board some hundred microseconds together.
const FRAMES_A_SECOND: u32 = 1_000;
/// Moments stand on a grid of it, so that one turn of the node's threads, and of a machine with many boards, serves several.
const GRID: Duration = Duration::from_millis(20);
/// A frame waits no longer for its moment, however many boards there are. Far below [`PROGRESS_EVERY`].
const SLOTS_EVERY_MAX: Duration = Duration::from_secs(5);
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
    told: Told,
}

/// When a board may be told: each has moments of its own, at even distances, so that a change of a hall that a thousand
/// boards watch is not a burst of a thousand frames that commits wait for.
#[derive(Debug)]
struct Slots {
    first: Instant,
    every: Duration,
}

impl Slots {
    /// Of board `number`, one of `streams`.
    fn of(number: u64, streams: u64, since: Instant) -> Self {
        let every = (Duration::from_secs(streams) / FRAMES_A_SECOND).min(SLOTS_EVERY_MAX);
        let steps = every.as_millis().div_ceil(GRID.as_millis()).max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        // Multiples of the golden section, modulo one, are spread evenly however many there are (Knuth, TAOCP 3, 6.4).
        let place = (u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) * u128::from(steps)) >> 64;
        Self { first: since + GRID * u32::try_from(place).unwrap_or(0), every: GRID * steps }
    }

    /// The first moment from `at` on.
    fn next(&self, at: Instant) -> Instant {
        let passed = at.saturating_duration_since(self.first).as_nanos().div_ceil(self.every.as_nanos());
        self.first + self.every * u32::try_from(passed).unwrap_or(u32::MAX)
    }
}

/// What all boards of this node were told.
#[derive(Debug)]
struct Told {
    since: Instant,
    /// Boards that ever came.
    numbered: AtomicU64,
    streams: AtomicU64,
    frames: AtomicU64,
    entries: AtomicU64,
    /// Changes of which a board was told only what came of them.
    coalesced: AtomicU64,
    cut: AtomicU64,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            numbered: AtomicU64::default(),
            streams: AtomicU64::default(),
            frames: AtomicU64::default(),
            entries: AtomicU64::default(),
            coalesced: AtomicU64::default(),
            cut: AtomicU64::default(),
        }
    }
}

impl Told {
    /// When board `number` may be told, by the boards there are now.
    fn slots(&self, number: u64) -> Slots {
        Slots::of(number, self.streams.load(Ordering::Relaxed), self.since)
    }

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
            let found = tokio::task::block_in_place(|| query.history(&queue, after, ROWS_MAX));
            let commits = match found {
                Ok(commits) => commits,
                Err(error) => {
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
        number: desk.boards.told.numbered.fetch_add(1, Ordering::Relaxed),
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
    /// Of all boards that came to this node.
    number: u64,
    hall: Arc<Hall>,
    marks: watch::Receiver<(u64, u64)>,
    /// The last sequence it was told; `None`: nothing yet.
    after: Option<u64>,
    /// The hall must have read so far, so that a board never goes back in time when it changes nodes.
    from_index: u64,
    frames: mpsc::Sender<v1::WatchBoardResponse>,
    _permit: OwnedSemaphorePermit,
}

impl Board {
    /// Until the board goes (`None`) or the stream has to end.
    async fn run(mut self) -> Option<Failure> {
        let from_index = self.from_index;
        let read = self.marks.wait_for(|(_, index)| *index >= from_index);
        match tokio::time::timeout(HALL_WAIT_MAX, read).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Some(behind()),
        }
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
            if let Err(end) = self.send(frame).await {
                return end;
            }
            let told = self.after.unwrap_or_default();
            let progress = tokio::time::sleep_until(sent_at + PROGRESS_EVERY);
            tokio::select! {
                news = self.marks.wait_for(|(last, _)| *last > told) => if news.is_err() {
                    return Some(behind());
                },
                () = progress => {}
                () = self.frames.closed() => return None,
                () = self.desk.stop.cancelled() => return Some(stopping()),
            }
            // What follows meanwhile comes in the same frame.
            let earliest = Instant::now().max(sent_at + FRAME_EVERY);
            tokio::time::sleep_until(self.desk.boards.told.slots(self.number).next(earliest)).await;
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
    fn frames_of_many_boards_are_spread_over_time() {
        let since = Instant::now();
        for streams in [1, 200, 1_000, 2_000, 100_000] {
            let mut by_tenth = [0_u64; 10];
            for number in 0..streams {
                let slots = Slots::of(number, streams, since);
                let Slots { first, every } = slots;
                // Whenever something changes, a moment is at most one distance ahead.
                for at in [0, 1, 777, 123_456].map(|ms| since + Duration::from_millis(ms)) {
                    let next = slots.next(at);
                    assert!(at <= next && next < at + every, "{number} of {streams}");
                    assert_eq!(slots.next(next), next);
                    assert_eq!(slots.next(next + Duration::from_nanos(1)), next + every);
                }
                let tenth = (first - since).as_nanos() * 10 / every.as_nanos();
                by_tenth[tenth as usize] += 1;
            }
            // Of one step all are at once.
            if streams > 100 {
                assert!(by_tenth.iter().all(|count| *count <= streams / 10 + 8), "{streams}: {by_tenth:?}");
            }
        }
        let every = |streams| Slots::of(3, streams, since).every;
        assert_eq!([every(0), every(20), every(21)], [GRID, GRID, GRID * 2]);
        assert_eq!([every(1_000), every(100_000)], [Duration::from_secs(1), SLOTS_EVERY_MAX]);
    }

    #[test]
    fn an_empty_board_has_no_past() {
        let board = Picture::default();
        assert_eq!(board.since(Some(0)), Frame { sequence: 0, anew: false, entries: vec![] });
        assert_eq!(board.since(None), Frame { sequence: 0, anew: true, entries: vec![] });
    }
}
