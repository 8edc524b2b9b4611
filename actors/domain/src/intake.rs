//! Which commands begin something and which bring it to an end (rule 10): when a disk fills up or power fails, what
//! people have begun can still be finished.
//!
//! One table of all kinds; the compiler names a command that is missing.

use crate::{case, catalogue, channel, directory, queue, registry::AnyCommand};

/// What a command does to the amount of work there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Begins something that others must then finish, or brings much into store.
    New,
    /// Goes on with what was begun, ends it, or is small and needed to run the place.
    Completion,
}

/// The table.
pub const fn class(command: &AnyCommand) -> Class {
    match command {
        AnyCommand::Case(command) => match command {
            case::Command::Open { .. } => Class::New,
            // A citizen whose papers are being taken in is not sent away.
            case::Command::AddDocument { .. }
            | case::Command::RemoveDocument { .. }
            | case::Command::Advance { .. }
            | case::Command::TakeOver
            // A case that was accepted has a term: what it asks for cannot wait.
            | case::Command::Ask { .. }
            | case::Command::GiveUpAsk { .. } => Class::Completion,
        },
        AnyCommand::Queue(command) => match command {
            queue::Command::TakeTicket { .. } | queue::Command::Book { .. } => Class::New,
            queue::Command::Outside(event) => match event.happened {
                queue::OutsideHappened::Registered { .. } => Class::New,
                queue::OutsideHappened::Called { .. }
                | queue::OutsideHappened::CalledAgain { .. }
                | queue::OutsideHappened::Begun { .. }
                | queue::OutsideHappened::PutOff { .. }
                | queue::OutsideHappened::CameBack
                | queue::OutsideHappened::Redirected { .. }
                | queue::OutsideHappened::Returned { .. }
                | queue::OutsideHappened::Finished { .. }
                | queue::OutsideHappened::DidNotCome { .. }
                | queue::OutsideHappened::Left => Class::Completion,
            },
            queue::Command::CallNext { .. }
            | queue::Command::Begin { .. }
            | queue::Command::Finish { .. }
            | queue::Command::CallNumber { .. }
            | queue::Command::CallAgain { .. }
            | queue::Command::PutOff { .. }
            | queue::Command::Redirect { .. }
            | queue::Command::Bind { .. }
            | queue::Command::ReturnToQueue { .. }
            | queue::Command::Leave { .. }
            | queue::Command::OpenWindow { .. }
            | queue::Command::CloseWindow { .. }
            | queue::Command::StartBreak { .. }
            | queue::Command::Unattended { .. }
            | queue::Command::Attended { .. }
            | queue::Command::CancelBooking { .. }
            // Whoever has an appointment and has come is not sent away.
            | queue::Command::CheckIn { .. }
            | queue::Command::CloseDay => Class::Completion,
        },
        // A load may be megabytes, and can wait.
        AnyCommand::Catalogue(
            catalogue::Command::Load(_)
            | catalogue::Command::LoadProcesses(_)
            | catalogue::Command::ClaimProcesses(_),
        ) => Class::New,
        // Who may work where must be put right at any time.
        AnyCommand::Directory(command) => match command {
            directory::Command::PutOffice(_)
            | directory::Command::PutWindow(_)
            | directory::Command::PutPerson(_)
            | directory::Command::RemoveOffice { .. }
            | directory::Command::RemoveWindow { .. }
            | directory::Command::RemovePerson { .. }
            | directory::Command::PutQueueSettings(_) => Class::Completion,
        },
        AnyCommand::Channel(command) => match command {
            // What comes from outside can come again: its sender keeps it until we have it.
            channel::Command::Receive { .. } => Class::New,
            // Handing out empties the backlog; an operator must be able to stop a channel at any time.
            channel::Command::Configure { .. }
            | channel::Command::Exchange { .. }
            | channel::Command::Lapse { .. }
            | channel::Command::Steer { .. }
            | channel::Command::Redrive { .. }
            | channel::Command::Discard { .. }
            | channel::Command::AssignLetter { .. }
            | channel::Command::DropLetter { .. } => Class::Completion,
        },
    }
}
