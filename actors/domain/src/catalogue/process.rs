//! Processes: which step of a service asks which channels, and how (R-C11, R-I4). A module brings its channel's settings
//! and its processes; nothing else of the system changes for it.

use super::model::Text;
use serde::{Deserialize, Serialize};

/// Requests of one ask.
pub const REQUESTS_MAX: usize = 16;
/// Requests of an ask that waits for any, each after the one before. Each that its channel refuses leads to the next by two
/// messages, and no decision between them is anybody's call: they all stay within the bound of such a chain
/// (`HOPS_MAX` of the runtime), with room for one that began as a request within a request.
pub const IN_TURN_MAX: usize = 7;
/// Asks of one process.
pub const ASKS_MAX: usize = 32;

/// Which answers an ask waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// All of them must be answered.
    All,
    /// One is enough; the others are withdrawn.
    Any,
}

impl Wait {
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
        }
    }
}

/// How the requests of an ask leave (R-I1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskOrder {
    /// At once.
    Parallel,
    /// Each when the one before has been answered.
    Sequential,
}

impl AskOrder {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parallel => "parallel",
            Self::Sequential => "sequential",
        }
    }
}

/// One request of an ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskRequest {
    /// Code of the channel.
    pub channel: String,
    /// What is asked there, in a word its connector knows.
    pub kind: String,
}

/// A thing that a case of the service may or must ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Unique within the service, over all modules.
    pub code: String,
    pub title: Text,
    pub requests: Vec<AskRequest>,
    pub wait: Wait,
    pub order: AskOrder,
    /// The case goes nowhere while it is open.
    pub blocking: bool,
    /// The case does not go to the authority before it has succeeded.
    pub mandatory: bool,
    /// How long an answer is of use, milliseconds; `None`: as the channel's settings say.
    pub expires_ms: Option<i64>,
}

/// What a module adds to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Code of the module: that of its channel.
    pub module: String,
    pub service: String,
    pub asks: Vec<Ask>,
    /// What an installation under way will put in their place: their codes are taken already, so that what it has begun it
    /// can end. A claim stays until the module is installed again; claimed asks cannot be asked.
    pub claimed: Vec<Ask>,
}
