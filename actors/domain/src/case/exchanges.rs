//! What a case has to do with channels (R-I1, R-I2, R-C11): asks, the requests they are made of, letters from outside.
//!
//! An ask is one thing the process of the service provides for (`crate::catalogue::Ask`): one or several requests to
//! channels. Each is an interagency request like those a person makes — it counts, is recorded and blocks in the same way —
//! with an [`Exchange`] of the same number beside it, which holds what passed.

use super::{InteragencyRequest, Life, Numbered, Part, StepRecord, get, part_name, put};
use crate::{
    catalogue::{AskOrder, Wait},
    entity::PartName,
    exchange::{BodyRef, Content, Letter, Outcome},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Letters one case takes; one more is parked at its channel for a person.
pub const LETTERS_MAX: u32 = 200;

/// What is sent with one request of an ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskBody {
    pub subject: String,
    /// Requests with the same key keep their order where the channel orders by key; empty: none.
    pub key: String,
    pub body: Content,
}

/// An ask and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// Within the case, from 1.
    pub number: u32,
    /// Of the process.
    pub code: String,
    pub wait: Wait,
    pub order: AskOrder,
    pub blocking: bool,
    /// Numbers of its requests, in their order.
    pub requests: Vec<u32>,
    pub asked_ms: i64,
    pub state: AskingState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskingState {
    Open,
    /// Answered as far as it must be.
    Satisfied {
        at_ms: i64,
    },
    Failed {
        at_ms: i64,
    },
}

impl AskingState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Satisfied { .. } => "satisfied",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What passed about the interagency request with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub number: u32,
    /// Our message id, as the outside knows it.
    pub id: String,
    /// Number of its ask.
    pub asking: u32,
    pub channel: String,
    pub kind: String,
    pub key: String,
    /// What was sent; kept by the case under the same number.
    pub body: BodyRef,
    pub blocking: bool,
    /// How long an answer is of use once it is sent; `None`: as the channel says.
    pub span_ms: Option<i64>,
    pub state: ExchangeState,
    /// How it got on, as last told.
    pub progress: String,
    /// What was answered; kept by the channel.
    pub answer: Option<BodyRef>,
    /// What passed between channels on its account.
    pub others: Vec<BodyRef>,
    /// The year is over (R-I2): the bodies are gone, their hashes stay.
    pub forgotten: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeState {
    /// Its turn has not come.
    Planned,
    Sent {
        at_ms: i64,
    },
    Closed {
        at_ms: i64,
        outcome: Outcome,
    },
}

impl ExchangeState {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Sent { .. } => "sent",
            Self::Closed { outcome, .. } => outcome.name(),
        }
    }
}

/// A letter from outside that came to the case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseLetter {
    /// Within the case, from 1.
    pub number: u32,
    pub channel: String,
    pub letter: Letter,
    pub taken_ms: i64,
    /// As [`Exchange::forgotten`].
    pub forgotten: bool,
}

/// What an ask or an answer changes, all at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dealt {
    pub asking: Option<Arc<Asking>>,
    pub exchanges: Vec<Arc<Exchange>>,
    pub requests: Vec<Arc<InteragencyRequest>>,
    pub records: Vec<Arc<StepRecord>>,
    /// The life after it; `None`: as before.
    pub life: Option<Life>,
}

impl Dealt {
    pub(super) fn touched(&self) -> Vec<PartName> {
        let asking = self.asking.iter().map(|asking| part_name("asking", asking.number));
        let exchanges = self.exchanges.iter().map(|exchange| part_name("exchange", exchange.number));
        let requests = self.requests.iter().map(|request| part_name("request", request.number));
        let records = self.records.iter().map(|record| part_name("step", record.number));
        asking.chain(exchanges).chain(requests).chain(records).collect()
    }
}

/// What a case has of all this; most have nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Dealings {
    pub askings: Numbered<Asking>,
    pub exchanges: Numbered<Exchange>,
    pub letters: Numbered<CaseLetter>,
}

impl Dealings {
    pub fn put_asking(&mut self, asking: &Arc<Asking>) {
        put(&mut self.askings, asking.number, Arc::clone(asking));
    }

    pub fn put_exchange(&mut self, exchange: &Arc<Exchange>) {
        put(&mut self.exchanges, exchange.number, Arc::clone(exchange));
    }

    pub fn put_letter(&mut self, letter: &Arc<CaseLetter>) {
        put(&mut self.letters, letter.number, Arc::clone(letter));
    }

    pub fn part(&self, kind: &str, number: u32) -> Option<Part> {
        match kind {
            "asking" => get(&self.askings, number).cloned().map(Part::Asking),
            "exchange" => get(&self.exchanges, number).cloned().map(Part::Exchange),
            "letter" => get(&self.letters, number).cloned().map(Part::Letter),
            _ => None,
        }
    }
}
