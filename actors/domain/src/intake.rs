//! Which commands begin something and which bring it to an end (rule 10): when a disk fills up or power fails, what
//! people have begun can still be finished.
//!
//! One table of all kinds; the compiler names a command that is missing.

use crate::{case, catalogue, directory, queue, registry::AnyCommand};

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
            | case::Command::Advance { .. } => Class::Completion,
        },
        AnyCommand::Queue(command) => match command {
            queue::Command::TakeTicket { .. } => Class::New,
            queue::Command::CallNext { .. }
            | queue::Command::Begin { .. }
            | queue::Command::Finish { .. } => Class::Completion,
        },
        // A load may be megabytes, and can wait.
        AnyCommand::Catalogue(catalogue::Command::Load(_)) => Class::New,
        // Who may work where must be put right at any time.
        AnyCommand::Directory(command) => match command {
            directory::Command::PutOffice(_)
            | directory::Command::PutWindow(_)
            | directory::Command::PutPerson(_)
            | directory::Command::RemoveOffice { .. }
            | directory::Command::RemoveWindow { .. }
            | directory::Command::RemovePerson { .. } => Class::Completion,
        },
    }
}
