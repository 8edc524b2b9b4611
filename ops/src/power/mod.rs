//! Riding through a power cut (R-R4): what the uninterruptible supplies of this machine say, and what follows.
//!
//! | module | holds |
//! |---|---|
//! | [`reading`] | what one supply says at one moment, and what of it cannot be believed |
//! | [`watch`] | the policy: words of supplies and time in, alarms and the decision to leave out; pure |
//! | [`nut`] | the protocol of Network UPS Tools' `upsd` |
//! | [`poll`] | asks one `upsd` over and over |
//!
//! The client is our own and not the crate `rups` (0.6.1): the protocol is lines of text, `rups` reads them without a
//! bound and without a time-out, and what matters most here — telling stale data, a driver that is gone, a refused
//! password and an unreachable server apart — is what it folds into one error.

pub mod nut;
pub mod poll;
pub mod reading;
pub mod watch;

pub use nut::{Login, UpsAddress};
pub use poll::{Polled, poll};
pub use reading::{Doubt, Heard, Reading, Silence, Supply};
pub use watch::{Action, Condition, Figures, Kind, PowerWatch, Rules, Source, Words};
