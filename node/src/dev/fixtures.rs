//! What a development cluster is filled with: two offices, their windows, officers and visitors. Every person is
//! plainly made up; every number carries the check digit it must carry, so that nothing here needs an exception.

use okno_client::v1 as proto;

/// Name of every development cluster, as its certificates say it.
pub const CLUSTER: &str = "dev";

/// The office of the story.
pub const STORY_OFFICE: &str = "tikhaya";
/// The office where the other clients work, so that they do not take the visitor's turn.
pub const BUSY_OFFICE: &str = "rechnaya";
/// Clients that work beside the story.
pub const WRITERS: usize = 16;
/// The officer of the story.
pub const STORY_OFFICER: &str = "lipova";
pub const STORY_WINDOW: &str = "3";
/// The workstation that stands at that window.
pub const STORY_WORKSTATION: &str = "ws-tikhaya-3";
pub const STORY_KIOSK: &str = "hall-tikhaya";
pub const BUSY_KIOSK: &str = "hall-rechnaya";

/// Id of the officer that is the `n`-th working client, from 0.
pub fn writer_officer(n: usize) -> String {
    format!("officer-{:02}", n + 1)
}

/// Identities a development cluster has certificates for: kind and id.
pub fn identities() -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = vec![
        ("admin", "dev".into()),
        ("operator", STORY_OFFICER.into()),
        ("workstation", STORY_WORKSTATION.into()),
        ("kiosk", STORY_KIOSK.into()),
        ("kiosk", BUSY_KIOSK.into()),
        ("board", "board-tikhaya".into()),
        ("connector", "smev".into()),
        ("portal", "region".into()),
        ("auditor", "revizor".into()),
    ];
    all.extend((0..WRITERS).map(|n| ("operator", writer_officer(n))));
    all
}

pub fn offices() -> Vec<proto::Office> {
    let office = |code: &str, name: &str, address: &str, kiosk: &str| proto::Office {
        code: code.into(),
        name: name.into(),
        address: address.into(),
        region: "42".into(),
        time_zone: "Asia/Novokuznetsk".into(),
        utc_offset_minutes: 7 * 60,
        kiosks: vec![kiosk.into()],
        priority_categories: Vec::new(),
    };
    vec![
        office(STORY_OFFICE, "МФЦ «Тихая улица»", "Вымышленск, ул. Тихая, 1", STORY_KIOSK),
        office(BUSY_OFFICE, "МФЦ «Речная»", "Вымышленск, наб. Речная, 7", BUSY_KIOSK),
    ]
}

pub fn windows() -> Vec<proto::Window> {
    let window = |office: &str, number: usize| proto::Window {
        office: office.into(),
        number: number.to_string(),
        ticket_groups: Vec::new(),
        workstation: if (office, number) == (STORY_OFFICE, 3) {
            STORY_WORKSTATION.into()
        } else {
            String::new()
        },
    };
    let story = (1..=3).map(|number| window(STORY_OFFICE, number));
    // One for each client at work: a window holds one called ticket at a time.
    let busy = (1..=WRITERS).map(|number| window(BUSY_OFFICE, number));
    story.chain(busy).collect()
}

pub fn people() -> Vec<proto::OfficePerson> {
    let mut all = vec![proto::OfficePerson {
        person_id: STORY_OFFICER.into(),
        name: "Липова Вера Примеровна".into(),
        role: "officer".into(),
        // Both, so that whoever uses her certificate with oknoctl can work anywhere.
        offices: vec![STORY_OFFICE.into(), BUSY_OFFICE.into()],
    }];
    all.extend((0..WRITERS).map(|n| proto::OfficePerson {
        person_id: writer_officer(n),
        name: format!("Примеров Номер {}", n + 1),
        role: "officer".into(),
        offices: vec![BUSY_OFFICE.into()],
    }));
    all
}

/// The visitor of the story.
pub fn visitor() -> proto::Applicant {
    person("Образцова", "Анна", "Вымысловна", 1)
}

/// One of any number of visitors, each with numbers of their own.
pub fn applicant(n: u32) -> proto::Applicant {
    person("Посетителев", "Пример", "Вымыслович", n.saturating_add(1_000))
}

fn person(last_name: &str, first_name: &str, middle_name: &str, n: u32) -> proto::Applicant {
    proto::Applicant {
        kind: Some(proto::applicant::Kind::Person(proto::Person {
            name: Some(proto::PersonName {
                last_name: last_name.into(),
                first_name: first_name.into(),
                middle_name: middle_name.into(),
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
            contact: Some(proto::Contact {
                phone: "+70000000000".into(),
                email: String::new(),
                address: "Вымышленск".into(),
            }),
        })),
    }
}

/// A СНИЛС with its check digits; numbers from 999-000-000 on are far beyond any that was ever given out.
pub fn snils(n: u32) -> String {
    let number = 999_000_000 + n % 1_000_000;
    let digits = format!("{number:09}");
    let sum: u32 =
        digits.bytes().zip((1..=9u32).rev()).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    let check = sum % 101 % 100;
    format!("{}-{}-{} {check:02}", &digits[..3], &digits[3..6], &digits[6..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_made_up_people_carry_valid_check_digits() {
        // 999-000-000: 9·9 + 9·8 + 9·7 = 216 = 2·101 + 14.
        assert_eq!(snils(0), "999-000-000 14");
        for n in 0..5_000 {
            okno_domain::validators::snils(&snils(n)).unwrap();
        }
    }

    #[test]
    fn every_client_at_work_has_a_certificate_and_a_desk() {
        let identities = identities();
        for n in 0..WRITERS {
            let id = writer_officer(n);
            assert!(identities.contains(&("operator", id.clone())));
            assert!(people().iter().any(|person| person.person_id == id));
        }
        assert!(windows().iter().filter(|window| window.office == BUSY_OFFICE).count() >= WRITERS);
    }
}
