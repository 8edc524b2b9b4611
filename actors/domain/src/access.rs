//! Who may do what (rule 17): deny by default; asked on the leader before it decides.
//!
//! The node's table says which kind of identity may call which method; the finer rules, which know offices,
//! are these:
//!
//! | Principal | Cases | Queue | Directory, catalogue | Channels |
//! |---|---|---|---|---|
//! | operator: officer, head | everything, in their offices | everything, in their offices; ending the day: heads | – | parked letters |
//! | operator: administrator | – | – | everything | everything but a connector's work |
//! | operator: auditor; auditor | – | – | – (reads only) | – (reads only) |
//! | admin | – | – | everything | everything but a connector's work |
//! | workstation | – | tickets, bookings; calling, for the window it stands at | – | – |
//! | kiosk | – | tickets, bookings, in the office that names it | – | – |
//! | connector | open, add documents, what authorities answer | bookings; outside queue systems | – | work and letters, where the settings name it |
//! | portal | open, add documents, withdraw | bookings | – | – |
//! | node | – | workstations lost and back | – | leases that ran out |
//! | board | – | – | – | – |
//!
//! An operator is a person of the directory; the first directory is loaded by an `admin`.

use crate::{
    directory::{Person, Role, Window},
    entity::{Context, Refusal},
    refusal::{ACCESS_DENIED, OFFICE_FOREIGN, PERSON_UNKNOWN, refuse},
};

/// The refusal of everything that is not allowed expressly.
pub fn denied(context: &Context<'_>) -> Refusal {
    refuse(ACCESS_DENIED).with("principal", context.origin.principal.kind.clone())
}

/// May the caller keep the directory and the catalogue?
pub fn administers(context: &Context<'_>) -> bool {
    match context.origin.principal.kind.as_str() {
        "admin" => true,
        "operator" => person(context).is_ok_and(|person| person.role == Role::Administrator),
        _ => false,
    }
}

/// The caller is a person who deals with what machines cannot place: an officer, a head, or who keeps the place.
pub fn staff(context: &Context<'_>) -> Result<(), Refusal> {
    match context.origin.principal.kind.as_str() {
        "admin" => Ok(()),
        "operator" => match person(context)?.role {
            Role::Officer | Role::Head | Role::Administrator => Ok(()),
            role @ Role::Auditor => Err(denied(context).with("role", role.name())),
        },
        _ => Err(denied(context)),
    }
}

/// The caller is an operator who works with visitors in this office.
pub fn officer_of(context: &Context<'_>, office: &str) -> Result<(), Refusal> {
    let person = person(context)?;
    match person.role {
        Role::Officer | Role::Head => {}
        Role::Administrator | Role::Auditor => return Err(denied(context).with("role", person.role.name())),
    }
    if person.offices.iter().any(|own| own == office) {
        Ok(())
    } else {
        Err(refuse(OFFICE_FOREIGN).with("office", office))
    }
}

/// The caller heads this office.
pub fn head_of(context: &Context<'_>, office: &str) -> Result<(), Refusal> {
    officer_of(context, office)?;
    match person(context)?.role {
        Role::Head => Ok(()),
        role @ (Role::Officer | Role::Administrator | Role::Auditor) => {
            Err(denied(context).with("role", role.name()))
        }
    }
}

/// The window the calling workstation stands at, which must be of this office.
pub fn workstation_of<'a>(context: &Context<'a>, office: &str) -> Result<&'a Window, Refusal> {
    let window = context
        .directory
        .window_of(&context.origin.principal.id)
        .ok_or_else(|| denied(context).with("expected", "a workstation that stands at a window"))?;
    if window.office == office { Ok(window) } else { Err(refuse(OFFICE_FOREIGN).with("office", office)) }
}

/// The calling kiosk gives out tickets in this office.
pub fn kiosk_of(context: &Context<'_>, office: &str) -> Result<(), Refusal> {
    let office = context.directory.office(office).ok_or_else(|| denied(context))?;
    if office.kiosks.contains(&context.origin.principal.id) {
        Ok(())
    } else {
        Err(refuse(OFFICE_FOREIGN).with("office", office.code.clone()))
    }
}

fn person<'a>(context: &Context<'a>) -> Result<&'a Person, Refusal> {
    let id = &context.origin.principal.id;
    context.directory.person(id).ok_or_else(|| refuse(PERSON_UNKNOWN).with("person", id.clone()))
}
