//! Which cases, and which letters of channels, a caller may read (R-S1): the half that knows persons and offices. The table of
//! methods came before it.

use crate::{failure::Failure, identity::Kind};
use okno_domain::{
    directory::{Directory, Role},
    entity::RefusalClass,
};

/// What of a channel has no office to go by: a channel is the region's, and so is what waits in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    /// Of cases of all offices: for whoever may redrive or give them up.
    Dead,
    /// Nobody knows yet whose they are: for whoever may place them.
    Parked,
}

impl Letters {
    /// Those who deal with them, and auditors; nobody else, whatever certificate they have.
    pub fn check(self, kind: Kind, id: &str, directory: &Directory) -> Result<(), Failure> {
        let allowed = match kind {
            Kind::Admin | Kind::Auditor => true,
            Kind::Operator => match (self, directory.person(id).ok_or_else(person_unknown)?.role) {
                (_, Role::Administrator | Role::Auditor) => true,
                (Self::Parked, Role::Officer | Role::Head) => true,
                (Self::Dead, Role::Officer | Role::Head) => false,
            },
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        Err(Failure::refused(
            RefusalClass::PermissionDenied,
            "ACCESS_DENIED",
            "Сообщения канала видят те, кто ими распоряжается",
            "letters of a channel are read by those who deal with them",
        ))
    }
}

fn person_unknown() -> Failure {
    Failure::refused(
        RefusalClass::PermissionDenied,
        "PERSON_UNKNOWN",
        "Такого сотрудника нет в справочнике",
        "the directory knows no such person",
    )
}

/// The offices whose cases a caller may read.
#[derive(Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Offices(Vec<String>),
}

impl Scope {
    /// Operators read their offices' cases, auditors everything; what others may read the table has said.
    pub fn of(kind: Kind, id: &str, directory: &Directory) -> Result<Self, Failure> {
        match kind {
            Kind::Operator => {
                let person = directory.person(id).ok_or_else(person_unknown)?;
                match person.role {
                    Role::Officer | Role::Head => Ok(Self::Offices(person.offices.clone())),
                    Role::Auditor => Ok(Self::All),
                    Role::Administrator => Err(Failure::refused(
                        RefusalClass::PermissionDenied,
                        "ACCESS_DENIED",
                        "Администратору дела не показываются",
                        "an administrator does not read cases",
                    )),
                }
            }
            Kind::Connector | Kind::Portal | Kind::Auditor | Kind::Admin => Ok(Self::All),
            Kind::Peer | Kind::Workstation | Kind::Kiosk | Kind::Board => Err(Failure::refused(
                RefusalClass::PermissionDenied,
                "ACCESS_DENIED",
                "Доступ к делам не предоставлен",
                "cases are not read by this kind of caller",
            )),
        }
    }

    pub fn covers(&self, office: &str) -> bool {
        match self {
            Self::All => true,
            Self::Offices(offices) => offices.iter().any(|own| own == office),
        }
    }

    pub fn check(&self, office: &str) -> Result<(), Failure> {
        if self.covers(office) {
            return Ok(());
        }
        Err(Failure::refused(
            RefusalClass::PermissionDenied,
            "OFFICE_FOREIGN",
            "Дело другого офиса",
            "the case is another office's",
        ))
    }
}
