//! Asks at work: they are made, their requests leave and are answered, and what passed is forgotten when its year is over.
//!
//! A blocking ask takes the case to `interagency` and back, like a request that a person makes; one that is not leaves
//! its state alone. Answers are taken in every state, and never refused: what was received is kept (R-I2).

use super::{
    AskBody, Asking, AskingState, Case, CaseLetter, Dealt, Event, Exchange, ExchangeState, INTERAGENCY_MAX,
    InteragencyRequest, LETTERS_MAX, Life, Reply, STEPS_MAX, State, Step, StepRecord, check,
    decide::{done, known, stamp},
    get,
};
use crate::{
    catalogue::{Ask, AskOrder, Wait},
    channel::{CALL_BYTES_MAX, by_holder},
    entity::{Context, Decision, EntityRef, Kind, Principal, Refusal, Send, TimerChange},
    exchange::{self, BODY_BYTES_MAX, BodyRef, ChannelAnswer, ChannelRequest, Letter, Outcome},
    message::Message,
    refusal::{
        ASK_OPEN, ASK_UNKNOWN, ASK_UNSATISFIED, BODY_TOO_LARGE, CALL_TOO_LARGE, CASE_LIMIT,
        CASE_STEP_IMPOSSIBLE, FIELD_INVALID, MESSAGE_UNEXPECTED, REQUEST_UNKNOWN, refuse,
    },
    time::year_over_ms,
    validators::expect_line,
};
use std::sync::Arc;

/// The timer by which bodies are forgotten.
pub(super) const BODIES_TIMER: &str = "bodies-over";
/// What one firing of it forgets: each exchange may name a score of bodies.
const SWEEP_EXCHANGES: usize = 8;
const SWEEP_LETTERS: usize = 16;
/// Between two sweeps of which the first left something.
const SWEEP_PAUSE_MS: i64 = 1_000;

/// A change in the making: what it has changed lies over the case.
struct Deal<'a> {
    case: &'a Case,
    now_ms: i64,
    dealt: Dealt,
    sends: Vec<Send>,
}

impl Case {
    fn asking_list(&self) -> &[(u32, Arc<Asking>)] {
        self.dealings.as_ref().map_or(&[], |dealings| dealings.askings.as_slice())
    }

    pub(super) fn exchange_list(&self) -> &[(u32, Arc<Exchange>)] {
        self.dealings.as_ref().map_or(&[], |dealings| dealings.exchanges.as_slice())
    }

    /// What a channel has to do with a request; `None`: a person made it, and answers it.
    pub(super) fn exchange_of(&self, number: u32) -> Option<&Arc<Exchange>> {
        self.dealings.as_ref().and_then(|dealings| get(&dealings.exchanges, number))
    }

    fn letter_list(&self) -> &[(u32, Arc<CaseLetter>)] {
        self.dealings.as_ref().map_or(&[], |dealings| dealings.letters.as_slice())
    }

    fn this(&self) -> EntityRef {
        EntityRef { kind: Kind::Case, id: self.id.to_string() }
    }

    /// Does an open request hold the case up? Those that a channel answers without blocking do not.
    pub(super) fn blocks(&self, request: &InteragencyRequest) -> bool {
        request.answered_ms.is_none()
            && self.exchange_of(request.number).is_none_or(|exchange| exchange.blocking)
    }

    /// How many requests hold the case up.
    pub(super) fn blocking(&self) -> usize {
        self.requests.iter().filter(|(_, request)| self.blocks(request)).count()
    }

    /// May the case go to the authority? Not before every mandatory ask of its service has succeeded.
    pub(super) fn expect_satisfied(&self, context: &Context<'_>) -> Result<(), Refusal> {
        for ask in context.catalogue.asks_of(&self.root.service).filter(|ask| ask.mandatory) {
            let last = self.asking_list().iter().rev().find(|(_, asking)| asking.code == ask.code);
            let state = last.map(|(_, asking)| asking.state);
            if !matches!(state, Some(AskingState::Satisfied { .. })) {
                return Err(refuse(ASK_UNSATISFIED)
                    .with("ask", ask.code.clone())
                    .with("state", state.map_or("not asked", AskingState::name)));
            }
        }
        Ok(())
    }

    pub(super) fn decide_ask(
        &self,
        code: &str,
        bodies: &[AskBody],
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        known(self)?;
        let state = self.state();
        if !matches!(state, State::Accepted | State::Interagency) {
            return Err(refuse(CASE_STEP_IMPOSSIBLE).with("state", state.name()).with("step", "ask"));
        }
        let mut asks = context.catalogue.asks_of(&self.root.service);
        let ask = asks.find(|ask| ask.code == code).ok_or_else(|| {
            let known: Vec<_> =
                context.catalogue.asks_of(&self.root.service).map(|ask| ask.code.as_str()).collect();
            refuse(ASK_UNKNOWN).with("ask", code).with("known", known.join(", "))
        })?;
        if self
            .asking_list()
            .iter()
            .any(|(_, asking)| asking.code == code && asking.state == AskingState::Open)
        {
            return Err(refuse(ASK_OPEN).with("ask", code));
        }
        self.expect_bodies(ask, bodies)?;
        let mut deal = Deal::of(self, context);
        let number = self.asking_list().last().map_or(0, |(number, _)| *number) + 1;
        let mut asking = Asking {
            number,
            code: ask.code.clone(),
            wait: ask.wait,
            order: ask.order,
            blocking: ask.blocking,
            requests: Vec::with_capacity(bodies.len()),
            asked_ms: context.now_ms,
            state: AskingState::Open,
        };
        let to = if ask.blocking { State::Interagency } else { state };
        for (n, (request, given)) in (1..).zip(ask.requests.iter().zip(bodies)) {
            let number = self.root.requests_last + n;
            asking.requests.push(number);
            let exchange = Exchange {
                number,
                id: exchange::within(&self.id, number),
                asking: asking.number,
                channel: request.channel.clone(),
                kind: request.kind.clone(),
                key: given.key.clone(),
                body: BodyRef::of(&self.this(), u64::from(number), &given.body),
                blocking: ask.blocking,
                span_ms: ask.expires_ms,
                state: ExchangeState::Planned,
                progress: String::new(),
                answer: None,
                others: Vec::new(),
                forgotten: false,
            };
            deal.dealt.requests.push(Arc::new(InteragencyRequest {
                number,
                authority: request.channel.clone(),
                subject: given.subject.clone(),
                sent_ms: context.now_ms,
                answered_ms: None,
                answer: String::new(),
            }));
            let step = Step::RequestInteragency {
                authority: request.channel.clone(),
                subject: given.subject.clone(),
            };
            let from = if n == 1 { state } else { to };
            deal.record(step, from, to, stamp(&self.root.office, context));
            if ask.order == AskOrder::Parallel || n == 1 {
                deal.send(exchange, &given.subject);
            } else {
                deal.dealt.exchanges.push(Arc::new(exchange));
            }
        }
        deal.dealt.asking = Some(Arc::new(asking));
        deal.dealt.life = ask.blocking.then_some(Life::Interagency);
        let Deal { dealt, sends, .. } = deal;
        let mut decision =
            done(vec![Event::Asked(Box::new(dealt))], Reply::Asked { asking: number, state: to });
        decision.sends = sends;
        Ok(decision)
    }

    fn expect_bodies(&self, ask: &Ask, bodies: &[AskBody]) -> Result<(), Refusal> {
        if bodies.len() != ask.requests.len() {
            return Err(refuse(FIELD_INVALID).with("requests", format!("{} of them", ask.requests.len())));
        }
        for body in bodies {
            check::required("subject", &body.subject, exchange::LINE_MAX)?;
            expect_line("subject", &body.subject, exchange::LINE_MAX)?;
            expect_line("key", &body.key, exchange::CODE_MAX)?;
            if body.body.0.len() > BODY_BYTES_MAX {
                return Err(refuse(BODY_TOO_LARGE).with("bytes", format!("at most {BODY_BYTES_MAX}")));
            }
        }
        if bodies.iter().map(|body| body.body.0.len()).sum::<usize>() > CALL_BYTES_MAX {
            return Err(refuse(CALL_TOO_LARGE).with("bytes", format!("at most {CALL_BYTES_MAX}")));
        }
        let more = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        if self.root.requests_last.saturating_add(more) > INTERAGENCY_MAX {
            return Err(refuse(CASE_LIMIT).with("requests", format!("at most {INTERAGENCY_MAX}")));
        }
        if self.root.steps_last.saturating_add(more) > STEPS_MAX {
            return Err(refuse(CASE_LIMIT).with("steps", format!("at most {STEPS_MAX}")));
        }
        Ok(())
    }

    /// An officer waits no longer: the ask has failed, and its channels are told.
    pub(super) fn decide_give_up(
        &self,
        number: u32,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        known(self)?;
        let found = self.asking_list().iter().find(|(own, _)| *own == number);
        let asking = found
            .map(|(_, asking)| asking)
            .filter(|asking| asking.state == AskingState::Open)
            .ok_or_else(|| refuse(REQUEST_UNKNOWN).with("asking", number.to_string()))?;
        let mut deal = Deal::of(self, context);
        deal.cancel(asking);
        let state = AskingState::Failed { at_ms: context.now_ms };
        deal.dealt.asking = Some(Arc::new(Asking { state, ..asking.as_ref().clone() }));
        deal.resume();
        let to = deal.dealt.life.as_ref().map_or(self.state(), Life::state);
        Ok(deal.finish(Reply::Asked { asking: number, state: to }))
    }

    /// What channels say.
    pub(super) fn take_channel(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let unexpected =
            || refuse(MESSAGE_UNEXPECTED).with("message", message.name()).with("source", source.to_string());
        let exchange = |id: &str| {
            let own = self.exchange_list().iter().map(|(_, exchange)| exchange);
            own.into_iter().find(|exchange| exchange.id == id && exchange.channel == source.id)
        };
        match message {
            Message::ChannelAnswer(answer) => {
                let exchange = exchange(&answer.id).ok_or_else(unexpected)?;
                Ok(self.answered_by(exchange, answer, context))
            }
            Message::ChannelProgress { id, text } => {
                let exchange = exchange(id).ok_or_else(unexpected)?;
                let mut deal = Deal::of(self, context);
                let told = Exchange { progress: text.clone(), ..exchange.as_ref().clone() };
                deal.dealt.exchanges.push(Arc::new(told));
                Ok(deal.finish(Reply::None))
            }
            Message::ChannelLetter(letter) => self.take_letter(source, letter, context),
            Message::BodiesForgotten { .. } => Ok(done(Vec::new(), Reply::None)),
            Message::Refused { reason, of } => match of.as_ref() {
                Message::ChannelRequest(request) => {
                    let exchange = exchange(&request.id).ok_or_else(unexpected)?;
                    let answer = ChannelAnswer {
                        id: request.id.clone(),
                        outcome: Outcome::Refused { reason: reason.clone() },
                        summary: String::new(),
                        body: None,
                        others: Vec::new(),
                        connector: String::new(),
                    };
                    Ok(self.answered_by(exchange, &answer, context))
                }
                // The channel has no such thing: as good as told.
                Message::RequestWithdrawn { .. } | Message::ForgetBodies { .. } => {
                    Ok(done(Vec::new(), Reply::None))
                }
                _ => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }

    /// The one answer to a request. What the case no longer needs is kept all the same.
    fn answered_by(
        &self,
        exchange: &Arc<Exchange>,
        answer: &ChannelAnswer,
        context: &Context<'_>,
    ) -> Decision<Self> {
        let mut deal = Deal::of(self, context);
        let brings = answer.body.is_some() || !answer.others.is_empty();
        let state = ExchangeState::Closed { at_ms: context.now_ms, outcome: answer.outcome.clone() };
        deal.dealt.exchanges.push(Arc::new(Exchange {
            state,
            answer: answer.body.clone(),
            others: answer.others.clone(),
            forgotten: exchange.forgotten && !brings,
            ..exchange.as_ref().clone()
        }));
        if deal.answer_request(exchange.number, &told(answer)) {
            let by = if answer.connector.is_empty() {
                context.origin.principal.clone()
            } else {
                Principal { kind: "connector".to_owned(), id: answer.connector.clone() }
            };
            deal.judge(exchange.asking);
            deal.resume();
            let to = deal.dealt.life.as_ref().map_or(self.state(), Life::state);
            let step = Step::InteragencyAnswered { request: exchange.number, answer: told(answer) };
            let mut stamp = stamp(&self.root.office, context);
            stamp.by = by;
            deal.record(step, self.state(), to, stamp);
        }
        let mut decision = deal.finish(Reply::None);
        decision.timers.extend(self.forget_later(context, brings));
        decision
    }

    fn take_letter(
        &self,
        source: &EntityRef,
        letter: &Letter,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        known(self)?;
        let number = self.letter_list().last().map_or(0, |(number, _)| *number) + 1;
        if number > LETTERS_MAX {
            return Err(refuse(CASE_LIMIT).with("letters", format!("at most {LETTERS_MAX}")));
        }
        let taken = CaseLetter {
            number,
            channel: source.id.clone(),
            letter: letter.clone(),
            taken_ms: context.now_ms,
            forgotten: false,
        };
        let mut decision = done(vec![Event::LetterTaken(Arc::new(taken))], Reply::None);
        let message = Message::LetterTaken { number: letter.number };
        decision.sends.push(Send { target: source.clone(), message });
        decision.timers.extend(self.forget_later(context, true));
        Ok(decision)
    }

    /// What follows from a step that ends the case for the applicant: nobody waits for answers any more, and the year
    /// begins to run.
    pub(super) fn ending(&self, context: &Context<'_>) -> (Vec<Send>, Option<TimerChange>) {
        let sent = self.exchange_list().iter().map(|(_, exchange)| exchange);
        let sent = sent.filter(|exchange| matches!(exchange.state, ExchangeState::Sent { .. }));
        let sends = sent.map(|exchange| withdraw(exchange)).collect();
        let kept = !self.exchange_list().is_empty() || !self.letter_list().is_empty();
        (sends, kept.then(|| self.forget_at(context.now_ms, context)))
    }

    /// Something came after the end: it is kept as long as the rest, and a year of its own when the rest is gone.
    fn forget_later(&self, context: &Context<'_>, body: bool) -> Option<TimerChange> {
        if !body || !self.state().is_over() {
            return None;
        }
        let over = |step: &StepRecord| {
            matches!(step.to, State::Issued | State::Withdrawn | State::Unclaimed).then_some(step.stamp.at_ms)
        };
        let ended_ms = self.steps.iter().rev().find_map(|(_, step)| over(step))?;
        let TimerChange::Set { name, due_ms } = self.forget_at(ended_ms, context) else { return None };
        if due_ms > context.now_ms {
            return Some(TimerChange::Set { name, due_ms });
        }
        Some(self.forget_at(context.now_ms, context))
    }

    fn forget_at(&self, from_ms: i64, context: &Context<'_>) -> TimerChange {
        let office = context.directory.office(&self.root.office);
        let due_ms = year_over_ms(from_ms, office.map_or(0, |office| office.utc_offset_minutes));
        TimerChange::Set { name: BODIES_TIMER.to_owned(), due_ms }
    }

    /// The year is over (R-I2): what was sent goes here, what was received where it lies; the hashes stay.
    pub(super) fn forget_bodies(&self, context: &Context<'_>) -> Decision<Self> {
        let mut exchanges = self.exchange_list().iter().filter(|(_, exchange)| !exchange.forgotten);
        let mut letters = self.letter_list().iter().filter(|(_, letter)| !letter.forgotten);
        let gone: Vec<_> = exchanges.by_ref().take(SWEEP_EXCHANGES).map(|(_, exchange)| exchange).collect();
        let read: Vec<_> = letters.by_ref().take(SWEEP_LETTERS).map(|(_, letter)| letter).collect();
        if gone.is_empty() && read.is_empty() {
            return done(Vec::new(), Reply::None);
        }
        let elsewhere = gone
            .iter()
            .flat_map(|exchange| exchange.answer.iter().chain(&exchange.others))
            .chain(read.iter().map(|letter| &letter.letter.body))
            .filter(|body| body.holder.kind == Kind::Channel);
        let sends = by_holder(elsewhere).into_iter();
        let sends =
            sends.map(|(target, numbers)| Send { target, message: Message::ForgetBodies { numbers } });
        let event = Event::BodiesForgotten {
            exchanges: gone
                .iter()
                .map(|exchange| Arc::new(Exchange { forgotten: true, ..exchange.as_ref().clone() }))
                .collect(),
            letters: read
                .iter()
                .map(|letter| Arc::new(CaseLetter { forgotten: true, ..letter.as_ref().clone() }))
                .collect(),
        };
        let mut decision = done(vec![event], Reply::None);
        decision.sends = sends.collect();
        if exchanges.next().is_some() || letters.next().is_some() {
            let due_ms = context.now_ms + SWEEP_PAUSE_MS;
            decision.timers.push(TimerChange::Set { name: BODIES_TIMER.to_owned(), due_ms });
        }
        decision
    }
}

impl State {
    /// Nothing more is waited for.
    const fn is_over(self) -> bool {
        matches!(self, Self::Issued | Self::Withdrawn | Self::Unclaimed | Self::Archived)
    }
}

/// As a person reads what came of a request.
fn told(answer: &ChannelAnswer) -> String {
    let text = match (&answer.outcome, answer.summary.as_str()) {
        (Outcome::Answered, "") => return answer.outcome.name().to_owned(),
        (Outcome::Answered, summary) => summary.to_owned(),
        (outcome, _) if outcome.reason().is_empty() => return outcome.name().to_owned(),
        (outcome, _) => format!("{}: {}", outcome.name(), outcome.reason()),
    };
    text.chars().take(check::TEXT_MAX).collect()
}

fn withdraw(exchange: &Exchange) -> Send {
    Send {
        target: EntityRef { kind: Kind::Channel, id: exchange.channel.clone() },
        message: Message::RequestWithdrawn { id: exchange.id.clone() },
    }
}

impl<'a> Deal<'a> {
    fn of(case: &'a Case, context: &Context<'_>) -> Self {
        Self { case, now_ms: context.now_ms, dealt: Dealt::default(), sends: Vec::new() }
    }

    fn record(&mut self, step: Step, from: State, to: State, stamp: super::Stamp) {
        let last = self.dealt.records.last().map_or(self.case.root.steps_last, |record| record.number);
        let record = StepRecord { number: last + 1, step, from, to, stamp, warnings: Vec::new() };
        self.dealt.records.push(Arc::new(record));
    }

    fn exchange(&self, number: u32) -> Option<&Arc<Exchange>> {
        let changed = self.dealt.exchanges.iter().rev().find(|exchange| exchange.number == number);
        changed.or_else(|| self.case.exchange_of(number))
    }

    fn request(&self, number: u32) -> Option<&Arc<InteragencyRequest>> {
        let changed = self.dealt.requests.iter().rev().find(|request| request.number == number);
        changed.or_else(|| get(&self.case.requests, number))
    }

    /// Its turn has come.
    fn send(&mut self, exchange: Exchange, subject: &str) {
        self.sends.push(Send {
            target: EntityRef { kind: Kind::Channel, id: exchange.channel.clone() },
            message: Message::ChannelRequest(Box::new(ChannelRequest {
                id: exchange.id.clone(),
                case: self.case.id.to_string(),
                kind: exchange.kind.clone(),
                key: exchange.key.clone(),
                subject: subject.to_owned(),
                body: exchange.body.clone(),
                expires_ms: exchange.span_ms.map(|span| self.now_ms.saturating_add(span)),
                depth: 0,
            })),
        });
        let state = ExchangeState::Sent { at_ms: self.now_ms };
        self.dealt.exchanges.push(Arc::new(Exchange { state, ..exchange }));
    }

    /// False: it was answered before.
    fn answer_request(&mut self, number: u32, answer: &str) -> bool {
        let Some(request) = self.request(number).filter(|request| request.answered_ms.is_none()) else {
            return false;
        };
        let answered = InteragencyRequest {
            answered_ms: Some(self.now_ms),
            answer: answer.to_owned(),
            ..request.as_ref().clone()
        };
        self.dealt.requests.push(Arc::new(answered));
        true
    }

    /// What the answers so far make of an ask: over, or on with the next request.
    fn judge(&mut self, number: u32) {
        let found = self.case.asking_list().iter().find(|(own, _)| *own == number);
        let Some(asking) = found.map(|(_, asking)| asking).filter(|asking| asking.state == AskingState::Open)
        else {
            return;
        };
        let (mut good, mut bad, mut sent, mut planned) = (0, 0, 0, None);
        for exchange in asking.requests.iter().filter_map(|number| self.exchange(*number)) {
            match &exchange.state {
                ExchangeState::Planned => planned = planned.or(Some(exchange.number)),
                ExchangeState::Sent { .. } => sent += 1,
                ExchangeState::Closed { outcome, .. } if outcome.is_answered() => good += 1,
                ExchangeState::Closed { .. } => bad += 1,
            }
        }
        // Nobody asks on for a case that is over.
        let stops = self.case.state().is_over();
        let at_ms = self.now_ms;
        let over = match asking.wait {
            Wait::Any if good > 0 => Some(AskingState::Satisfied { at_ms }),
            Wait::All if bad == 0 && sent == 0 && planned.is_none() => Some(AskingState::Satisfied { at_ms }),
            // Those under way are waited for; what has not left does not leave any more.
            Wait::All if bad > 0 && sent == 0 => Some(AskingState::Failed { at_ms }),
            Wait::Any if sent == 0 && planned.is_none() => Some(AskingState::Failed { at_ms }),
            Wait::All | Wait::Any if sent == 0 && stops => Some(AskingState::Failed { at_ms }),
            Wait::All | Wait::Any => None,
        };
        if let Some(state) = over {
            self.cancel(asking);
            self.dealt.asking = Some(Arc::new(Asking { state, ..asking.as_ref().clone() }));
        } else if sent == 0
            && let Some(next) = planned.and_then(|number| self.exchange(number)).cloned()
        {
            let subject =
                self.request(next.number).map(|request| request.subject.clone()).unwrap_or_default();
            self.send(next.as_ref().clone(), &subject);
        }
    }

    /// The open requests of an ask are needed no longer.
    fn cancel(&mut self, asking: &Asking) {
        let open: Vec<_> =
            asking.requests.iter().filter_map(|number| self.exchange(*number)).cloned().collect();
        for exchange in open {
            match exchange.state {
                ExchangeState::Closed { .. } => continue,
                ExchangeState::Sent { .. } => self.sends.push(withdraw(&exchange)),
                ExchangeState::Planned => {
                    let state = ExchangeState::Closed { at_ms: self.now_ms, outcome: Outcome::Withdrawn };
                    self.dealt.exchanges.push(Arc::new(Exchange { state, ..exchange.as_ref().clone() }));
                }
            }
            self.answer_request(exchange.number, Outcome::Withdrawn.name());
        }
    }

    /// With the last request that holds it up answered the case goes on; a pause goes on whatever arrives.
    fn resume(&mut self) {
        let open = self.case.requests.iter().filter(|(number, request)| {
            self.case.blocks(request) && self.request(*number).is_some_and(|now| now.answered_ms.is_none())
        });
        if matches!(self.case.root.life, Life::Interagency) && open.count() == 0 {
            self.dealt.life = Some(Life::Accepted);
        }
    }

    fn finish(self, reply: Reply) -> Decision<Case> {
        let mut decision = done(vec![Event::Exchanged(Box::new(self.dealt))], reply);
        decision.sends = self.sends;
        decision
    }
}
