//! Services, authorities and production calendars.

use super::term;
use okno_domain::catalogue::{
    Authority, Calendar, Catalogue, DocumentForm, DocumentNeed, ReceiverKind, Service, Source, Text,
};
use okno_proto::v1;

fn text(text: &Text) -> Option<v1::Text> {
    Some(v1::Text { ru: text.ru.clone(), en: text.en.clone() })
}

fn source(source: &Source) -> Option<v1::Source> {
    Some(v1::Source {
        act: source.act.clone(),
        clause: source.clause.clone(),
        checked_on: source.checked.to_string(),
        against: source.against.clone(),
        verified: source.verified,
    })
}

fn authority(authority: &Authority) -> v1::Authority {
    v1::Authority {
        code: authority.code.clone(),
        name: text(&authority.name),
        short_name: text(&authority.short),
    }
}

fn receiver(kind: ReceiverKind) -> v1::ReceiverKind {
    match kind {
        ReceiverKind::Person => v1::ReceiverKind::Person,
        ReceiverKind::NonCitizen => v1::ReceiverKind::NonCitizen,
        ReceiverKind::SoleTrader => v1::ReceiverKind::SoleTrader,
        ReceiverKind::LegalEntity => v1::ReceiverKind::LegalEntity,
        ReceiverKind::ForeignLegalEntity => v1::ReceiverKind::ForeignLegalEntity,
    }
}

pub fn service(service: &Service, catalogue: &Catalogue) -> v1::Service {
    v1::Service {
        code: service.code.clone(),
        name: text(&service.name),
        authority: catalogue.authority(&service.authority).map(authority),
        ticket_group: service.group.clone(),
        active: service.active,
        execution: Some(term(&service.execution)),
        source: source(&service.source),
        delivery: Some(term(&service.delivery)),
        delivery_source: source(&service.delivery_source),
        term_verified: service.term_verified(),
        receivers: service.receivers.iter().map(|kind| receiver(*kind).into()).collect(),
        representative: service.representative,
        documents: service
            .documents
            .iter()
            .map(|document| v1::DocumentKind {
                code: document.code.clone(),
                name: text(&document.name),
                need: match document.need {
                    DocumentNeed::Required => v1::DocumentNeed::Required,
                    DocumentNeed::WhenApplies => v1::DocumentNeed::WhenApplies,
                    DocumentNeed::Interagency => v1::DocumentNeed::Interagency,
                }
                .into(),
                presentation: match document.form {
                    DocumentForm::Original => v1::DocumentPresentation::Original,
                    DocumentForm::Copy => v1::DocumentPresentation::Copy,
                    DocumentForm::OriginalAndCopy => v1::DocumentPresentation::OriginalAndCopy,
                    DocumentForm::Any => v1::DocumentPresentation::Any,
                }
                .into(),
            })
            .collect(),
        documents_source: source(&service.documents_source),
        suspension_reasons: service
            .suspensions
            .iter()
            .map(|reason| v1::SuspensionReason {
                code: reason.code.clone(),
                name: text(&reason.name),
                longest: reason.longest.as_ref().map(term),
                source: source(&reason.source),
            })
            .collect(),
        storage: service
            .storage
            .as_ref()
            .map(|storage| v1::Storage { term: Some(term(&storage.term)), source: source(&storage.source) }),
    }
}

pub fn calendar(calendar: &Calendar, working_days: u32) -> v1::Calendar {
    v1::Calendar {
        year: i32::from(calendar.year),
        region: calendar.region.clone(),
        holidays: calendar
            .holidays
            .iter()
            .map(|holiday| v1::Holiday { date: holiday.date.to_string(), name: holiday.name.clone() })
            .collect(),
        moved: calendar
            .moved
            .iter()
            .map(|moved| v1::MovedDay { from: moved.from.to_string(), to: moved.to.to_string() })
            .collect(),
        short_days: calendar.short.iter().map(|date| date.to_string()).collect(),
        working_days,
        source: source(&calendar.source),
        provisional: calendar.provisional.clone().unwrap_or_default(),
    }
}
