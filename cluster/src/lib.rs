//! Raft: orders commits and says when they are durable. Does not know what a case is (design §1, §5).

pub mod api;
