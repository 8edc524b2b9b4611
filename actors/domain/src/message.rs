//! Messages between entities (rule 4): delivered exactly once, in order per (source, target).
//!
//! Every request has one answer: the one named beside it, or [`Message::Refused`] when the target refuses.

use crate::queue::TicketRef;
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
}

/// What a message means for the flow between two entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageRole {
    /// Will be answered: the place of the answer is reserved when it is sent (rule 4).
    Request,
    /// Answers a request: never refused for depth.
    Answer,
}

impl Message {
    pub const fn role(&self) -> MessageRole {
        match self {
            Self::CaseOpened { .. } => MessageRole::Request,
            Self::Refused { .. } | Self::TicketLinked { .. } => MessageRole::Answer,
        }
    }

    /// What logs and dead letters call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::CaseOpened { .. } => "case-opened",
            Self::TicketLinked { .. } => "ticket-linked",
        }
    }
}
