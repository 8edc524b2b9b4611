//! The visitor's way through the centre, from the ticket to the archive (R-Q1, R-Q4, R-Q6, R-C1, R-C2), told while
//! it is walked.

use super::desk::Desk;
use super::fixtures;
use super::ledger::Ledger;
use super::terminal::{Terminal, counted, decimal};
use anyhow::{Context, Result, bail};
use okno_client::v1 as proto;
use proto::advance_case_request::Step;
use std::time::{Duration, Instant};

/// Between two steps: a person reads along.
const PAUSE: Duration = Duration::from_millis(350);
/// A ticket and its case tell each other by messages: usually within one commit time, longer across a fail-over.
const LINK_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub struct Story<'a> {
    pub terminal: &'a Terminal,
    pub kiosk: &'a Desk,
    pub officer: &'a Desk,
    pub ledger: &'a Ledger,
    pub service: &'a proto::Service,
    /// Tells this run's references from those of earlier runs in the same directory.
    pub run: &'a str,
}

impl Story<'_> {
    /// Walks the whole way; returns the case.
    pub async fn tell(&self) -> Result<String> {
        let (office, window) = (fixtures::STORY_OFFICE, fixtures::STORY_WINDOW);
        let say = |text: String| self.terminal.say(&text);
        self.officer.clear_window(office, window, self.ledger).await.context("clearing the window")?;

        let begun = Instant::now();
        let ticket = self
            .kiosk
            .take_ticket(self.ledger, office, &self.service.code)
            .await
            .context("taking a ticket")?;
        say(format!(
            "Анна Образцова берёт талон {} на услугу «{}»{}",
            ticket.number,
            russian(self.service.name.as_ref()),
            took(begun)
        ));
        self.pause().await;

        let begun = Instant::now();
        self.call(office, window, &ticket).await?;
        say(format!("Талон {} вызван к окну {window}{}", ticket.number, took(begun)));
        self.pause().await;
        let begun = Instant::now();
        self.officer.begin_service(self.ledger, &ticket, window).await.context("beginning to serve")?;
        say(format!("Посетительница у окна, приём начат{}", took(begun)));
        self.pause().await;

        let begun = Instant::now();
        let case = self
            .officer
            .open_case(self.ledger, office, &self.service.code, fixtures::visitor(), Some(&ticket))
            .await
            .context("opening the case")?;
        say(format!("Открыто дело {case}{}", took(begun)));
        self.pause().await;
        self.link(&case, &ticket).await?;
        self.documents(&case).await?;

        self.accept(&case).await?;
        let begun = Instant::now();
        self.officer.finish_service(self.ledger, &ticket, window).await.context("finishing to serve")?;
        say(format!("Приём по талону {} окончен{}", ticket.number, took(begun)));
        self.pause().await;

        let number = self.interagency(&case).await?;
        self.step(
            &case,
            Step::InteragencyAnswered(proto::InteragencyAnsweredStep {
                number,
                answer: "сведения подтверждены".into(),
            }),
            "Пришёл межведомственный ответ: сведения подтверждены",
        )
        .await?;
        let register = Step::SendToAuthority(proto::SendToAuthorityStep { register_number: "Р-1".into() });
        self.step(&case, register, "Комплект передан в ведомство по реестру Р-1").await?;
        self.suspension(&case).await?;
        let result = proto::ReceiveResultStep {
            reference: format!("результат {}", self.run),
            note: String::new(),
        };
        self.step(&case, Step::ReceiveResult(result), "Результат услуги получен").await?;
        self.step(
            &case,
            Step::MakeReady(proto::MakeReadyStep { note: String::new() }),
            "Дело готово к выдаче",
        )
        .await?;
        let issue = proto::IssueStep {
            received_by: "Образцова Анна Вымысловна".into(), paper_copy: false
        };
        self.step(&case, Step::Issue(issue), "Результат выдан заявительнице").await?;
        self.step(&case, Step::Archive(proto::ArchiveStep {}), "Дело в архиве").await?;
        Ok(case)
    }

    /// Calls until it is the visitor's turn. Tickets an earlier run in this directory left waiting come first.
    async fn call(&self, office: &str, window: &str, ticket: &proto::Ticket) -> Result<()> {
        loop {
            let called = self
                .officer
                .call_next(self.ledger, office, window)
                .await
                .context("calling the next visitor")?;
            if called.number == ticket.number && called.day == ticket.day {
                return Ok(());
            }
            self.officer.begin_service(self.ledger, &called, window).await.context("beginning to serve")?;
            self.officer.finish_service(self.ledger, &called, window).await.context("finishing to serve")?;
        }
    }

    /// Waits until ticket and case know each other.
    async fn link(&self, case: &str, ticket: &proto::Ticket) -> Result<()> {
        let until = Instant::now() + LINK_WITHIN;
        loop {
            let read = self.officer.get_case(case).await.context("reading the case")?;
            match read.ticket_link.as_str() {
                "linked" => break,
                "pending" if Instant::now() < until => tokio::time::sleep(POLL).await,
                "pending" => {
                    bail!("case {case} and ticket {} did not meet within {LINK_WITHIN:?}", ticket.number)
                }
                refused => bail!("the queue refused ticket {} of case {case}: {refused}", ticket.number),
            }
        }
        self.terminal.say(&format!("Талон {} и дело знают друг о друге", ticket.number));
        Ok(())
    }

    async fn documents(&self, case: &str) -> Result<()> {
        let documents = self.service.documents.iter();
        let required = documents.filter(|document| document.need() == proto::DocumentNeed::Required);
        let mut kinds: Vec<(&str, &str)> =
            required.map(|document| (document.code.as_str(), russian(document.name.as_ref()))).collect();
        if kinds.is_empty() {
            kinds.push(("other", "Заявление"));
        }
        for (number, (kind, name)) in kinds.iter().enumerate() {
            let begun = Instant::now();
            let reference = format!("{}-story-{number}", self.run);
            self.officer
                .add_document(self.ledger, case, kind, &reference)
                .await
                .context("adding a document")?;
            self.terminal.say(&format!("Документ принят: {name}{}", took(begun)));
            self.pause().await;
        }
        Ok(())
    }

    async fn accept(&self, case: &str) -> Result<()> {
        let begun = Instant::now();
        let accepted = self
            .officer
            .advance(self.ledger, case, Step::Accept(proto::AcceptStep {}))
            .await
            .context("accepting the documents")?;
        let deadline = accepted.deadline.context("an accepted case has no deadline")?;
        let mark = if deadline.provisional.is_empty() {
            String::new()
        } else {
            format!(" (предварительно: {})", deadline.provisional)
        };
        self.terminal.say(&format!("Документы приняты, срок — {}{mark}{}", deadline.date, took(begun)));
        self.pause().await;
        Ok(())
    }

    async fn interagency(&self, case: &str) -> Result<u32> {
        let begun = Instant::now();
        let request = proto::RequestInteragencyStep {
            authority: self
                .service
                .authority
                .as_ref()
                .map(|authority| authority.code.clone())
                .unwrap_or_default(),
            subject: "сведения о регистрации".into(),
        };
        let answered = self
            .officer
            .advance(self.ledger, case, Step::RequestInteragency(request))
            .await
            .context("sending an interagency request")?;
        self.terminal.say(&format!(
            "Направлен межведомственный запрос № {}{}",
            answered.interagency_number,
            took(begun)
        ));
        self.pause().await;
        Ok(answered.interagency_number)
    }

    /// Where the service knows reasons for it: a pause of the term and its end.
    async fn suspension(&self, case: &str) -> Result<()> {
        let Some(reason) = self.service.suspension_reasons.first() else { return Ok(()) };
        let begun = Instant::now();
        let suspend = proto::SuspendStep { reason: reason.code.clone(), term: None };
        self.officer.advance(self.ledger, case, Step::Suspend(suspend)).await.context("suspending")?;
        let days = reason.longest.as_ref().map(|term| counted(term.days as usize, "день", "дня", "дней"));
        let days = days.map(|days| format!(", на {days}")).unwrap_or_default();
        self.terminal.say(&format!("Приостановлено: {}{days}{}", russian(reason.name.as_ref()), took(begun)));
        self.pause().await;
        let resume = proto::ResumeStep { note: "причина устранена".into() };
        self.step(case, Step::Resume(resume), "Возобновлено: причина устранена").await
    }

    async fn step(&self, case: &str, step: Step, text: &str) -> Result<()> {
        let begun = Instant::now();
        self.officer.advance(self.ledger, case, step).await.with_context(|| format!("step {text:?}"))?;
        self.terminal.say(&format!("{text}{}", took(begun)));
        self.pause().await;
        Ok(())
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }
}

fn russian(text: Option<&proto::Text>) -> &str {
    text.map(|text| text.ru.as_str()).unwrap_or_default()
}

/// How long a call took, where a person would notice.
fn took(begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs_f64();
    if seconds < 0.2 { String::new() } else { format!(" — ждали {} с", decimal(seconds, 2)) }
}
