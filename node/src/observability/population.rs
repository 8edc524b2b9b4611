//! What only a look into the rows tells: visitors who wait, entities in quarantine, messages given up. Counted now and
//! then in the background, so that a scrape costs nothing and many scrapes cost no more than one.

use okno_domain::queue::{DeskState, Share, TicketState};
use okno_runtime::query::Query;
use okno_storage::error::StorageError;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Twice per usual scrape.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// Beyond it the number no longer matters.
const COUNTED_MAX: usize = 1_000;
/// Reading the queues of 2,000 offices takes less; what takes longer is left for the next time.
const TIME_MAX: Duration = Duration::from_secs(2);

/// The last count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Population {
    pub quarantined: usize,
    pub dead_letters: usize,
    /// Tickets of the last day of every office, by state.
    pub tickets: Vec<(&'static str, u64)>,
    pub oldest_waiting_ms: u64,
    /// Windows that were worked at on the last day of their office, by state.
    pub windows: Vec<(&'static str, u64)>,
}

/// Counts with `look` until `stop`, into `found`; `what` is counted, for the log.
pub async fn count<T: Send + 'static>(
    query: Query,
    what: &'static str,
    look: fn(&Query) -> Result<T, StorageError>,
    found: Arc<Mutex<T>>,
    stop: CancellationToken,
) {
    let mut turn = tokio::time::interval(COUNT_EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turn.tick() => {}
        }
        let query = query.clone();
        match tokio::task::spawn_blocking(move || look(&query)).await {
            Ok(Ok(counted)) => *found.lock() = counted,
            // Whoever needs the rows for more than a figure finds out and acts on it.
            Ok(Err(error)) => tracing::warn!(%error, what, "cannot be counted"),
            Err(_) => return,
        }
    }
}

pub fn look(query: &Query) -> Result<Population, StorageError> {
    let begun = Instant::now();
    let (_, now_ms) = query.applied();
    let mut found = Population {
        quarantined: query.quarantines(COUNTED_MAX)?.len(),
        dead_letters: query.dead_letters(COUNTED_MAX)?,
        tickets: ["waiting", "called", "in-service", "finished"].map(|state| (state, 0)).to_vec(),
        oldest_waiting_ms: 0,
        windows: ["open", "break", "unattended"].map(|state| (state, 0)).to_vec(),
    };
    for office in query.world().directory.offices() {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        let Some(read) = query.queue(&office.code, Share::Hall)? else { continue };
        // A closed window is nobody's trouble, whether its workstation is on or not.
        let worked = read
            .value
            .desks()
            .filter(|desk| Some(desk.day) == read.value.day() && desk.state != DeskState::Closed);
        for desk in worked {
            if let Some((_, count)) = found.windows.iter_mut().find(|(state, _)| *state == desk.name()) {
                *count += 1;
            }
        }
        for ticket in read.value.tickets() {
            if let Some((_, count)) =
                found.tickets.iter_mut().find(|(state, _)| *state == ticket.state.name())
            {
                *count += 1;
            }
            if ticket.state == TicketState::Waiting {
                let waited = u64::try_from(now_ms - ticket.taken_ms).unwrap_or(0);
                found.oldest_waiting_ms = found.oldest_waiting_ms.max(waited);
            }
        }
    }
    Ok(found)
}
