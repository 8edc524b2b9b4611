//! The connector SDK: what a program that works for a channel is built on (R-I4, `docs/channels.md`), and the connectors
//! built on it.
//!
//! A connector is a [`Handler`]: it gets one message and says what came of it. Everything else is [`run`]'s: attaching with
//! back-off over all endpoints, heartbeats, as much credit as workers are free, acknowledgement on receipt, reports of progress
//! while a handler works, verdicts gathered into few calls, tokens, and a graceful end.
//!
//! - [`message`] what a handler gets and says · [`runner`] the life of a connector · `session` one stream of it
//! - [`book`] what is worked on and what is to be said, pure · [`https`] the connector to HTTPS services
//!
//! Delivery is at least once: [`Message::id`] is the idempotency key to give to the outside system.

pub mod book;
pub mod https;
pub mod message;
pub mod runner;
mod session;

pub use message::{Handler, Message, Verdict, Work};
pub use runner::{Setup, run};
