//! The threads that do what the core asks: [`raft`](raft_thread) and [`apply`], with a watchdog over the disk.

pub mod fatal;
