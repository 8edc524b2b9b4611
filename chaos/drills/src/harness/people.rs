//! Offices, officers and visitors of a test, all made up; every number carries a valid check digit.

use okno_client::v1 as proto;

/// Where tests are alone.
pub const QUIET_OFFICE: &str = "tikhaya";
/// Where the writers beside a test work.
pub const BUSY_OFFICE: &str = "rechnaya";
/// Gives out the tickets of the busy office.
pub const BUSY_KIOSK: &str = "hall-rechnaya";
/// The officer of the quiet office; the development cluster has a certificate of hers.
pub const OFFICER: &str = "lipova";
/// Writers there are certificates for.
pub const WRITERS_MAX: usize = 16;
/// A service that takes citizens, has working-day terms and names reasons for suspension.
pub const SERVICE: &str = "rosreestr.rights";

pub fn writer(n: usize) -> String {
    format!("officer-{:02}", n + 1)
}

pub fn offices() -> Vec<proto::Office> {
    let office = |code: &str, name: &str, kiosk: &str| proto::Office {
        code: code.into(),
        name: name.into(),
        address: "Вымышленск".into(),
        region: "42".into(),
        time_zone: "Asia/Novokuznetsk".into(),
        utc_offset_minutes: 7 * 60,
        kiosks: vec![kiosk.into()],
        priority_categories: Vec::new(),
    };
    vec![
        office(QUIET_OFFICE, "МФЦ «Тихая улица»", "hall-tikhaya"),
        office(BUSY_OFFICE, "МФЦ «Речная»", BUSY_KIOSK),
    ]
}

pub fn windows() -> Vec<proto::Window> {
    let window = |office: &str, number: usize, workstation: &str| proto::Window {
        office: office.into(),
        number: number.to_string(),
        ticket_groups: Vec::new(),
        workstation: workstation.into(),
    };
    vec![
        window(QUIET_OFFICE, 1, ""),
        window(QUIET_OFFICE, 2, ""),
        window(QUIET_OFFICE, 3, "ws-tikhaya-3"),
        window(BUSY_OFFICE, 1, ""),
        window(BUSY_OFFICE, 2, ""),
    ]
}

pub fn people() -> Vec<proto::OfficePerson> {
    let person = |id: &str, name: &str, office: &str| proto::OfficePerson {
        person_id: id.into(),
        name: name.into(),
        role: "officer".into(),
        offices: vec![office.into()],
    };
    let mut all = vec![person(OFFICER, "Липова Вера Примеровна", QUIET_OFFICE)];
    all.extend(
        (0..WRITERS_MAX).map(|n| person(&writer(n), &format!("Примеров Номер {}", n + 1), BUSY_OFFICE)),
    );
    all
}

/// One of any number of visitors, each with numbers of their own.
pub fn visitor(n: u32) -> proto::Applicant {
    proto::Applicant { kind: Some(proto::applicant::Kind::Person(person(n))) }
}

pub fn person(n: u32) -> proto::Person {
    proto::Person {
        name: Some(proto::PersonName {
            last_name: "Посетителев".into(),
            first_name: "Пример".into(),
            middle_name: "Вымыслович".into(),
        }),
        birth_date: "1980-02-29".into(),
        snils: snils(n),
        inn: String::new(),
        identity: Some(proto::IdentityDocument {
            kind: "passport".into(),
            series: "0000".into(),
            number: format!("{:06}", n % 1_000_000),
            issued_on: "2010-03-01".into(),
            issued_by: "Вымышленным отделом".into(),
        }),
        contact: None,
    }
}

/// A СНИЛС with its check digits; numbers from 999-000-000 on are far beyond any that was ever given out.
pub fn snils(n: u32) -> String {
    let digits = format!("{:09}", 999_000_000 + n % 1_000_000);
    let sum: u32 =
        digits.bytes().zip((1..=9u32).rev()).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    format!("{}-{}-{} {:02}", &digits[..3], &digits[3..6], &digits[6..], sum % 101 % 100)
}

/// Letter of the service's tickets, and the reasons it may be suspended for: as the shipped catalogue has them.
pub const SERVICE_LETTER: char = 'Н';
pub const SERVICE_SUSPENSIONS: [&str; 2] = ["registrar", "applicant"];
