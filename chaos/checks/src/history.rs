//! What clients asked and what they learned: the only evidence the checks accept.

use serde::{Deserialize, Serialize};

/// What a read of an entity saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    Absent,
}
