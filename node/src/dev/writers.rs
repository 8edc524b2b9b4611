//! The clients that work beside the story: officers at sixteen windows of another office, each at its own visitors.
//! What is acknowledged to them goes into the ledger.

use super::desk::Desk;
use super::fixtures;
use super::ledger::Ledger;
use anyhow::{Context, Result};
use okno_client::{CallError, v1 as proto};
use proto::advance_case_request::Step;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Between two calls: people think, and the machine is shared with three nodes.
const THINK_MS: std::ops::Range<u64> = 2..12;
/// Visitors with a ticket: a letter has 999 numbers a day, and these clients serve hundreds of visitors in seconds.
const TICKETS_SHARE: f64 = 0.2;
/// Documents of one case.
const DOCUMENTS: std::ops::Range<u32> = 3..9;

/// One client at work.
pub struct Writer {
    pub number: usize,
    pub officer: Desk,
    pub kiosk: Rc<Desk>,
    pub ledger: Ledger,
    pub service: Rc<proto::Service>,
    pub seed: u64,
    /// Set when the work is to end; the call under way is finished first.
    pub stop: Rc<Cell<bool>>,
    /// Tells this run's references from those of earlier runs in the same directory.
    pub run: Rc<str>,
}

impl Writer {
    /// Serves visitors until it is told to stop. Every call must succeed: the client library repeats what was not
    /// applied or is unknown under the same request id, and nothing a rule could refuse is asked for.
    pub async fn work(self) -> Result<usize> {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(self.number as u64));
        let office = fixtures::BUSY_OFFICE;
        let window = (self.number + 1).to_string();
        self.officer
            .clear_window(office, &window, &self.ledger)
            .await
            .with_context(|| format!("client {}: clearing its window", self.number + 1))?;
        let mut visitors = 0_u32;
        while !self.stop.get() {
            self.serve_one(&mut random, office, &window, visitors)
                .await
                .with_context(|| format!("client {}, visitor {}", self.number + 1, visitors + 1))?;
            visitors += 1;
        }
        Ok(visitors as usize)
    }

    async fn serve_one(
        &self,
        random: &mut StdRng,
        office: &str,
        window: &str,
        visitor: u32,
    ) -> Result<(), CallError> {
        let (desk, ledger) = (&self.officer, &self.ledger);
        let ticket = self.ticket(random, office, window).await?;
        let applicant = fixtures::applicant(self.number as u32 * 10_000 + visitor);
        let case = desk.open_case(ledger, office, &self.service.code, applicant, ticket.as_ref()).await?;
        let documents = random.gen_range(DOCUMENTS);
        for document in 0..documents {
            if self.stop.get() {
                break;
            }
            let reference = format!("{}-{}-{visitor}-{document}", self.run, self.number);
            desk.add_document(ledger, &case, "other", &reference).await?;
            self.think(random).await;
        }
        for next in [
            Step::Accept(proto::AcceptStep {}),
            Step::SendToAuthority(proto::SendToAuthorityStep {
                register_number: format!("Р-{}", self.number + 1),
            }),
            Step::ReceiveResult(proto::ReceiveResultStep {
                reference: "результат".into(),
                note: String::new(),
            }),
            Step::MakeReady(proto::MakeReadyStep { note: String::new() }),
        ] {
            if self.stop.get() {
                break;
            }
            desk.advance(ledger, &case, next).await?;
            self.think(random).await;
        }
        if let Some(ticket) = &ticket {
            desk.finish_service(ledger, ticket, window).await?;
        }
        Ok(())
    }

    /// A visitor with a ticket, at the window; `None`: this one comes by appointment, or the day's numbers are used up.
    async fn ticket(
        &self,
        random: &mut StdRng,
        office: &str,
        window: &str,
    ) -> Result<Option<proto::Ticket>, CallError> {
        if !random.gen_bool(TICKETS_SHARE) {
            return Ok(None);
        }
        match self.kiosk.take_ticket(&self.ledger, office, &self.service.code).await {
            Ok(_) => {}
            Err(error) if error.reason() == "TICKETS_EXHAUSTED" => return Ok(None),
            Err(error) => return Err(error),
        }
        self.think(random).await;
        // Whoever is next, not necessarily the visitor who came just now: another window may have been quicker. But
        // every client takes a ticket before it calls, so that somebody is always waiting.
        let ticket = self.officer.call_next(&self.ledger, office, window).await?;
        self.officer.begin_service(&self.ledger, &ticket, window).await?;
        Ok(Some(ticket))
    }

    async fn think(&self, random: &mut StdRng) {
        tokio::time::sleep(Duration::from_millis(random.gen_range(THINK_MS))).await;
    }
}
