//! Client library of Okno (R-O3): any node may be called, and a call may be retried safely.
//!
//! A [`Client`] holds a list of endpoints and mutual TLS, gives every mutating call a request id and an attempt number
//! that grows with unknown outcomes, follows leader hints, and tells three classes of failure apart (rule 1): *refused*, *not applied*, *unknown* —
//! see [`CallError`]. Every unary method of `okno.v1` is a [`Call`]: `client.call(GetCaseRequest { .. }).await`.
//!
//! Bounds: attempts per call ([`MAX_ATTEMPTS`]), message size ([`MAX_MESSAGE`]), deadline and time of an attempt
//! ([`Settings`]); there is no queue besides the one of the connection itself.

mod board;
mod calls;
mod client;
mod connect;
mod context;
mod error;
mod resumed;
mod watch;

pub use board::{Board, BoardWatch};
pub use calls::{Call, Effect, Hints, PATHS};
pub use client::{Answer, CallOptions, Client, MAX_ATTEMPTS, MAX_MESSAGE, Route, Settings, read_error};
pub use connect::{Connector, TlsFiles};
pub use context::{Context, IdentityFiles, parse_endpoint};
pub use error::{CallError, Class, Problem, SetupError, classify};
pub use watch::CaseWatch;

pub use okno_proto::v1;

/// A fresh request id: UUIDv7, as the cluster demands (rule 6).
pub fn new_request_id() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}
