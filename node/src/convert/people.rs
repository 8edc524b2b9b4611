//! Applicants (R-C10), both ways.

use super::{Converted, date_opt, date_text};
use crate::failure::Failure;
use okno_domain::people as domain;
use okno_proto::v1;

/// An applicant as it came; `path` names it in errors.
pub fn applicant_from(path: &str, applicant: v1::Applicant) -> Converted<domain::Applicant> {
    use v1::applicant::Kind;
    let kind = applicant.kind.ok_or_else(|| {
        Failure::field(
            path,
            "ожидается один из видов заявителя",
            "expected one of person, foreign_person, sole_trader, legal_entity, \
             foreign_entity_representative, authorised_representative",
        )
    })?;
    Ok(match kind {
        Kind::Person(person) => domain::Applicant::Person(domain::Person {
            name: name_from(person.name),
            birth_date: date_opt(&format!("{path}.person.birth_date"), &person.birth_date)?,
            snils: person.snils,
            inn: person.inn,
            identity: identity_from(&format!("{path}.person.identity"), person.identity)?,
            contact: contact_from(person.contact),
        }),
        Kind::ForeignPerson(person) => domain::Applicant::ForeignPerson(domain::ForeignPerson {
            name: name_from(person.name),
            birth_date: date_opt(&format!("{path}.foreign_person.birth_date"), &person.birth_date)?,
            citizenship: person.citizenship,
            identity: identity_from(&format!("{path}.foreign_person.identity"), person.identity)?,
            snils: person.snils,
            contact: contact_from(person.contact),
        }),
        Kind::SoleTrader(trader) => domain::Applicant::SoleTrader(domain::SoleTrader {
            name: name_from(trader.name),
            inn: trader.inn,
            ogrnip: trader.ogrnip,
            contact: contact_from(trader.contact),
        }),
        Kind::LegalEntity(entity) => domain::Applicant::LegalEntity(domain::LegalEntity {
            name: entity.name,
            inn: entity.inn,
            kpp: entity.kpp,
            ogrn: entity.ogrn,
            head: name_from(entity.head),
            head_position: entity.head_position,
            contact: contact_from(entity.contact),
        }),
        Kind::ForeignEntityRepresentative(one) => {
            let path = format!("{path}.foreign_entity_representative");
            domain::Applicant::ForeignEntityRepresentative(domain::ForeignEntityRepresentative {
                name: name_from(one.name),
                identity: identity_from(&format!("{path}.identity"), one.identity)?,
                organisation: one.organisation,
                country: one.country,
                registration_number: one.registration_number,
                authority: authority_from(&format!("{path}.authority"), one.authority)?,
                contact: contact_from(one.contact),
            })
        }
        Kind::AuthorisedRepresentative(one) => {
            let path = format!("{path}.authorised_representative");
            let principal = one.principal.ok_or_else(|| {
                Failure::field(&format!("{path}.principal"), "обязательное поле", "required")
            })?;
            // Depth is bounded by the decoder; that representatives do not nest is the domain's rule.
            let principal = applicant_from(&format!("{path}.principal"), *principal)?;
            domain::Applicant::AuthorisedRepresentative(domain::AuthorisedRepresentative {
                name: name_from(one.name),
                snils: one.snils,
                identity: identity_from(&format!("{path}.identity"), one.identity)?,
                authority: authority_from(&format!("{path}.authority"), one.authority)?,
                contact: contact_from(one.contact),
                principal: Box::new(principal),
            })
        }
    })
}

pub fn applicant(applicant: &domain::Applicant) -> v1::Applicant {
    use v1::applicant::Kind;
    let kind = match applicant {
        domain::Applicant::Person(person) => Kind::Person(v1::Person {
            name: name(&person.name),
            birth_date: date_text(person.birth_date),
            snils: person.snils.clone(),
            inn: person.inn.clone(),
            identity: identity(person.identity.as_ref()),
            contact: contact(&person.contact),
        }),
        domain::Applicant::ForeignPerson(person) => Kind::ForeignPerson(v1::ForeignPerson {
            name: name(&person.name),
            birth_date: date_text(person.birth_date),
            citizenship: person.citizenship.clone(),
            identity: identity(person.identity.as_ref()),
            snils: person.snils.clone(),
            contact: contact(&person.contact),
        }),
        domain::Applicant::SoleTrader(trader) => Kind::SoleTrader(v1::SoleTrader {
            name: name(&trader.name),
            inn: trader.inn.clone(),
            ogrnip: trader.ogrnip.clone(),
            contact: contact(&trader.contact),
        }),
        domain::Applicant::LegalEntity(entity) => Kind::LegalEntity(v1::LegalEntity {
            name: entity.name.clone(),
            inn: entity.inn.clone(),
            kpp: entity.kpp.clone(),
            ogrn: entity.ogrn.clone(),
            head: name(&entity.head),
            head_position: entity.head_position.clone(),
            contact: contact(&entity.contact),
        }),
        domain::Applicant::ForeignEntityRepresentative(one) => {
            Kind::ForeignEntityRepresentative(v1::ForeignEntityRepresentative {
                name: name(&one.name),
                identity: identity(one.identity.as_ref()),
                organisation: one.organisation.clone(),
                country: one.country.clone(),
                registration_number: one.registration_number.clone(),
                authority: authority(&one.authority),
                contact: contact(&one.contact),
            })
        }
        domain::Applicant::AuthorisedRepresentative(one) => {
            Kind::AuthorisedRepresentative(Box::new(v1::AuthorisedRepresentative {
                name: name(&one.name),
                snils: one.snils.clone(),
                identity: identity(one.identity.as_ref()),
                authority: authority(&one.authority),
                contact: contact(&one.contact),
                principal: Some(Box::new(self::applicant(&one.principal))),
            }))
        }
    };
    v1::Applicant { kind: Some(kind) }
}

fn name_from(name: Option<v1::PersonName>) -> domain::PersonName {
    let name = name.unwrap_or_default();
    domain::PersonName {
        last_name: name.last_name,
        first_name: name.first_name,
        middle_name: name.middle_name,
    }
}

fn name(name: &domain::PersonName) -> Option<v1::PersonName> {
    Some(v1::PersonName {
        last_name: name.last_name.clone(),
        first_name: name.first_name.clone(),
        middle_name: name.middle_name.clone(),
    })
}

fn identity_from(
    path: &str,
    document: Option<v1::IdentityDocument>,
) -> Converted<Option<domain::IdentityDocument>> {
    let Some(document) = document else { return Ok(None) };
    Ok(Some(domain::IdentityDocument {
        kind: document.kind,
        series: document.series,
        number: document.number,
        issued_on: date_opt(&format!("{path}.issued_on"), &document.issued_on)?,
        issued_by: document.issued_by,
    }))
}

fn identity(document: Option<&domain::IdentityDocument>) -> Option<v1::IdentityDocument> {
    document.map(|document| v1::IdentityDocument {
        kind: document.kind.clone(),
        series: document.series.clone(),
        number: document.number.clone(),
        issued_on: date_text(document.issued_on),
        issued_by: document.issued_by.clone(),
    })
}

fn contact_from(contact: Option<v1::Contact>) -> domain::Contact {
    let contact = contact.unwrap_or_default();
    domain::Contact { phone: contact.phone, email: contact.email, address: contact.address }
}

fn contact(contact: &domain::Contact) -> Option<v1::Contact> {
    (*contact != domain::Contact::default()).then(|| v1::Contact {
        phone: contact.phone.clone(),
        email: contact.email.clone(),
        address: contact.address.clone(),
    })
}

fn authority_from(path: &str, power: Option<v1::PowerOfAttorney>) -> Converted<domain::PowerOfAttorney> {
    let power = power.unwrap_or_default();
    Ok(domain::PowerOfAttorney {
        number: power.number,
        issued_on: date_opt(&format!("{path}.issued_on"), &power.issued_on)?,
        valid_until: date_opt(&format!("{path}.valid_until"), &power.valid_until)?,
        certified_by: power.certified_by,
    })
}

fn authority(power: &domain::PowerOfAttorney) -> Option<v1::PowerOfAttorney> {
    Some(v1::PowerOfAttorney {
        number: power.number.clone(),
        issued_on: date_text(power.issued_on),
        valid_until: date_text(power.valid_until),
        certified_by: power.certified_by.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person() -> domain::Applicant {
        domain::Applicant::Person(domain::Person {
            name: domain::PersonName { last_name: "Примерова".into(), ..Default::default() },
            birth_date: Some(jiff::civil::date(1990, 2, 3)),
            snils: "112-233-445 95".into(),
            ..Default::default()
        })
    }

    #[test]
    fn every_kind_comes_back_as_it_went() {
        for one in [
            person(),
            domain::Applicant::ForeignPerson(domain::ForeignPerson {
                citizenship: "KAZ".into(),
                ..Default::default()
            }),
            domain::Applicant::SoleTrader(domain::SoleTrader { inn: "1".into(), ..Default::default() }),
            domain::Applicant::LegalEntity(domain::LegalEntity { kpp: "1".into(), ..Default::default() }),
            domain::Applicant::ForeignEntityRepresentative(domain::ForeignEntityRepresentative {
                country: "KAZ".into(),
                ..Default::default()
            }),
            domain::Applicant::AuthorisedRepresentative(domain::AuthorisedRepresentative {
                name: domain::PersonName::default(),
                snils: String::new(),
                identity: Some(domain::IdentityDocument { kind: "passport".into(), ..Default::default() }),
                authority: domain::PowerOfAttorney {
                    issued_on: Some(jiff::civil::date(2026, 1, 1)),
                    ..Default::default()
                },
                contact: domain::Contact { phone: "+7".into(), ..Default::default() },
                principal: Box::new(person()),
            }),
        ] {
            assert_eq!(applicant_from("applicants[0]", applicant(&one)), Ok(one));
        }
    }

    #[test]
    fn errors_name_the_field() {
        let check = |applicant: v1::Applicant, path: &str| match applicant_from("applicants[0]", applicant) {
            Err(Failure::Refused(refusal)) => {
                assert!(refusal.details.contains_key(path), "{:?}", refusal.details)
            }
            other => panic!("{other:?}"),
        };
        check(v1::Applicant { kind: None }, "applicants[0]");
        let wrong = v1::Person { birth_date: "03.02.1990".into(), ..Default::default() };
        check(
            v1::Applicant { kind: Some(v1::applicant::Kind::Person(wrong)) },
            "applicants[0].person.birth_date",
        );
    }
}
