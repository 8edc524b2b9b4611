//! What an entry of the directory must be like to be taken.

use super::types::{OFFICES_PER_PERSON_MAX, Office, PER_OFFICE_MAX, Person, Window};
use crate::{
    entity::Refusal,
    refusal::{FIELD_INVALID, refuse},
    time::OFFSET_MINUTES,
    validators::{expect_code, expect_len, expect_one_letter},
};

/// Length of names and addresses, in characters.
const NAME_MAX: usize = 300;
/// Length of codes and ids.
const CODE_MAX: usize = 64;
/// Length of an office's code: it stands in keys of every case.
const OFFICE_CODE_MAX: usize = 32;
/// Length of a window's number: it is spoken and shown.
const WINDOW_NUMBER_MAX: usize = 8;

pub(super) fn office(office: &Office) -> Result<(), Refusal> {
    expect_code("office.code", &office.code, OFFICE_CODE_MAX)?;
    required("office.name", &office.name)?;
    expect_len("office.name", &office.name, NAME_MAX)?;
    expect_len("office.address", &office.address, NAME_MAX)?;
    expect_len("office.time_zone", &office.time_zone, CODE_MAX)?;
    if !office.region.is_empty() {
        expect_code("office.region", &office.region, CODE_MAX)?;
    }
    if !OFFSET_MINUTES.contains(&office.utc_offset_minutes) {
        return Err(refuse(FIELD_INVALID).with(
            "office.utc_offset_minutes",
            format!("{} to {}", OFFSET_MINUTES.start(), OFFSET_MINUTES.end()),
        ));
    }
    at_most("office.kiosks", office.kiosks.len(), PER_OFFICE_MAX)?;
    for kiosk in &office.kiosks {
        expect_code("office.kiosks", kiosk, CODE_MAX)?;
    }
    at_most("office.priority_categories", office.priority_categories.len(), PER_OFFICE_MAX)?;
    for category in &office.priority_categories {
        required("office.priority_categories", category)?;
        expect_len("office.priority_categories", category, CODE_MAX)?;
    }
    Ok(())
}

pub(super) fn window(window: &Window) -> Result<(), Refusal> {
    let number = &window.number;
    if number.is_empty()
        || number.chars().count() > WINDOW_NUMBER_MAX
        || !number.chars().all(char::is_alphanumeric)
    {
        return Err(refuse(FIELD_INVALID)
            .with("window.number", format!("1 to {WINDOW_NUMBER_MAX} letters and digits")));
    }
    at_most("window.ticket_groups", window.ticket_groups.len(), PER_OFFICE_MAX)?;
    for group in &window.ticket_groups {
        expect_one_letter("window.ticket_groups", group)?;
    }
    if !window.workstation.is_empty() {
        expect_code("window.workstation", &window.workstation, CODE_MAX)?;
    }
    Ok(())
}

pub(super) fn person(person: &Person) -> Result<(), Refusal> {
    expect_code("person.id", &person.id, CODE_MAX)?;
    required("person.name", &person.name)?;
    expect_len("person.name", &person.name, NAME_MAX)?;
    at_most("person.offices", person.offices.len(), OFFICES_PER_PERSON_MAX)
}

fn required(field: &str, text: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() { Err(refuse(FIELD_INVALID).with(field, "not empty")) } else { Ok(()) }
}

fn at_most(field: &str, have: usize, max: usize) -> Result<(), Refusal> {
    if have > max { Err(refuse(FIELD_INVALID).with(field, format!("at most {max} entries"))) } else { Ok(()) }
}
