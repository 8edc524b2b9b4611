//! The seeded simulator: whole clusters of production code in one thread and in virtual time.

pub mod clients;
pub mod port;
