//! Why a node cannot go on: what is told to whoever keeps the process (rule 12).

use okno_storage::error::StorageError;
use std::fmt;

/// The end of this node's service, and of which kind it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The node's own copy is rotten: it closes itself and says why. Started again it would meet the same rot.
    Rot(String),
    /// The disk fails, or a part cannot be kept alive: the process ends and is started again.
    Failed(String),
}

impl End {
    /// What an error of the stores, met while doing `what`, comes to.
    pub fn of(what: impl fmt::Display, error: &StorageError) -> Self {
        let text = format!("{what}: {error}");
        if error.is_rot() { Self::Rot(text) } else { Self::Failed(text) }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rot(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_storage::error::ENGINE;

    #[test]
    fn only_rot_closes_the_node() {
        let rot = StorageError::Corrupt { what: ENGINE, detail: "checksum mismatch".into() };
        assert!(matches!(End::of("loading case/a", &rot), End::Rot(text) if text.contains("case/a")));
        let io = StorageError::Engine("IO error".into());
        assert!(matches!(End::of("timers", &io), End::Failed(_)));
        // Bytes that cannot be decoded may be the program's fault, which every member shares.
        let own = StorageError::Corrupt { what: "entity", detail: "x".into() };
        assert!(matches!(End::of("timers", &own), End::Failed(_)));
    }
}
