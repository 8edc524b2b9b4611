//! Halls and channels, judged while a run goes on: what commits say happened, what callers were told, and in the end what
//! the stores hold, in the words of `okno-checks`. Nothing is worked out here but which call led to which commit.

use crate::clients::{hall::StationSeen, places, translate};
use okno_checks::{
    breaches::{Breach, Breaches},
    exchange::{self, Cause, Digest, Exchange},
    hall::{self, Hall, Rules, outside},
    history::TicketName,
    invariants::Invariant,
};
use okno_domain::{
    case::{self, Case, ExchangeState},
    channel::{self, Channel, MessageState},
    entity::{EntityRef, Kind, Principal, Row},
    exchange::{BodyRef, sha256},
    queue::{self, OutsideEvent, OutsideHappened, Queue},
    refusal::OUTSIDE_FOREIGN,
    registry::{AnyCommand, AnyReply},
    rows,
    time::MINUTE_MS,
};
use okno_runtime::{
    call::CallResult,
    channels::Delivered,
    codec::{self, CodecError, What},
    load::load_state,
    work::{entity_key, entity_ref},
};
use okno_storage::{
    commit::{Commit, Record},
    error::StorageError,
    state::StateView,
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use uuid::Uuid;
use words::{asked, channel_move, hall_move, message, said, slot, ticket, token, window};

mod words;

/// Commits of one queue read at a time.
const HISTORY_PAGE: usize = 1_024;

/// Who asked what.
#[derive(Debug, Clone)]
struct Request {
    principal: Principal,
    target: EntityRef,
    command: AnyCommand,
}

/// What was judged of halls and channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    pub hall: hall::Facts,
    pub exchange: exchange::Facts,
}

impl Facts {
    /// What is worth to be told of many runs: whether they reach what they are there for.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let (hall, exchange) = (&self.hall, &self.exchange);
        [
            ("tickets", hall.taken),
            ("visits", hall.served),
            ("came-back", hall.came_back),
            ("windows-left", hall.unattended),
            ("to-head", hall.to_head),
            ("slots", hall.slots),
            ("outside-taken", hall.outside),
            ("outside-told", hall.told_outside),
            ("outside-foreign", hall.foreign),
            ("requests", exchange.asked),
            ("answers", exchange.answered),
            ("deliveries", exchange.handed),
            ("acknowledged", exchange.acknowledged),
            ("given-back", exchange.given_back),
            ("unheard", exchange.unheard),
            ("overdue", exchange.overdue),
            ("overdue-anew", exchange.overdue_anew),
            ("gone", exchange.gone),
            ("buried", exchange.buried),
            ("old-tokens", exchange.old_tokens),
            ("within", exchange.within),
            ("within-expired", exchange.within_expired),
            ("deepest", exchange.deepest),
            ("impossible", exchange.impossible),
            ("letters", exchange.letters),
        ]
        .into_iter()
    }
}

/// The judges of a run's hall and channels.
#[derive(Debug, Default)]
pub struct Services {
    hall: Option<(&'static str, Hall)>,
    exchange: Option<Exchange>,
    requests: BTreeMap<Uuid, Request>,
    /// Requests that moved an entity, and where.
    done: BTreeMap<Uuid, u64>,
    /// Strangers who spoke for an outside queue system, and were refused.
    foreign: u64,
    breaches: Breaches,
}

impl Services {
    /// `None`: the run has neither.
    pub fn new(hall: Option<&'static str>, exchange: bool) -> Option<Self> {
        let rules = Rules {
            fairness_ms: i64::from(places::FAIRNESS_MINUTES) * MINUTE_MS,
            windows: places::windows(),
            outside: places::outside(),
        };
        (hall.is_some() || exchange).then(|| Self {
            hall: hall.map(|office| (office, Hall::new(rules))),
            exchange: exchange.then(|| Exchange::with_leases(places::ACK_MS.into(), places::WORK_MS.into())),
            ..Self::default()
        })
    }

    /// What comes next happens then.
    pub fn now(&mut self, now_us: u64) {
        if let Some(judge) = &mut self.exchange {
            judge.now(now_us);
        }
    }

    /// Somebody leads in this term.
    pub fn leads(&mut self, term: u64) {
        if let Some(judge) = &mut self.exchange {
            judge.leads(term);
        }
    }

    /// The leader's keeper has heard that a delivery arrived.
    pub fn acknowledged(&mut self, term: u64, id: &str, of: channel::Token) {
        if let Some(judge) = &mut self.exchange {
            judge.acknowledged(term, id, token(of));
        }
    }

    /// The leader's keeper has heard of a report on a delivery.
    pub fn reported(&mut self, term: u64, id: &str, of: channel::Token) {
        if let Some(judge) = &mut self.exchange {
            judge.reported(term, id, token(of));
        }
    }

    /// A node says that the way to whoever has these is lost.
    pub fn given_back(&mut self, deliveries: &[Delivered], gone: bool) {
        if let Some(judge) = &mut self.exchange {
            deliveries.iter().for_each(|own| judge.given_back(&own.id, token(own.token), gone));
        }
    }

    /// The leader's keeper says that the clocks of these have run out.
    pub fn lapses(&mut self, term: u64, lapsed: &[channel::Lapsed]) {
        let why = |why| match why {
            channel::Lapse::Unheard => exchange::Why::Unheard,
            channel::Lapse::Overdue => exchange::Why::Overdue,
            channel::Lapse::Gone => exchange::Why::Gone,
        };
        if let Some(judge) = &mut self.exchange {
            lapsed.iter().for_each(|own| judge.lapses(term, &own.id, token(own.token), why(own.why)));
        }
    }

    /// A call sets out.
    pub fn asked(&mut self, id: Uuid, principal: &Principal, target: &EntityRef, command: &AnyCommand) {
        let request =
            || Request { principal: principal.clone(), target: target.clone(), command: command.clone() };
        self.requests.entry(id).or_insert_with(request);
    }

    /// What broke since the last time it was asked.
    pub fn take_breaches(&mut self) -> Vec<Breach> {
        let mut all = self.breaches.take();
        all.extend(self.hall.iter_mut().flat_map(|(_, hall)| hall.take_breaches()));
        all.extend(self.exchange.iter_mut().flat_map(Exchange::take_breaches));
        all
    }

    /// What was judged, for people.
    pub fn facts(&self) -> Facts {
        let hall = self.hall.as_ref().map(|(_, hall)| hall.facts()).unwrap_or_default();
        Facts {
            hall: hall::Facts { foreign: self.foreign, ..hall },
            exchange: self.exchange.as_ref().map(Exchange::facts).unwrap_or_default(),
        }
    }

    /// A commit applied, on the first node that came so far.
    pub fn committed(&mut self, index: u64, commit: &Commit, time_ms: i64) {
        let Some(this) = entity_ref(&commit.entity).filter(|_| !commit.events.is_empty()) else { return };
        let request = commit.replies.first().map(|reply| reply.request.key.id);
        let known = request.and_then(|id| self.requests.get(&id)).cloned();
        if let (Some(id), Some(_)) = (request, &known)
            && let Some(before) = self.done.insert(id, index)
        {
            let text = format!("request {id} moved {this} at {before} and at {index}");
            self.breaches.add(Invariant::OnceARequest, text);
        }
        let judged = match this.kind {
            Kind::Queue => self.queue(&this, commit, known.as_ref(), time_ms),
            Kind::Channel => self.channel(&this, commit, known.as_ref()),
            Kind::Case => self.case(&this, commit),
            Kind::Catalogue | Kind::Directory => Ok(()),
        };
        if let Err(error) = judged {
            let text = format!("entry {index} of {this} cannot be read: {error}");
            self.breaches.add(Invariant::SameState, text);
        }
    }

    fn queue(
        &mut self,
        this: &EntityRef,
        commit: &Commit,
        request: Option<&Request>,
        time_ms: i64,
    ) -> Result<(), CodecError> {
        let telling = request.and_then(telling);
        let Some((_, judge)) = self.hall.as_mut().filter(|(office, _)| *office == this.id) else {
            if let Some(telling) = telling {
                let text = format!("{this}, which names no outside system, took {telling:?}");
                self.breaches.add(Invariant::Refused, text);
            }
            return Ok(());
        };
        let by_number = |ticket: &queue::Ticket| match request.map(|request| &request.command) {
            Some(AnyCommand::Queue(queue::Command::CallNumber { ticket: named, .. })) => {
                *named == ticket.ticket
            }
            Some(AnyCommand::Queue(queue::Command::Outside(event))) => {
                let named = ticket.outside.as_ref();
                matches!(event.happened, OutsideHappened::Called { .. })
                    && named.is_some_and(|own| (&own.system, &own.number) == (&event.system, &event.ticket))
            }
            _ => false,
        };
        let mut taken = Vec::new();
        for event in events::<queue::Event>(Kind::Queue, commit)? {
            if let Some(told) = told_outside(&this.id, &event, commit.time_ms) {
                judge.tells_outside(told);
            }
            let what = match event {
                queue::Event::Moved(moved) => hall::Happened::Moved {
                    by_number: by_number(&moved.ticket),
                    ticket: ticket(&moved.ticket),
                    what: hall_move(moved.what),
                },
                queue::Event::Swept { tickets } => {
                    hall::Happened::Swept(tickets.iter().map(translate::ticket_name).collect())
                }
                queue::Event::WindowChanged(desk) => hall::Happened::Window(window(&desk)),
                queue::Event::BookingChanged(booking) => hall::Happened::Slot(slot(&booking)),
                queue::Event::Cleared { parts } => hall::Happened::SlotsForgotten(
                    parts
                        .iter()
                        .filter_map(|part| part.strip_prefix("booking:"))
                        .map(str::to_owned)
                        .collect(),
                ),
                queue::Event::OutsideTaken(seen) => {
                    taken.push(outside::Taken {
                        day: translate::day(seen.day),
                        event: (seen.system.clone(), seen.id.clone()),
                        ticket: seen.ticket.as_ref().map(translate::ticket_name),
                    });
                    continue;
                }
                _ => continue,
            };
            judge.happened(time_ms, what);
        }
        judge.told_by_outside(telling.as_ref(), &taken);
        Ok(())
    }

    fn channel(
        &mut self,
        this: &EntityRef,
        commit: &Commit,
        request: Option<&Request>,
    ) -> Result<(), CodecError> {
        let Some(judge) = &mut self.exchange else { return Ok(()) };
        let code = || this.id.clone();
        let mut all = Vec::new();
        for event in events::<channel::Event>(Kind::Channel, commit)? {
            all.push(match event {
                channel::Event::Moved { message: own, why } => exchange::Happened::Moved {
                    channel: code(),
                    message: message(&own),
                    what: channel_move(why),
                },
                channel::Event::Redriven { message: own, .. } => {
                    exchange::Happened::Redriven { channel: code(), message: message(&own) }
                }
                channel::Event::Ended(ended) => exchange::Happened::Ended {
                    channel: code(),
                    id: ended.id,
                    outcome: ended.outcome.name().to_owned(),
                    body: ended.body.map(|body| body.sha256),
                },
                channel::Event::LetterMoved { letter } => exchange::Happened::Letter {
                    channel: code(),
                    number: letter.number,
                    outside_id: letter.outside_id.clone(),
                    body: letter.body.sha256,
                },
                channel::Event::LettersForgotten { numbers, .. } => {
                    exchange::Happened::LettersForgotten { channel: code(), numbers }
                }
                channel::Event::Configured { .. }
                | channel::Event::BodiesForgotten { .. }
                | channel::Event::Steered { .. }
                | channel::Event::Accounted(_) => continue,
            });
        }
        let cause = request.map_or(Cause::Other, |request| cause(request, commit.term));
        judge.committed(commit.time_ms, &cause, all);
        Ok(())
    }

    fn case(&mut self, this: &EntityRef, commit: &Commit) -> Result<(), CodecError> {
        let Some(judge) = &mut self.exchange else { return Ok(()) };
        let mut all = Vec::new();
        for event in events::<case::Event>(Kind::Case, commit)? {
            match event {
                case::Event::Asked(dealt) | case::Event::Exchanged(dealt) => {
                    all.extend(dealt.exchanges.iter().map(|own| exchange::Happened::Request {
                        id: own.id.clone(),
                        state: asked(&own.state),
                        answer: own.answer.as_ref().map(|body| body.sha256),
                        others: own.others.iter().map(|body| body.sha256).collect(),
                    }));
                }
                case::Event::LetterTaken(letter) => all.push(exchange::Happened::CaseLetter {
                    case: this.id.clone(),
                    channel: letter.channel.clone(),
                    number: letter.letter.number,
                    body: letter.letter.body.sha256,
                }),
                _ => {}
            }
        }
        judge.committed(commit.time_ms, &Cause::Other, all);
        Ok(())
    }

    /// Somebody was answered, perhaps long after they had given up.
    pub fn answered(&mut self, id: Uuid, result: &CallResult) {
        let Some(request @ Request { command, target, .. }) = self.requests.get(&id) else { return };
        if let Some(telling) = telling(request) {
            let named = self.hall.as_mut().filter(|(office, _)| *office == target.id);
            match (named, result) {
                (Some((_, judge)), CallResult::Done { reply: AnyReply::Queue(reply), .. }) => {
                    let ticket = reply.ticket().map(|told| translate::ticket_name(&told.ticket));
                    judge.answered_outside(&telling, ticket.as_ref());
                }
                (None, CallResult::Done { .. }) => {
                    let text = format!("{target} names no outside system and answered {telling:?}");
                    self.breaches.add(Invariant::Refused, text);
                }
                (_, CallResult::Refused(refusal)) if refusal.reason == OUTSIDE_FOREIGN.code => {
                    self.foreign += 1;
                }
                _ => {}
            }
        }
        match (result, command) {
            (CallResult::Done { reply: AnyReply::Queue(reply), .. }, _) => {
                let own = self.hall.as_mut().filter(|(office, _)| *office == target.id);
                if let (Some((_, judge)), Some(told)) = (own, reply.ticket()) {
                    judge.told(&translate::ticket_name(&told.ticket), told.revision);
                }
            }
            (CallResult::Done { reply: AnyReply::Channel(reply), .. }, AnyCommand::Channel(command)) => {
                if let Some(judge) = &mut self.exchange {
                    told(judge, &target.id, command, reply);
                }
            }
            // The one verdict of a call that brought nothing else.
            (
                CallResult::Refused(refusal),
                AnyCommand::Channel(channel::Command::Exchange { verdicts, .. }),
            ) => {
                if let (Some(judge), [verdict]) = (&mut self.exchange, verdicts.as_slice()) {
                    judge.told(&said(verdict), &refusal.reason);
                }
            }
            _ => {}
        }
    }

    /// What a node's store holds when everything has come to rest. `cases`: those that may have been opened.
    pub fn held<'a>(
        &mut self,
        node: u64,
        view: &StateView,
        time_ms: i64,
        cases: impl Iterator<Item = &'a str>,
    ) -> Result<(), StorageError> {
        if let Some((office, judge)) = &mut self.hall {
            let queue = load_state::<Queue>(view, &places::queue(office))?;
            judge.held(
                &queue.map_or_else(hall::Held::default, |queue| held_queue(node, &queue.state)),
                time_ms,
            );
            judge.exported(node, &exported(view, office)?);
        }
        if let Some(judge) = &mut self.exchange {
            judge.held(&held_channels(node, view, cases)?);
        }
        Ok(())
    }

    /// No grace time of a window runs any more.
    pub fn graces_over(&self) -> bool {
        self.hall.as_ref().is_none_or(|(_, judge)| judge.graces_over())
    }

    /// Do the windows know which workstations live? Those they should and do not are named.
    pub fn unheard_of<'a>(&self, stations: impl Iterator<Item = StationSeen> + 'a) -> Vec<StationSeen> {
        let Some((_, judge)) = &self.hall else { return Vec::new() };
        let known = |station: &StationSeen| {
            let window = judge.window_now(station.window);
            match station.lives {
                true => window.is_some_and(|window| window.leased && window.unattended.is_none()),
                false => window.is_none_or(|window| !window.leased),
            }
        };
        stations.filter(|station| !known(station)).collect()
    }
}

/// Is nothing left to do in the channels: no message, no letter on its way, no request without an answer?
pub fn channels_rest<'a>(
    view: &StateView,
    cases: impl Iterator<Item = &'a str>,
) -> Result<bool, StorageError> {
    for code in places::CHANNELS {
        let Some(read) = load_state::<Channel>(view, &places::channel(code))? else { continue };
        let routing = |letter: &channel::Inbox| matches!(letter.state, channel::LetterState::Routing { .. });
        let letters = !read.state.letters().any(routing);
        if read.state.messages().next().is_some() || !letters {
            return Ok(false);
        }
    }
    for id in cases {
        let case = load_state::<Case>(view, &EntityRef { kind: Kind::Case, id: id.to_owned() })?;
        let open = |own: &case::Exchange| matches!(own.state, ExchangeState::Sent { .. });
        if case.is_some_and(|case| case.state.exchanges().any(open)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn events<E: DeserializeOwned>(kind: Kind, commit: &Commit) -> Result<Vec<E>, CodecError> {
    commit.events.iter().map(|record| codec::decode(What::Event(kind), record)).collect()
}

fn told(judge: &mut Exchange, code: &str, command: &channel::Command, reply: &channel::Reply) {
    match (command, reply) {
        (channel::Command::Exchange { verdicts, .. }, channel::Reply::Exchanged(exchanged)) => {
            for (verdict, settled) in verdicts.iter().zip(&exchanged.results) {
                judge.told(&said(verdict), &settled.reason);
            }
            for message in &exchanged.handed {
                if let MessageState::Out { token: own, .. } = message.state {
                    judge.told_handed(&message.id, token(own));
                }
            }
        }
        (channel::Command::Receive { .. }, channel::Reply::Received { results }) => {
            for received in results.iter().filter(|received| received.reason.is_empty()) {
                judge.told_letter(code, &received.outside_id, received.number, received.duplicate);
            }
        }
        _ => {}
    }
}

/// An event that an outside queue system tells.
fn telling(request: &Request) -> Option<outside::Telling> {
    let AnyCommand::Queue(queue::Command::Outside(event)) = &request.command else { return None };
    Some(outside::Telling {
        by: request.principal.id.clone(),
        event: (event.system.clone(), event.id.clone()),
        ticket: event.ticket.clone(),
    })
}

/// What an outside queue system is told of an event of ours.
fn told_outside(office: &str, event: &queue::Event, at_ms: i64) -> Option<outside::Told> {
    use hall::Stand;
    let queue::Event::Moved(moved) = event else { return None };
    let told = OutsideEvent::of(office, event, at_ms)?;
    let stand = match told.happened {
        OutsideHappened::Called { window } | OutsideHappened::CalledAgain { window } => Stand::Called(window),
        OutsideHappened::Begun { window } => Stand::InService(window),
        OutsideHappened::PutOff { minutes, .. } => {
            Stand::PutOff { until_ms: told.at_ms + i64::from(minutes) * MINUTE_MS }
        }
        OutsideHappened::Registered { .. }
        | OutsideHappened::CameBack
        | OutsideHappened::Redirected { .. }
        | OutsideHappened::Returned { .. } => Stand::Waiting,
        OutsideHappened::Finished { .. } | OutsideHappened::DidNotCome { .. } | OutsideHappened::Left => {
            Stand::Ended
        }
    };
    // Its day is that of the id, as whoever is told has nothing else.
    let day = told.id.split(':').nth(1).and_then(|day| day.parse().ok()).unwrap_or(moved.ticket.ticket.day);
    let ticket = TicketName { day: translate::day(day), number: told.ticket };
    Some(outside::Told { id: told.id, ticket, stand })
}

/// Ids of what a node's journal tells of an office's queue to an outside system, from the beginning.
fn exported(view: &StateView, office: &str) -> Result<Vec<String>, StorageError> {
    let Ok(key) = entity_key(&places::queue(office)) else { return Ok(Vec::new()) };
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let page = view.history(&key, after, HISTORY_PAGE)?;
        for row in &page {
            after = row.index;
            // What cannot be read leaves a gap, which the judge sees.
            let events =
                row.events.iter().filter_map(|record| codec::decode(What::Event(Kind::Queue), record).ok());
            let time_ms = row.time_ms;
            ids.extend(events.filter_map(|event| Some(told_outside(office, &event, time_ms)?.id)));
        }
        if page.len() < HISTORY_PAGE {
            return Ok(ids);
        }
    }
}

/// What led to a commit of the leader of this term.
fn cause(request: &Request, term: u64) -> Cause {
    match &request.command {
        AnyCommand::Channel(channel::Command::Exchange { verdicts, .. }) => Cause::Exchange {
            connector: request.principal.id.clone(),
            verdicts: verdicts.iter().map(said).collect(),
        },
        AnyCommand::Channel(channel::Command::Lapse { lapsed, .. }) => Cause::Lapse {
            term,
            deliveries: lapsed.iter().map(|lapsed| (lapsed.id.clone(), token(lapsed.token))).collect(),
        },
        AnyCommand::Channel(channel::Command::Receive { letters }) => Cause::Receive(
            letters.iter().map(|letter| (letter.outside_id.clone(), letter.body.sha256())).collect(),
        ),
        _ => Cause::Other,
    }
}

fn held_queue(node: u64, queue: &Queue) -> hall::Held {
    let order: Vec<TicketName> =
        queue.in_order().into_iter().map(|own| translate::ticket_name(&own.ticket)).collect();
    hall::Held {
        node,
        tickets: queue.all_tickets().map(ticket).collect(),
        order,
        day: queue.day().map_or(0, translate::day),
        windows: queue.desks().map(window).collect(),
    }
}

fn held_channels<'a>(
    node: u64,
    view: &StateView,
    cases: impl Iterator<Item = &'a str>,
) -> Result<exchange::Held, StorageError> {
    let mut held = exchange::Held { node, ..exchange::Held::default() };
    let mut body = |what: String, body: &BodyRef| -> Result<(), StorageError> {
        held.bodies.push((what, body.sha256, read_back(view, body)?));
        Ok(())
    };
    for code in places::CHANNELS {
        let Some(read) = load_state::<Channel>(view, &places::channel(code))? else { continue };
        held.messages.extend(read.state.messages().map(|own| (code.to_owned(), message(own))));
        // What a case has taken it keeps, or lets go when its year is over.
        for letter in read.state.letters() {
            if !matches!(letter.state, channel::LetterState::Taken { .. }) {
                body(format!("letter {} of {code}", letter.number), &letter.body)?;
            }
        }
    }
    for id in cases {
        let this = EntityRef { kind: Kind::Case, id: id.to_owned() };
        let Some(case) = load_state::<Case>(view, &this)? else { continue };
        for own in case.state.exchanges() {
            held.requests.push((own.id.clone(), asked(&own.state)));
            if !own.forgotten {
                body(format!("request {}", own.id), &own.body)?;
                if let Some(answer) = &own.answer {
                    body(format!("the answer to {}", own.id), answer)?;
                }
                for other in &own.others {
                    body(format!("what passed between channels for {}", own.id), other)?;
                }
            }
        }
        for letter in case.state.letters().filter(|letter| !letter.forgotten) {
            body(format!("letter {} of case {id}", letter.number), &letter.letter.body)?;
        }
    }
    Ok(held)
}

/// The digest of what is kept under a reference.
fn read_back(view: &StateView, body: &BodyRef) -> Result<Option<Digest>, StorageError> {
    let Ok(holder) = entity_key(&body.holder) else { return Ok(None) };
    let Row { table, key } = rows::body(body.number);
    let record: Option<Record> = view.row(table.number(), &key, &holder)?.flatten();
    // What does not carry its own hash is as good as nothing.
    Ok(record.and_then(|record| codec::kept(&record).ok()).map(|bytes| sha256(&bytes)))
}
