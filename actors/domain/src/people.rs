//! Applicants (R-C10): persons, persons who are no citizens, sole traders, legal entities, representatives of
//! foreign legal entities, and authorised representatives with a power of attorney.
//!
//! Texts that may be missing are empty. Numbers are kept as they were given; [`applicant_key`] compares by what
//! counts in them. What is checked and how strictly: `crate::validators`, `crate::case::check`.

use crate::{catalogue::ReceiverKind, rows::ApplicantKey};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PersonName {
    pub last_name: String,
    pub first_name: String,
    /// Patronymic; empty when there is none.
    pub middle_name: String,
}

/// Proof of identity. `kind`: passport, foreign_passport, residence_permit, birth_certificate,
/// refugee_certificate, other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IdentityDocument {
    pub kind: String,
    pub series: String,
    pub number: String,
    pub issued_on: Option<Date>,
    pub issued_by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Contact {
    pub phone: String,
    pub email: String,
    pub address: String,
}

/// A citizen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Person {
    pub name: PersonName,
    pub birth_date: Option<Date>,
    pub snils: String,
    pub inn: String,
    pub identity: Option<IdentityDocument>,
    pub contact: Contact,
}

/// A person who is no citizen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ForeignPerson {
    pub name: PersonName,
    pub birth_date: Option<Date>,
    /// ISO 3166-1 alpha-3; empty for a person without citizenship.
    pub citizenship: String,
    pub identity: Option<IdentityDocument>,
    pub snils: String,
    pub contact: Contact,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SoleTrader {
    pub name: PersonName,
    pub inn: String,
    pub ogrnip: String,
    pub contact: Contact,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LegalEntity {
    pub name: String,
    pub inn: String,
    pub kpp: String,
    pub ogrn: String,
    /// Who acts for it without a power of attorney, and as what.
    pub head: PersonName,
    pub head_position: String,
    pub contact: Contact,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PowerOfAttorney {
    pub number: String,
    pub issued_on: Option<Date>,
    /// Last day it is valid; `None` when it names none.
    pub valid_until: Option<Date>,
    pub certified_by: String,
}

/// Who comes for a foreign legal entity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ForeignEntityRepresentative {
    pub name: PersonName,
    pub identity: Option<IdentityDocument>,
    /// The legal entity that is represented.
    pub organisation: String,
    /// ISO 3166-1 alpha-3.
    pub country: String,
    pub registration_number: String,
    pub authority: PowerOfAttorney,
    pub contact: Contact,
}

/// Acts with a power of attorney for the applicant named in `principal`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorisedRepresentative {
    pub name: PersonName,
    pub snils: String,
    pub identity: Option<IdentityDocument>,
    pub authority: PowerOfAttorney,
    pub contact: Contact,
    /// Not an authorised representative again: refused as `APPLICANT_INVALID`.
    pub principal: Box<Applicant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applicant {
    Person(Person),
    ForeignPerson(ForeignPerson),
    SoleTrader(SoleTrader),
    LegalEntity(LegalEntity),
    ForeignEntityRepresentative(ForeignEntityRepresentative),
    AuthorisedRepresentative(AuthorisedRepresentative),
}

impl Applicant {
    /// Whose right to the service counts: the principal's where somebody represents one.
    pub fn receiver_kind(&self) -> ReceiverKind {
        match self {
            Self::Person(_) => ReceiverKind::Person,
            Self::ForeignPerson(_) => ReceiverKind::NonCitizen,
            Self::SoleTrader(_) => ReceiverKind::SoleTrader,
            Self::LegalEntity(_) => ReceiverKind::LegalEntity,
            Self::ForeignEntityRepresentative(_) => ReceiverKind::ForeignLegalEntity,
            Self::AuthorisedRepresentative(representative) => representative.principal.receiver_kind(),
        }
    }

    /// Who is called the applicant in lists: the principal where somebody represents one.
    pub fn display_name(&self) -> String {
        match self {
            Self::Person(person) => person.name.display(),
            Self::ForeignPerson(person) => person.name.display(),
            Self::SoleTrader(trader) => trader.name.display(),
            Self::LegalEntity(entity) => entity.name.clone(),
            Self::ForeignEntityRepresentative(representative) => representative.organisation.clone(),
            Self::AuthorisedRepresentative(representative) => representative.principal.display_name(),
        }
    }

    /// The numbers an applicant is found by, the strongest first; a representative's come after the principal's.
    pub fn identifiers(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_identifiers(&mut found);
        found.retain(|text| !text.is_empty());
        found
    }

    fn collect_identifiers(&self, into: &mut Vec<String>) {
        match self {
            Self::Person(person) => {
                into.extend([person.snils.clone(), joined(person.identity.as_ref()), person.inn.clone()]);
            }
            Self::ForeignPerson(person) => {
                into.extend([joined(person.identity.as_ref()), person.snils.clone()])
            }
            Self::SoleTrader(trader) => into.extend([trader.inn.clone(), trader.ogrnip.clone()]),
            Self::LegalEntity(entity) => into.extend([entity.inn.clone(), entity.ogrn.clone()]),
            Self::ForeignEntityRepresentative(representative) => {
                into.extend([
                    representative.registration_number.clone(),
                    joined(representative.identity.as_ref()),
                ]);
            }
            Self::AuthorisedRepresentative(representative) => {
                // Checked input nests once; what came otherwise is not followed deeper.
                if !matches!(*representative.principal, Self::AuthorisedRepresentative(_)) {
                    representative.principal.collect_identifiers(into);
                }
                into.extend([representative.snils.clone(), joined(representative.identity.as_ref())]);
            }
        }
    }
}

impl PersonName {
    pub fn display(&self) -> String {
        let mut text = self.last_name.clone();
        for part in [&self.first_name, &self.middle_name] {
            if !part.is_empty() {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(part);
            }
        }
        text
    }
}

fn joined(identity: Option<&IdentityDocument>) -> String {
    identity.map_or_else(String::new, |document| format!("{}{}", document.series, document.number))
}

/// The key an applicant's cases are listed by: of СНИЛС, ИНН, ОГРН, or series and number of the identity
/// document, whichever is asked for; letters and digits count, separators do not. Hashed, so that keys (which
/// logs and tools show) do not spell personal data. `None`: nothing in it counts.
pub fn applicant_key(text: &str) -> Option<ApplicantKey> {
    let mut counts = false;
    let mut hash = Sha256::new();
    hash.update(b"okno/applicant/1");
    let mut buffer = [0; 4];
    for letter in text.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_uppercase) {
        counts = true;
        hash.update(letter.encode_utf8(&mut buffer).as_bytes());
    }
    let mut key = ApplicantKey::default();
    key.copy_from_slice(&hash.finalize()[..16]);
    counts.then_some(key)
}
