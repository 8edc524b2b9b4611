//! Mutual TLS 1.3 for clients and for peers, each under its own authority (design §8).
//!
//! Code map: `material` files → checked certificates and lists · `side` what is in force now, and taking over new
//! files · `connection` an accepted connection that can be closed from outside · `listener` the accept loop ·
//! `connector` the way out to peers · `watch` noticing changed files.
//!
//! Why not tonic's own TLS: it knows neither revocation lists nor a reload. Why no session tickets: a resumed
//! session is not verified again, so a revoked certificate would live on in its ticket.

mod connection;
mod connector;
mod listener;
mod material;
mod side;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod watch;

pub use connection::{ConnectionInfo, TlsIo};
pub use connector::PeerDialer;
pub use listener::{ListenerBounds, ListenerFigures, accept};
pub use material::{Material, TlsError};
pub use side::{Reload, Side};
pub use watch::watch;

/// HTTP/2 is the only protocol on these ports.
const ALPN: &[u8] = b"h2";
