//! Offices, windows and people.

use super::Converted;
use crate::failure::Failure;
use okno_domain::directory::{Office, Person, Role, Window};
use okno_proto::v1;

fn missing(path: &str) -> Failure {
    Failure::field(path, "обязательное поле", "required")
}

pub fn office_from(office: Option<v1::Office>) -> Converted<Office> {
    let office = office.ok_or_else(|| missing("office"))?;
    Ok(Office {
        code: office.code,
        name: office.name,
        address: office.address,
        region: office.region,
        time_zone: office.time_zone,
        utc_offset_minutes: office.utc_offset_minutes,
        kiosks: office.kiosks,
        priority_categories: office.priority_categories,
    })
}

pub fn office(office: &Office) -> v1::Office {
    v1::Office {
        code: office.code.clone(),
        name: office.name.clone(),
        address: office.address.clone(),
        region: office.region.clone(),
        time_zone: office.time_zone.clone(),
        utc_offset_minutes: office.utc_offset_minutes,
        kiosks: office.kiosks.clone(),
        priority_categories: office.priority_categories.clone(),
    }
}

pub fn window_from(window: Option<v1::Window>) -> Converted<Window> {
    let window = window.ok_or_else(|| missing("window"))?;
    Ok(Window {
        office: window.office,
        number: window.number,
        ticket_groups: window.ticket_groups,
        workstation: window.workstation,
    })
}

pub fn window(window: &Window) -> v1::Window {
    v1::Window {
        office: window.office.clone(),
        number: window.number.clone(),
        ticket_groups: window.ticket_groups.clone(),
        workstation: window.workstation.clone(),
    }
}

pub fn person_from(person: Option<v1::OfficePerson>) -> Converted<Person> {
    let person = person.ok_or_else(|| missing("person"))?;
    let role = Role::parse(&person.role).ok_or_else(|| {
        Failure::field(
            "person.role",
            "ожидается officer, head, administrator или auditor",
            "expected officer, head, administrator or auditor",
        )
    })?;
    Ok(Person { id: person.person_id, name: person.name, role, offices: person.offices })
}

pub fn person(person: &Person) -> v1::OfficePerson {
    v1::OfficePerson {
        person_id: person.id.clone(),
        name: person.name.clone(),
        role: person.role.name().to_owned(),
        offices: person.offices.clone(),
    }
}
