//! Watching cases: changes as this node applies them, told from its journal.
//!
//! The journal is the buffer: a slow reader is merely further behind in it, costs no memory, and resumes by log
//! index on any node. Only a reader that takes nothing for long is told to come back (rule 10).

use super::{
    desk::Desk,
    reader::{self, News, Reader},
};
use crate::{
    convert,
    failure::{Failure, Language},
    front::CallContext,
    services::scope::Scope,
};
use futures::Stream;
use okno_domain::{
    case::{Event, State},
    entity::{EntityRef, Kind, Origin},
    registry::AnyEvent,
};
use okno_proto::v1::{self, watch_cases_response::Change as Told};
use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};
use tonic::Status;

/// Journal rows looked at in one turn, so that turns of many readers interleave.
const ROWS_MAX: usize = 256;
/// A reader that takes nothing for this long is told to come back.
pub const SLOW_MAX: Duration = Duration::from_secs(30);
/// Cases whose office and state one watch remembers.
const KNOWN_MAX: usize = 10_000;

pub type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchCasesResponse, Status>> + Send>>;

/// Begins a watch; `message.case_id`, if any, is checked.
pub fn start(
    desk: &Arc<Desk>,
    context: CallContext,
    message: &v1::WatchCasesRequest,
) -> Result<WatchStream, Failure> {
    let scope = desk.scope(&context)?;
    if !message.office.is_empty() {
        scope.check(&message.office).inspect_err(|failure| desk.record_denial(&context, failure.reason()))?;
    }
    let permit = desk.watches.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Failure::exhausted("WATCHES_FULL", "too many watches on this node"))?;
    let after = match message.resume_token.as_str() {
        "" => desk.query.applied().0,
        token => desk.tokens.open_resume(token).map_err(|_| Failure::page_token_stale())?,
    };
    let watch = |reader| {
        let watch = Watch {
            desk: desk.clone(),
            language: context.language,
            case: Some(message.case_id.clone()).filter(|id| !id.is_empty()),
            office: Some(message.office.clone()).filter(|office| !office.is_empty()),
            scope,
            after,
            known: HashMap::new(),
            reader,
        };
        watch.run()
    };
    Ok(reader::stream(permit, context.language, watch))
}

struct Watch {
    desk: Arc<Desk>,
    language: Language,
    case: Option<String>,
    office: Option<String>,
    scope: Scope,
    /// Everything up to this log index was told or does not concern the reader.
    after: u64,
    /// Office and state of cases met.
    known: HashMap<String, (String, State)>,
    reader: Reader<v1::WatchCasesResponse>,
}

/// One commit that moved a case.
struct Moved {
    index: u64,
    time_ms: i64,
    id: String,
    origin: Origin,
    events: Vec<AnyEvent>,
}

impl Watch {
    /// Until the reader goes (`None`) or the watch has to end.
    async fn run(mut self) -> Option<Failure> {
        let mut slices = self.desk.query.subscribe();
        // At once: a reader whose stream breaks before anything happens must know where it began.
        if let Err(end) = self.send_progress().await {
            return end;
        }
        loop {
            // First what is there: it may have applied before the subscription.
            loop {
                let (moved, through) = match self.look() {
                    Ok(found) => found,
                    Err(failure) => return Some(failure),
                };
                for one in moved {
                    if let Err(end) = self.tell(one).await {
                        return end;
                    }
                }
                let progressed = through > self.after;
                self.after = self.after.max(through);
                if !progressed || self.after >= self.desk.query.applied().0 {
                    break;
                }
            }
            match self.reader.news(&self.desk, &mut slices).await {
                Ok(News::Applied) => {}
                Ok(News::Quiet) => {
                    if let Err(end) = self.send_progress().await {
                        return end;
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// The next stretch of the journal: commits that moved cases, and how far it covers.
    fn look(&self) -> Result<(Vec<Moved>, u64), Failure> {
        if let Some(id) = &self.case {
            let through = self.desk.query.applied().0;
            let target = EntityRef { kind: Kind::Case, id: id.clone() };
            let found = self.desk.long_read(|| self.desk.query.history(&target, self.after, ROWS_MAX))?;
            let full = found.len() == ROWS_MAX;
            let last = found.last().map_or(0, |entry| entry.index);
            let moved = found.into_iter().map(|entry| Moved {
                index: entry.index,
                time_ms: entry.time_ms,
                id: id.clone(),
                origin: entry.origin,
                events: entry.events,
            });
            return Ok((moved.collect(), if full { last } else { through.max(last) }));
        }
        let found = self.desk.long_read(|| self.desk.query.changes(self.after, ROWS_MAX))?;
        let moved = found.changes.into_iter().filter_map(|change| {
            let entity = change.entity.filter(|entity| entity.kind == Kind::Case)?;
            Some(Moved {
                index: change.index,
                time_ms: change.time_ms,
                id: entity.id,
                origin: change.origin,
                events: change.events,
            })
        });
        Ok((moved.collect(), found.through))
    }

    async fn tell(&mut self, moved: Moved) -> Result<(), Option<Failure>> {
        let (office, mut state) = self.facts(&moved).map_err(Some)?;
        let wanted =
            self.office.as_ref().is_none_or(|wanted| *wanted == office) && self.scope.covers(&office);
        let count = moved.events.len();
        for (number, event) in moved.events.iter().enumerate() {
            state = state_after(event).unwrap_or(state);
            if !wanted {
                continue;
            }
            let told = convert::history::tell(event, self.language);
            let event = v1::JournalEvent {
                index: moved.index,
                number: u32::try_from(number).unwrap_or(u32::MAX),
                time: convert::timestamp(moved.time_ms),
                actor: convert::actor(&moved.origin.principal, &moved.origin.workstation, ""),
                kind: told.kind.to_owned(),
                text: told.text,
                details: told.details,
            };
            let changed = v1::CaseChanged {
                case_id: moved.id.clone(),
                event: Some(event),
                state: convert::cases::state(state).into(),
            };
            // Before the commit's last event a resumed watch tells the whole commit again: twice rather than never.
            let told_through = if number + 1 == count { moved.index } else { moved.index - 1 };
            self.send(told_through, Told::Changed(changed)).await?;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(moved.id, (office, state));
        Ok(())
    }

    /// Office of the case and its state before the commit, as far as this watch knows it.
    fn facts(&self, moved: &Moved) -> Result<(String, State), Failure> {
        if let Some(AnyEvent::Case(Event::Opened(opened))) = moved.events.first() {
            return Ok((opened.office.clone(), State::Draft));
        }
        if let Some(known) = self.known.get(&moved.id) {
            return Ok(known.clone());
        }
        // Met for the first time: the state of now, which is what a watch that has caught up shows.
        let case = self.desk.query.case(&moved.id).map_err(|error| self.desk.unreadable(error))?;
        Ok(case.map_or((String::new(), State::Unopened), |case| {
            (case.value.head().office.clone(), case.value.state())
        }))
    }

    async fn send_progress(&mut self) -> Result<(), Option<Failure>> {
        self.send(self.after, Told::Progress(v1::WatchProgress { applied_index: self.after })).await
    }

    async fn send(&mut self, through: u64, change: Told) -> Result<(), Option<Failure>> {
        let response = v1::WatchCasesResponse {
            resume_token: self.desk.tokens.resume(through),
            served_by: self.desk.node_id,
            change: Some(change),
        };
        self.reader.send(response).await
    }
}

fn state_after(event: &AnyEvent) -> Option<State> {
    match event {
        AnyEvent::Case(Event::Opened(_)) => Some(State::Draft),
        AnyEvent::Case(Event::Stepped(stepped)) => Some(stepped.life.state()),
        AnyEvent::Case(Event::Asked(dealt) | Event::Exchanged(dealt)) => {
            dealt.life.as_ref().map(okno_domain::case::Life::state)
        }
        _ => None,
    }
}

pub fn stopping() -> Failure {
    Failure::not_applied(
        "NODE_STOPPING",
        Duration::from_millis(200),
        "the node is going down: resume on another",
    )
}
