//! What a node does by itself as long as it runs: each keeper is a task that looks after one thing, and ends with the
//! node.

pub mod attendance;
pub mod backups;
pub mod connectors;
pub mod disk;
pub mod power;
pub mod power_notes;
pub mod pulse;
pub mod scrub;
