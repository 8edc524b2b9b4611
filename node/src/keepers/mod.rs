//! What a node does by itself as long as it runs: each keeper is a task that looks after one thing, and ends with the
//! node.

pub mod disk;
pub mod scrub;
