//! What a case takes in: bounds for everybody, and the applicants' numbers — refused where an officer typed them,
//! warned about where they come from outside, whose official samples break their own check digits.

use super::types::APPLICANTS_MAX;
use crate::{
    catalogue::Service,
    entity::{Origin, Refusal},
    people::{Applicant, Contact, IdentityDocument, PersonName, PowerOfAttorney},
    refusal::{APPLICANT_INVALID, FIELD_INVALID, RECEIVER_NOT_ELIGIBLE, REPRESENTATIVE_NOT_ALLOWED, refuse},
    validators::{self, Check, expect_len},
};

/// Length of names, addresses and references, in characters.
pub(super) const LINE_MAX: usize = 300;
/// Length of notes, reasons and answers.
pub(super) const TEXT_MAX: usize = 4_000;
/// Length of codes.
pub(super) const CODE_MAX: usize = 64;
/// Sheets of one document: a box of files; more is a slip of the pen.
pub(super) const SHEETS_MAX: u32 = 10_000;
/// Faults told at once: enough to mend a form in one go.
const FAULTS_MAX: usize = 32;

/// A field and what was expected there.
type Fault = (String, String);

/// Faults in what the applicants gave: a refusal if an officer typed it, warnings if it came from outside.
pub(super) fn applicants(
    applicants: &[Applicant],
    service: &Service,
    origin: &Origin,
) -> Result<Vec<String>, Refusal> {
    if applicants.is_empty() || applicants.len() > APPLICANTS_MAX {
        return Err(refuse(FIELD_INVALID).with("applicants", format!("1 to {APPLICANTS_MAX}")));
    }
    let mut faults = Faults::default();
    for (n, applicant) in applicants.iter().enumerate() {
        let path = format!("applicants[{n}]");
        if let Applicant::AuthorisedRepresentative(representative) = applicant {
            if matches!(*representative.principal, Applicant::AuthorisedRepresentative(_)) {
                return Err(refuse(APPLICANT_INVALID)
                    .with(format!("{path}.principal"), "not an authorised representative again"));
            }
            if !service.representative {
                return Err(refuse(REPRESENTATIVE_NOT_ALLOWED).with("service", service.code.clone()));
            }
        }
        if !service.receives(applicant.receiver_kind()) {
            let receivers: Vec<_> = service.receivers.iter().map(|kind| kind.name()).collect();
            return Err(refuse(RECEIVER_NOT_ELIGIBLE)
                .with(path, applicant.receiver_kind().name())
                .with("receivers", receivers.join(", ")));
        }
        faults.applicant(&path, applicant)?;
    }
    faults.judge(origin)
}

/// Text a caller must give.
pub(super) fn required(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(refuse(FIELD_INVALID).with(field, "not empty"));
    }
    expect_len(field, text, max)
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn judge(self, origin: &Origin) -> Result<Vec<String>, Refusal> {
        let outside = matches!(origin.principal.kind.as_str(), "connector" | "portal");
        let faults = self.0.into_iter().take(FAULTS_MAX);
        if outside {
            return Ok(faults
                .map(|(field, expected)| format!("FIELD_INVALID {field}: {expected}"))
                .collect());
        }
        let mut refusal = refuse(APPLICANT_INVALID);
        refusal.details.extend(faults);
        if refusal.details.is_empty() { Ok(Vec::new()) } else { Err(refusal) }
    }

    fn add(&mut self, path: &str, field: &str, expected: &str) {
        self.0.push((format!("{path}.{field}"), expected.to_owned()));
    }

    /// Checks a number that is there.
    fn number(
        &mut self,
        path: &str,
        field: &str,
        text: &str,
        check: fn(&str) -> Check,
    ) -> Result<(), Refusal> {
        expect_len(&format!("{path}.{field}"), text, CODE_MAX)?;
        if !text.is_empty()
            && let Err(expected) = check(text)
        {
            self.add(path, field, expected);
        }
        Ok(())
    }

    /// Checks a number that must be there.
    fn needed(
        &mut self,
        path: &str,
        field: &str,
        text: &str,
        check: fn(&str) -> Check,
    ) -> Result<(), Refusal> {
        if text.is_empty() {
            self.add(path, field, "not empty");
        }
        self.number(path, field, text, check)
    }

    fn applicant(&mut self, path: &str, applicant: &Applicant) -> Result<(), Refusal> {
        match applicant {
            Applicant::Person(person) => {
                self.name(path, "name", &person.name)?;
                self.number(path, "snils", &person.snils, validators::snils)?;
                self.number(path, "inn", &person.inn, validators::inn_of_person)?;
                self.identity(path, person.identity.as_ref())?;
                self.contact(path, &person.contact)?;
                self.identified(path, applicant, "snils, inn or identity");
            }
            Applicant::ForeignPerson(person) => {
                self.name(path, "name", &person.name)?;
                self.number(path, "citizenship", &person.citizenship, validators::country)?;
                self.number(path, "snils", &person.snils, validators::snils)?;
                self.identity(path, person.identity.as_ref())?;
                self.contact(path, &person.contact)?;
                self.identified(path, applicant, "identity or snils");
            }
            Applicant::SoleTrader(trader) => {
                self.name(path, "name", &trader.name)?;
                self.needed(path, "inn", &trader.inn, validators::inn_of_person)?;
                self.number(path, "ogrnip", &trader.ogrnip, validators::ogrnip)?;
                self.contact(path, &trader.contact)?;
            }
            Applicant::LegalEntity(entity) => {
                self.line(path, "name", &entity.name, true)?;
                self.needed(path, "inn", &entity.inn, validators::inn_of_entity)?;
                self.number(path, "kpp", &entity.kpp, validators::kpp)?;
                self.number(path, "ogrn", &entity.ogrn, validators::ogrn)?;
                if entity.head != PersonName::default() {
                    self.name(path, "head", &entity.head)?;
                }
                self.line(path, "head_position", &entity.head_position, false)?;
                self.contact(path, &entity.contact)?;
            }
            Applicant::ForeignEntityRepresentative(representative) => {
                self.name(path, "name", &representative.name)?;
                self.identity(path, representative.identity.as_ref())?;
                self.line(path, "organisation", &representative.organisation, true)?;
                self.needed(path, "country", &representative.country, validators::country)?;
                self.line(path, "registration_number", &representative.registration_number, false)?;
                self.authority(path, &representative.authority)?;
                self.contact(path, &representative.contact)?;
                self.identified(path, applicant, "registration_number or identity");
            }
            Applicant::AuthorisedRepresentative(representative) => {
                self.name(path, "name", &representative.name)?;
                self.number(path, "snils", &representative.snils, validators::snils)?;
                self.identity(path, representative.identity.as_ref())?;
                self.authority(path, &representative.authority)?;
                self.contact(path, &representative.contact)?;
                // One level: the caller has refused a representative of a representative.
                self.applicant(&format!("{path}.principal"), &representative.principal)?;
            }
        }
        Ok(())
    }

    fn identified(&mut self, path: &str, applicant: &Applicant, expected: &str) {
        if applicant.identifiers().is_empty() {
            self.0.push((path.to_owned(), expected.to_owned()));
        }
    }

    fn line(&mut self, path: &str, field: &str, text: &str, needed: bool) -> Result<(), Refusal> {
        if needed && text.trim().is_empty() {
            self.add(path, field, "not empty");
        }
        expect_len(&format!("{path}.{field}"), text, LINE_MAX)
    }

    fn name(&mut self, path: &str, field: &str, name: &PersonName) -> Result<(), Refusal> {
        let path = format!("{path}.{field}");
        // Some have only one name; it is kept as the last name.
        self.line(&path, "last_name", &name.last_name, true)?;
        self.line(&path, "first_name", &name.first_name, false)?;
        self.line(&path, "middle_name", &name.middle_name, false)
    }

    fn identity(&mut self, path: &str, identity: Option<&IdentityDocument>) -> Result<(), Refusal> {
        const KINDS: [&str; 6] = [
            "passport",
            "foreign_passport",
            "residence_permit",
            "birth_certificate",
            "refugee_certificate",
            "other",
        ];
        let Some(identity) = identity else { return Ok(()) };
        let path = format!("{path}.identity");
        expect_len(&format!("{path}.kind"), &identity.kind, CODE_MAX)?;
        if !KINDS.contains(&identity.kind.as_str()) {
            self.add(&path, "kind", &KINDS.join(", "));
        }
        if identity.kind == "passport" {
            self.needed(&path, "series", &identity.series, validators::passport_series)?;
            self.needed(&path, "number", &identity.number, validators::passport_number)?;
        }
        expect_len(&format!("{path}.series"), &identity.series, CODE_MAX)?;
        expect_len(&format!("{path}.number"), &identity.number, CODE_MAX)?;
        if identity.number.is_empty() && identity.kind != "passport" {
            self.add(&path, "number", "not empty");
        }
        self.line(&path, "issued_by", &identity.issued_by, false)
    }

    fn authority(&mut self, path: &str, authority: &PowerOfAttorney) -> Result<(), Refusal> {
        let path = format!("{path}.authority");
        self.line(&path, "number", &authority.number, true)?;
        if let (Some(issued), Some(until)) = (authority.issued_on, authority.valid_until)
            && until < issued
        {
            self.add(&path, "valid_until", "not before issued_on");
        }
        self.line(&path, "certified_by", &authority.certified_by, false)
    }

    fn contact(&mut self, path: &str, contact: &Contact) -> Result<(), Refusal> {
        let path = format!("{path}.contact");
        self.number(&path, "phone", &contact.phone, validators::phone)?;
        expect_len(&format!("{path}.email"), &contact.email, LINE_MAX)?;
        if !contact.email.is_empty()
            && let Err(expected) = validators::email(&contact.email)
        {
            self.add(&path, "email", expected);
        }
        self.line(&path, "address", &contact.address, false)
    }
}
