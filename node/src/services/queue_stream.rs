//! What happened to an office's tickets, told from the journal in the form of the universal interface (R-Q13): to an
//! outside queue system as it happens, or as an export of what there is.
//!
//! The journal is the buffer, as for cases ([`super::watch`]): a slow reader costs no memory and resumes by log index on
//! any node; only one that takes nothing for long is told to come back (rule 10).

use super::{
    desk::Desk,
    reader::{self, News, Reader},
};
use crate::{convert, failure::Failure, front::CallContext};
use futures::Stream;
use okno_domain::{
    entity::{EntityRef, Kind},
    queue::{Event, OutsideEvent},
    registry::AnyEvent,
};
use okno_proto::v1;
use okno_runtime::query::HistoryEntry;
use std::{pin::Pin, sync::Arc};

/// Commits of a queue looked at in one turn.
const ROWS_MAX: usize = 256;

pub type QueueStream = Pin<Box<dyn Stream<Item = Result<v1::WatchQueueResponse, tonic::Status>> + Send>>;

/// Begins to tell.
pub fn start(
    desk: &Arc<Desk>,
    context: &CallContext,
    message: &v1::WatchQueueRequest,
) -> Result<QueueStream, Failure> {
    if desk.query.world().directory.office(&message.office).is_none() {
        return Err(Failure::not_found("Офис не найден", "no such office", "OFFICE_UNKNOWN"));
    }
    let permit = desk.watches.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Failure::exhausted("WATCHES_FULL", "too many watches on this node"))?;
    let after = match message.resume_token.as_str() {
        "" if message.follow => desk.query.applied().0,
        "" => 0,
        token => desk.tokens.open_resume(token).map_err(|_| Failure::page_token_stale())?,
    };
    let teller = |reader| {
        let teller = Teller {
            desk: desk.clone(),
            queue: EntityRef { kind: Kind::Queue, id: message.office.clone() },
            follow: message.follow,
            after,
            through: desk.query.applied().0,
            reader,
        };
        teller.run()
    };
    Ok(reader::stream(permit, context.language, teller))
}

struct Teller {
    desk: Arc<Desk>,
    queue: EntityRef,
    follow: bool,
    /// Everything up to this log index was told.
    after: u64,
    /// An export ends here.
    through: u64,
    reader: Reader<v1::WatchQueueResponse>,
}

impl Teller {
    /// Until the reader goes or an export is done (`None`), or the stream has to end.
    async fn run(mut self) -> Option<Failure> {
        let mut slices = self.desk.query.subscribe();
        if self.follow {
            // At once: a reader whose stream breaks before anything happens must know where it began.
            if let Err(end) = self.send(self.after, v1::WatchQueueResponse::default()).await {
                return end;
            }
        }
        loop {
            loop {
                let through = self.desk.query.applied().0;
                let found =
                    self.desk.long_read(|| self.desk.query.history(&self.queue, self.after, ROWS_MAX));
                let found = match found {
                    Ok(found) => found,
                    Err(failure) => return Some(failure),
                };
                let full = found.len() == ROWS_MAX;
                for commit in found {
                    if !self.follow && commit.index > self.through {
                        return None;
                    }
                    if let Err(end) = self.tell(commit).await {
                        return end;
                    }
                }
                if !full {
                    self.after = self.after.max(through);
                    break;
                }
            }
            if !self.follow {
                return None;
            }
            match self.reader.news(&self.desk, &mut slices).await {
                Ok(News::Applied) => {}
                Ok(News::Quiet) => {
                    if let Err(end) = self.send(self.after, v1::WatchQueueResponse::default()).await {
                        return end;
                    }
                }
                Err(end) => return end,
            }
        }
    }

    async fn tell(&mut self, commit: HistoryEntry) -> Result<(), Option<Failure>> {
        for (through, response) in responses(&self.queue.id, &commit) {
            self.send(through, response).await?;
        }
        self.after = commit.index;
        Ok(())
    }

    async fn send(
        &mut self,
        through: u64,
        mut response: v1::WatchQueueResponse,
    ) -> Result<(), Option<Failure>> {
        response.resume_token = self.desk.tokens.resume(through);
        response.served_by = self.desk.node_id;
        self.reader.send(response).await
    }
}

/// What a commit tells, each with the log index through which its reader then knows everything.
fn responses(office: &str, commit: &HistoryEntry) -> Vec<(u64, v1::WatchQueueResponse)> {
    let told = commit.events.iter().enumerate().filter_map(|(number, event)| {
        let AnyEvent::Queue(event) = event else { return None };
        let told = OutsideEvent::of(office, event, commit.time_ms)?;
        let (ticket, window) = match event {
            Event::Moved(moved) => {
                (Some(convert::queue::ticket(office, &moved.ticket)), moved.window.clone())
            }
            _ => (None, String::new()),
        };
        let response = v1::WatchQueueResponse {
            event: Some(convert::outside::event(&told)),
            ticket,
            window,
            index: commit.index,
            number: u32::try_from(number).unwrap_or(u32::MAX),
            actor: convert::actor(&commit.origin.principal, &commit.origin.workstation, ""),
            ..v1::WatchQueueResponse::default()
        };
        // Before the last that is told a resumed stream tells the whole commit again: twice rather than never.
        Some((commit.index - 1, response))
    });
    let mut told: Vec<_> = told.collect();
    if let Some((through, _)) = told.last_mut() {
        *through = commit.index;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_domain::{
        entity::{Origin, Principal},
        queue::{Desk as Window, DeskState, Move, Moved, Purpose, Ticket, TicketRef, TicketState, TicketV1},
    };
    use okno_storage::commit::CommitId;

    fn moved(number: &str, what: Move) -> AnyEvent {
        let ticket = Ticket::from(&TicketV1 {
            ticket: TicketRef { day: jiff::civil::date(2026, 3, 2), number: number.into() },
            purpose: Purpose::Other,
            service: String::new(),
            category: String::new(),
            priority: false,
            sequence: 1,
            taken_ms: 0,
            state: TicketState::Waiting,
            cases: Vec::new(),
        });
        let moved = Moved { ticket: Arc::new(ticket), what, window: String::new(), board: 0, counted: None };
        AnyEvent::Queue(Event::Moved(Box::new(moved)))
    }

    /// A reader that has taken all of a commit is not told it again, whatever else the commit holds.
    #[test]
    fn the_last_that_is_told_stands_for_its_commit() {
        let window = AnyEvent::Queue(Event::WindowChanged(Arc::new(Window {
            window: "1".into(),
            day: jiff::civil::date(2026, 3, 2),
            state: DeskState::Open,
            changed_ms: 0,
            officer: String::new(),
            unattended: None,
            leased: false,
        })));
        let mut commit = HistoryEntry {
            index: 40,
            time_ms: 0,
            commit: CommitId::NONE,
            origin: Origin {
                principal: Principal { kind: "node".into(), id: "1".into() },
                workstation: String::new(),
            },
            events: vec![moved("П001", Move::Taken), moved("П002", Move::Taken), window.clone()],
        };
        let told = responses("tikhaya", &commit);
        let shown: Vec<_> = told.iter().map(|(through, told)| (*through, told.number)).collect();
        assert_eq!(shown, [(39, 0), (40, 1)]);
        commit.events = vec![window];
        assert!(responses("tikhaya", &commit).is_empty());
    }
}
