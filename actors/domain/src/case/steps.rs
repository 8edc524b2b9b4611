//! The steps of a case's life: may it be taken, what does it change, what follows.

use super::{
    Advanced, Case, DueDates, Event, INTERAGENCY_MAX, InteragencyRequest, Life, Outcome, Reply, Root,
    STEPS_MAX, State, Step, StepRecord, Stepped, Suspension, check,
    decide::{done, known, stamp},
    get, life, terms,
};
use crate::{
    catalogue::{Service, ServiceDeadlines, Term},
    directory::Office,
    entity::{Context, Decision, Refusal},
    refusal::{
        CASE_LIMIT, CASE_STEP_IMPOSSIBLE, OFFICE_UNKNOWN, REQUEST_ANSWERED, REQUEST_UNKNOWN,
        REQUEST_WITH_CHANNEL, SERVICE_UNKNOWN, STORAGE_NOT_OVER, SUSPENSION_REASON_UNKNOWN, refuse,
    },
    time::local_date,
    validators::expect_len,
};
use jiff::civil::Date;
use std::sync::Arc;

/// What the steps need to know of the world around the case.
struct Place<'a> {
    office: &'a Office,
    service: &'a Service,
    today: Date,
}

/// What a step makes of the case.
struct Change {
    life: Life,
    due: Option<DueDates>,
    request: Option<InteragencyRequest>,
    warnings: Vec<String>,
}

impl Case {
    pub(super) fn decide_step(&self, step: &Step, context: &Context<'_>) -> Result<Decision<Self>, Refusal> {
        known(self)?;
        let from = self.state();
        let possible = life::leads_to(from, step.kind());
        if possible.is_empty() {
            let allowed: Vec<_> = life::allowed(from).map(life::StepKind::name).collect();
            return Err(refuse(CASE_STEP_IMPOSSIBLE)
                .with("state", from.name())
                .with("step", step.name())
                .with("possible", allowed.join(", ")));
        }
        if self.root.steps_last >= STEPS_MAX {
            return Err(refuse(CASE_LIMIT).with("steps", format!("at most {STEPS_MAX}")));
        }
        let place = self.place(context)?;
        let Change { life, due, request, warnings } = self.change(step, &place, context)?;
        let to = life.state();
        debug_assert!(possible.contains(&to), "the table does not lead from {from:?} by {step:?} to {to:?}");

        let offset = place.office.utc_offset_minutes;
        let mut after =
            Root { life: life.clone(), due: due.clone(), marks: self.root.marks.clone(), ..Root::default() };
        let cleared = terms::outdated(&after, context.now_ms, offset);
        for mark in &cleared {
            *after.marks.get_mut(*mark) = None;
        }
        let timers = terms::changes(&terms::wanted(&self.root, offset), &terms::wanted(&after, offset));

        let number = self.root.steps_last + 1;
        let reply = Advanced {
            step: number,
            state: to,
            deadline: after.deadline().map(|deadline| deadline.date),
            provisional: after.deadline().and_then(|deadline| deadline.provisional.clone()),
            request: request.as_ref().map_or(0, |request| request.number),
            warnings: warnings.clone(),
        };
        let record = StepRecord {
            number,
            step: step.clone(),
            from,
            to,
            stamp: stamp(&self.root.office, context),
            warnings,
        };
        let stepped =
            Stepped { record: Arc::new(record), life, due, request: request.map(Arc::new), cleared };
        let mut decision = done(vec![Event::Stepped(Box::new(stepped))], Reply::Advanced(reply));
        decision.timers = timers;
        if matches!(to, State::Issued | State::Withdrawn | State::Unclaimed) {
            let (sends, timer) = self.ending(context);
            decision.sends = sends;
            decision.timers.extend(timer);
        }
        Ok(decision)
    }

    fn place<'a>(&self, context: &Context<'a>) -> Result<Place<'a>, Refusal> {
        let Root { office, service, .. } = self.root.as_ref();
        let office = context
            .directory
            .office(office)
            .ok_or_else(|| refuse(OFFICE_UNKNOWN).with("office", office.clone()))?;
        let service = context
            .catalogue
            .service(service)
            .ok_or_else(|| refuse(SERVICE_UNKNOWN).with("service", service.clone()))?;
        Ok(Place { office, service, today: local_date(context.now_ms, office.utc_offset_minutes) })
    }

    /// The step is possible by the table: what does it make of the case, unless its data say no?
    fn change(&self, step: &Step, place: &Place<'_>, context: &Context<'_>) -> Result<Change, Refusal> {
        let now_ms = context.now_ms;
        let keep =
            |life: Life| Change { life, due: self.root.due.clone(), request: None, warnings: Vec::new() };
        Ok(match step {
            Step::Accept => self.accept(place, context)?,
            Step::RequestInteragency { authority, subject } => {
                check::required("authority", authority, check::LINE_MAX)?;
                check::required("subject", subject, check::TEXT_MAX)?;
                let number = self.root.requests_last + 1;
                if number > INTERAGENCY_MAX {
                    return Err(refuse(CASE_LIMIT).with("requests", format!("at most {INTERAGENCY_MAX}")));
                }
                let request = InteragencyRequest {
                    number,
                    authority: authority.clone(),
                    subject: subject.clone(),
                    sent_ms: now_ms,
                    answered_ms: None,
                    answer: String::new(),
                };
                Change { request: Some(request), ..keep(Life::Interagency) }
            }
            Step::InteragencyAnswered { request, answer } => self.answered(*request, answer, now_ms)?,
            Step::SendToAuthority { register_number } => {
                expect_len("register_number", register_number, check::LINE_MAX)?;
                self.expect_satisfied(context)?;
                keep(Life::AtAuthority { since_ms: now_ms })
            }
            Step::Suspend { reason, term } => {
                let until = self.suspended_until(reason, term.as_ref(), place, context)?;
                keep(Life::Suspended(Suspension {
                    from: self.state(),
                    reason: reason.clone(),
                    since: place.today,
                    until,
                }))
            }
            Step::Resume { note } => {
                expect_len("note", note, check::TEXT_MAX)?;
                Change { due: self.due_resumed(place, context)?, ..keep(self.life_resumed(now_ms)) }
            }
            Step::ReceiveResult { reference, note } => {
                expect_len("reference", reference, check::LINE_MAX)?;
                expect_len("note", note, check::TEXT_MAX)?;
                keep(Life::ResultReceived { reference: reference.clone() })
            }
            Step::ReceiveRefusal { reason, reference } => {
                check::required("reason", reason, check::TEXT_MAX)?;
                expect_len("reference", reference, check::LINE_MAX)?;
                let life = Life::Refused { reason: reason.clone(), reference: reference.clone() };
                Change { due: self.due_resumed(place, context)?, ..keep(life) }
            }
            Step::MakeReady { note } => {
                expect_len("note", note, check::TEXT_MAX)?;
                self.ready(place, context)
            }
            Step::Issue { received_by, paper_copy: _ } => {
                check::required("received_by", received_by, check::LINE_MAX)?;
                keep(Life::Issued {
                    at_ms: now_ms,
                    outcome: self.outcome(),
                    received_by: received_by.clone(),
                })
            }
            Step::Withdraw { reason } => {
                expect_len("reason", reason, check::TEXT_MAX)?;
                keep(Life::Withdrawn { reason: reason.clone() })
            }
            Step::MarkUnclaimed => {
                if let Life::ReadyForIssue { keep_until: Some(last), .. } = &self.root.life
                    && place.today <= *last
                {
                    return Err(refuse(STORAGE_NOT_OVER).with("keep_until", last.to_string()));
                }
                keep(Life::Unclaimed { since_ms: now_ms, outcome: self.outcome() })
            }
            Step::Archive => keep(Life::Archived { after: self.state() }),
        })
    }

    /// The documents are in: the term starts tomorrow (Civil Code 191). What is missing does not hinder — the
    /// applicant may insist, and some documents are asked for between authorities — but is recorded.
    fn accept(&self, place: &Place<'_>, context: &Context<'_>) -> Result<Change, Refusal> {
        let deadlines =
            context.catalogue.service_deadlines(place.service, place.today, &place.office.region)?;
        let present: Vec<_> = self.documents.iter().map(|(_, document)| document.kind.as_str()).collect();
        let missing = place.service.missing_documents(&present);
        let due = DueDates {
            accepted_ms: context.now_ms,
            accepted_on: place.today,
            catalogue_version: context.catalogue.version(),
            deadlines,
            verified: place.service.term_verified(),
        };
        Ok(Change {
            life: Life::Accepted,
            due: Some(due),
            request: None,
            warnings: missing.map(|document| format!("DOCUMENT_MISSING {}", document.code)).collect(),
        })
    }

    fn answered(&self, number: u32, answer: &str, now_ms: i64) -> Result<Change, Refusal> {
        check::required("answer", answer, check::TEXT_MAX)?;
        let request = get(&self.requests, number)
            .ok_or_else(|| refuse(REQUEST_UNKNOWN).with("request", number.to_string()))?;
        if request.answered_ms.is_some() {
            return Err(refuse(REQUEST_ANSWERED).with("request", number.to_string()));
        }
        if let Some(exchange) = self.exchange_of(number) {
            return Err(refuse(REQUEST_WITH_CHANNEL)
                .with("request", number.to_string())
                .with("channel", exchange.channel.clone()));
        }
        let request = InteragencyRequest {
            answered_ms: Some(now_ms),
            answer: answer.to_owned(),
            ..request.as_ref().clone()
        };
        let life = match &self.root.life {
            // A pause goes on whatever arrives.
            paused @ Life::Suspended(_) => paused.clone(),
            _ if self.blocking() > 1 => Life::Interagency,
            _ => Life::Accepted,
        };
        Ok(Change { life, due: self.root.due.clone(), request: Some(request), warnings: Vec::new() })
    }

    fn suspended_until(
        &self,
        reason: &str,
        term: Option<&Term>,
        place: &Place<'_>,
        context: &Context<'_>,
    ) -> Result<Option<Date>, Refusal> {
        let Place { service, today, office } = place;
        let Some(known) = service.suspension(reason) else {
            let known: Vec<_> = service.suspensions.iter().map(|reason| reason.code.as_str()).collect();
            return Err(refuse(SUSPENSION_REASON_UNKNOWN)
                .with("reason", reason)
                .with("known", known.join(", ")));
        };
        match term.or(known.longest.as_ref()) {
            None => Ok(None),
            Some(term) => Ok(Some(context.catalogue.deadline(term, *today, &office.region)?.date)),
        }
    }

    /// The term with the pause left out: what was left of it when it was suspended runs on from today.
    fn due_resumed(&self, place: &Place<'_>, context: &Context<'_>) -> Result<Option<DueDates>, Refusal> {
        let (Some(due), Life::Suspended(suspension)) = (&self.root.due, &self.root.life) else {
            return Ok(self.root.due.clone());
        };
        let deadlines: ServiceDeadlines = context.catalogue.resumed_deadlines(
            place.service,
            &due.deadlines,
            suspension.since,
            place.today,
            &place.office.region,
        )?;
        Ok(Some(DueDates { deadlines, ..due.clone() }))
    }

    fn life_resumed(&self, now_ms: i64) -> Life {
        let Life::Suspended(suspension) = &self.root.life else { return self.root.life.clone() };
        match suspension.from {
            State::AtAuthority => {
                let sent = self
                    .steps
                    .iter()
                    .rev()
                    .find(|(_, step)| matches!(step.step, Step::SendToAuthority { .. }));
                Life::AtAuthority { since_ms: sent.map_or(now_ms, |(_, step)| step.stamp.at_ms) }
            }
            State::Interagency if self.blocking() > 0 => Life::Interagency,
            _ => Life::Accepted,
        }
    }

    fn ready(&self, place: &Place<'_>, context: &Context<'_>) -> Change {
        let mut warnings = Vec::new();
        let keep_until = place.service.storage.as_ref().and_then(|storage| {
            match context.catalogue.deadline(&storage.term, place.today, &place.office.region) {
                Ok(deadline) => Some(deadline.date),
                Err(error) => {
                    // Handing out must not wait for next year's calendar; only the storage term stays open.
                    warnings.push(format!("{} keep_until", Refusal::from(error).reason));
                    None
                }
            }
        });
        let life = Life::ReadyForIssue { since_ms: context.now_ms, outcome: self.outcome(), keep_until };
        Change { life, due: self.root.due.clone(), request: None, warnings }
    }

    fn outcome(&self) -> Outcome {
        match &self.root.life {
            Life::Refused { .. } => Outcome::Refusal,
            Life::ReadyForIssue { outcome, .. }
            | Life::Issued { outcome, .. }
            | Life::Unclaimed { outcome, .. } => *outcome,
            Life::Unopened
            | Life::Draft
            | Life::Accepted
            | Life::Interagency
            | Life::AtAuthority { .. }
            | Life::Suspended(_)
            | Life::ResultReceived { .. }
            | Life::Withdrawn { .. }
            | Life::Archived { .. } => Outcome::Result,
        }
    }
}
