//! Messages between entities (rule 4): delivered exactly once, in order per (source, target).
//!
//! Every request has one answer: the one named beside it, or [`Message::Refused`] when the target refuses. The order of
//! the variants is part of the encoding: new ones come last, and say in [`Message::level`] from when on they may be sent.

use crate::{
    entity::{CHANNELS_LEVEL, FIRST_LEVEL},
    exchange::{ChannelAnswer, ChannelRequest, Letter},
    level,
    queue::TicketRef,
};
use serde::{Deserialize, Serialize};

/// Everything one entity can tell another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The target refused a message: the runtime answers the source with this. Never itself answered.
    Refused { reason: String, of: Box<Message> },
    /// Case → queue: a case was opened from a ticket. Answered by [`Message::TicketLinked`].
    CaseOpened { ticket: TicketRef },
    /// Queue → case: the ticket knows its case.
    TicketLinked { ticket: TicketRef },
    /// Case → queue of its office: it came without an officer (R-C13). Answered by [`Message::OfficerGiven`].
    OfficerWanted,
    /// Queue → case.
    OfficerGiven { officer: String },
    /// Case → queue: this officer has taken it over. Answered by [`Message::OfficerNoted`].
    OfficerTook { officer: String },
    /// Case → queue: nobody works on it any more. Answered by [`Message::OfficerNoted`].
    CaseDone,
    /// Queue → case.
    OfficerNoted,
    /// Case → channel, channel → channel: a request for the outside. Answered by [`Message::ChannelAnswer`], once, as
    /// late as it may be.
    ChannelRequest(Box<ChannelRequest>),
    /// Channel → who asked: what came of it.
    ChannelAnswer(Box<ChannelAnswer>),
    /// Channel → who asked: how it gets on. Answered by nothing.
    ChannelProgress { id: String, text: String },
    /// Case → channel: the answer is needed no longer. Answered by the request's own [`Message::ChannelAnswer`].
    RequestWithdrawn { id: String },
    /// Channel → case: a message from outside. Answered by [`Message::LetterTaken`].
    ChannelLetter(Box<Letter>),
    /// Case → channel: the case has it.
    LetterTaken { number: u64 },
    /// Case → channel: bodies need not be kept any longer (R-I2). Answered by [`Message::BodiesForgotten`].
    ForgetBodies { numbers: Vec<u64> },
    /// Channel → case: they are gone.
    BodiesForgotten { count: u32 },
}

/// What a message means for the flow between two entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageRole {
    /// Will be answered: the place of the answer is reserved when it is sent (rule 4).
    Request,
    /// Answers a request or tells of one: never answered, and never refused for depth, at once or later. Who answers
    /// later bounds how many requests it holds.
    Answer,
}

impl Message {
    pub const fn role(&self) -> MessageRole {
        match self {
            Self::CaseOpened { .. }
            | Self::OfficerWanted
            | Self::OfficerTook { .. }
            | Self::CaseDone
            | Self::ChannelRequest(_)
            | Self::RequestWithdrawn { .. }
            | Self::ChannelLetter(_)
            | Self::ForgetBodies { .. } => MessageRole::Request,
            Self::Refused { .. }
            | Self::TicketLinked { .. }
            | Self::OfficerGiven { .. }
            | Self::OfficerNoted
            | Self::ChannelAnswer(_)
            | Self::ChannelProgress { .. }
            | Self::LetterTaken { .. }
            | Self::BodiesForgotten { .. } => MessageRole::Answer,
        }
    }

    /// What logs and dead letters call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::CaseOpened { .. } => "case-opened",
            Self::TicketLinked { .. } => "ticket-linked",
            Self::OfficerWanted => "officer-wanted",
            Self::OfficerGiven { .. } => "officer-given",
            Self::OfficerTook { .. } => "officer-took",
            Self::CaseDone => "case-done",
            Self::OfficerNoted => "officer-noted",
            Self::ChannelRequest(_) => "channel-request",
            Self::ChannelAnswer(_) => "channel-answer",
            Self::ChannelProgress { .. } => "channel-progress",
            Self::RequestWithdrawn { .. } => "request-withdrawn",
            Self::ChannelLetter(_) => "channel-letter",
            Self::LetterTaken { .. } => "letter-taken",
            Self::ForgetBodies { .. } => "forget-bodies",
            Self::BodiesForgotten { .. } => "bodies-forgotten",
        }
    }

    /// The feature level from which on it may be sent (rule 9).
    pub fn level(&self) -> u32 {
        match self {
            Self::Refused { of, .. } => of.level(),
            Self::CaseOpened { .. } | Self::TicketLinked { .. } => FIRST_LEVEL,
            Self::OfficerWanted
            | Self::OfficerGiven { .. }
            | Self::OfficerTook { .. }
            | Self::CaseDone
            | Self::OfficerNoted => level::QUEUE,
            Self::ChannelRequest(_)
            | Self::ChannelAnswer(_)
            | Self::ChannelProgress { .. }
            | Self::RequestWithdrawn { .. }
            | Self::ChannelLetter(_)
            | Self::LetterTaken { .. }
            | Self::ForgetBodies { .. }
            | Self::BodiesForgotten { .. } => CHANNELS_LEVEL,
        }
    }
}
