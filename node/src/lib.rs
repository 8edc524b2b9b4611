//! The node: introduces storage, cluster, runtime and domain to each other and to the network; decides nothing
//! (design §1).
//!
//! Code map
//! - `cli` the command line · `settings` what a node is told · `data` the data directory · `verify` its check
//! - `identity` who a certificate names · `access` who may call what · `tls` certificates, listeners, dialling
//! - `front` what every call passes · `services` one file per gRPC service · `convert` wire ↔ domain ·
//!   `failure` how a call without result is told · `token` page and resume tokens
//! - `reasons` the published codes
//! - `node` start and stop · `stores` what it stands on · `quarantine` what happens when that is wrong · `wiring` adapters between the parts · `observability` logs, metrics, health, alarms
//! - `keepers` what a node looks after by itself: disk, data, backups
//! - `dev` a cluster on one machine

pub mod access;
pub mod cli;
pub mod convert;
pub mod data;
pub mod dev;
pub mod failure;
pub mod front;
pub mod identity;
pub mod keepers;
pub mod node;
pub mod observability;
#[cfg(test)]
mod published;
pub mod quarantine;
pub mod reasons;
pub mod services;
pub mod settings;
pub mod stores;
pub mod tls;
pub mod token;
pub mod verify;
pub mod wiring;
