//! Asks one `upsd` over and over and hands on what it says.

use super::{
    nut::{Login, Session, UpsAddress},
    reading::{Heard, Reading, Silence},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// Who was asked (its place in the settings), and what came of it.
pub type Polled = (usize, Heard);

/// Asks until nobody listens. A connection that fails is opened anew at the next turn: there is one a turn, so that a
/// server that refuses is not stormed.
pub async fn poll(
    place: usize,
    address: UpsAddress,
    login: Option<Login>,
    every: Duration,
    tell: mpsc::Sender<Polled>,
) {
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut session = None;
    loop {
        turns.tick().await;
        let heard = match ask(&mut session, &address, login.as_ref()).await {
            Ok(reading) => Heard::Reading(reading),
            Err(silence) => {
                // `upsd` itself answers: the connection, and the login on it, are kept.
                if !matches!(silence, Silence::Stale | Silence::DriverGone) {
                    session = None;
                }
                Heard::Silence(silence)
            }
        };
        if tell.send((place, heard)).await.is_err() {
            return;
        }
    }
}

async fn ask(
    session: &mut Option<Session>,
    address: &UpsAddress,
    login: Option<&Login>,
) -> Result<Reading, Silence> {
    let open = match session {
        Some(open) => open,
        None => session.insert(Session::open(address, login).await?),
    };
    Ok(Reading::of(&open.variables().await?))
}
