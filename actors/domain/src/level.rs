//! Replicated feature levels as the domain knows them (rule 9): a command whose events, parts or replies a member of
//! the cluster may not yet read is refused until the level allows it. Storage has the level itself; the numbers are
//! shared with its `level` module.

use crate::{
    case, catalogue, directory,
    entity::{CHANNELS_LEVEL, Context, FIRST_LEVEL, Refusal},
    queue,
    refusal::{FEATURE_LEVEL_LOW, refuse},
    registry::AnyCommand,
};

/// From this level on: the electronic queue whole — its settings, windows, bookings, board and statistics — and the
/// distribution of cases. Below it queues write what release 0.2 wrote, and call in its order.
pub const QUEUE: u32 = 3;

/// Refuses below `level`.
pub fn needs(level: u32, context: &Context<'_>) -> Result<(), Refusal> {
    if context.level >= level { Ok(()) } else { Err(low(context.level, level)) }
}

/// The refusal of what needs a higher level than the cluster has.
pub fn low(level: u32, needed: u32) -> Refusal {
    refuse(FEATURE_LEVEL_LOW).with("level", level.to_string()).with("needed", needed.to_string())
}

/// The level from which on a command may be told to another node: one that leads with the program before this one could
/// not read it. Whoever receives a call refuses it below.
pub fn of(command: &AnyCommand) -> u32 {
    match command {
        AnyCommand::Case(command) => match command {
            case::Command::Open { .. }
            | case::Command::AddDocument { .. }
            | case::Command::RemoveDocument { .. }
            | case::Command::Advance { .. } => FIRST_LEVEL,
            case::Command::TakeOver => QUEUE,
            case::Command::Ask { .. } | case::Command::GiveUpAsk { .. } => CHANNELS_LEVEL,
        },
        AnyCommand::Queue(command) => command.level(),
        AnyCommand::Catalogue(command) => match command {
            catalogue::Command::Load(_) => FIRST_LEVEL,
            catalogue::Command::LoadProcesses(_) | catalogue::Command::ClaimProcesses(_) => CHANNELS_LEVEL,
        },
        AnyCommand::Directory(command) => match command {
            directory::Command::PutOffice(_)
            | directory::Command::PutWindow(_)
            | directory::Command::PutPerson(_)
            | directory::Command::RemoveOffice { .. }
            | directory::Command::RemoveWindow { .. }
            | directory::Command::RemovePerson { .. } => FIRST_LEVEL,
            directory::Command::PutQueueSettings(_) => QUEUE,
        },
        AnyCommand::Channel(_) => CHANNELS_LEVEL,
    }
}

impl queue::Command {
    /// The level from which on it may be given.
    pub fn level(&self) -> u32 {
        match self {
            Self::TakeTicket { .. } | Self::CallNext { .. } | Self::Begin { .. } | Self::Finish { .. } => {
                FIRST_LEVEL
            }
            Self::CallNumber { .. }
            | Self::CallAgain { .. }
            | Self::PutOff { .. }
            | Self::Redirect { .. }
            | Self::Bind { .. }
            | Self::ReturnToQueue { .. }
            | Self::Leave { .. }
            | Self::OpenWindow { .. }
            | Self::CloseWindow { .. }
            | Self::StartBreak { .. }
            | Self::Unattended { .. }
            | Self::Attended { .. }
            | Self::Book { .. }
            | Self::CancelBooking { .. }
            | Self::CheckIn { .. }
            | Self::CloseDay
            | Self::Outside(_) => QUEUE,
        }
    }
}
