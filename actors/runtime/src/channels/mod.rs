//! Channels on the leader: the clocks of deliveries, who is attached, and what nodes ask each other about both
//! (`docs/channels.md`, ADR 0014).
//!
//! - [`leases`]: the clocks, pure · [`presence`]: who is attached, pure · [`wire`]: what is asked between nodes
//! - [`keeper`]: the task around them · [`reads`]: how services read channels without loading their backlog
//!
//! Handing out is a commit; only its clock is memory (rule 5). The clock follows commits as they apply, so that a
//! delivery has one whichever way it was made, and loses it whichever way it ended.

pub mod keeper;
pub mod leases;
pub mod presence;
pub mod reads;
pub mod wire;

pub use keeper::{Keeper, KeeperFigures};
pub use presence::{Session, SessionName};
pub use reads::{ChannelHead, Worth};
pub use wire::{Ask, Delivered, Told};
