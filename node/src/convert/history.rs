//! Journal events for people and machines: a stable name, a sentence in the caller's language, and the facts.

use super::cases::step_note;
use crate::failure::Language;
use okno_domain::{
    case::{Event, LinkAnswer, Mark},
    registry::AnyEvent,
};
use std::collections::BTreeMap;

/// An event told.
pub struct Told {
    pub kind: &'static str,
    pub text: String,
    pub details: BTreeMap<String, String>,
}

fn told<const N: usize>(
    kind: &'static str,
    language: Language,
    russian: String,
    english: String,
    details: [(&str, String); N],
) -> Told {
    let text = match language {
        Language::Russian => russian,
        Language::English => english,
    };
    let details = details.into_iter().filter(|(_, value)| !value.is_empty());
    Told { kind, text, details: details.map(|(name, value)| (name.to_owned(), value)).collect() }
}

/// Tells an event of a case; those of other kinds are told by name alone.
pub fn tell(event: &AnyEvent, language: Language) -> Told {
    match event {
        AnyEvent::Case(event) => tell_case(event, language),
        AnyEvent::Queue(_) => {
            told("queue_changed", language, "Очередь изменилась".into(), "queue changed".into(), [])
        }
        AnyEvent::Catalogue(_) => {
            told("catalogue_changed", language, "Каталог изменился".into(), "catalogue changed".into(), [])
        }
        AnyEvent::Directory(_) => {
            told("directory_changed", language, "Справочник изменился".into(), "directory changed".into(), [])
        }
    }
}

fn tell_case(event: &Event, language: Language) -> Told {
    match event {
        Event::Opened(opened) => told(
            "opened",
            language,
            format!("Дело открыто: услуга {}, офис {}", opened.service, opened.office),
            format!("case opened: service {}, office {}", opened.service, opened.office),
            [
                ("service", opened.service.clone()),
                ("office", opened.office.clone()),
                ("ticket", opened.ticket.as_ref().map(|ticket| ticket.number.clone()).unwrap_or_default()),
                ("warnings", opened.warnings.join("; ")),
            ],
        ),
        Event::DocumentAdded(document) => told(
            "document_added",
            language,
            format!("Принят документ № {}: {}", document.number, document.kind),
            format!("document {} added: {}", document.number, document.kind),
            [
                ("number", document.number.to_string()),
                ("kind", document.kind.clone()),
                ("form", document.form.name().to_owned()),
                ("sheets", document.sheets.to_string()),
                ("reference", document.reference.clone()),
            ],
        ),
        Event::DocumentRemoved { number } => told(
            "document_removed",
            language,
            format!("Документ № {number} исключён"),
            format!("document {number} removed"),
            [("number", number.to_string())],
        ),
        Event::Stepped(stepped) => {
            let record = &stepped.record;
            told(
                "stepped",
                language,
                format!("Состояние: {} → {}", record.from.text_ru(), record.to.text_ru()),
                format!("{}: {} → {}", record.step.kind().name(), record.from.name(), record.to.name()),
                [
                    ("step", record.step.kind().name().to_owned()),
                    ("number", record.number.to_string()),
                    ("from", record.from.name().to_owned()),
                    ("to", record.to.name().to_owned()),
                    ("note", step_note(&record.step)),
                    (
                        "deadline",
                        stepped
                            .due
                            .as_ref()
                            .map(|due| due.deadlines.ready.date.to_string())
                            .unwrap_or_default(),
                    ),
                    ("warnings", record.warnings.join("; ")),
                ],
            )
        }
        Event::Marked { mark } => {
            let (russian, english) = match mark {
                Mark::DeadlineNear => ("Срок близко", "the deadline comes near"),
                Mark::DeadlinePassed => ("Срок нарушен", "the deadline has passed"),
                Mark::SuspensionOver => ("Срок приостановления истёк", "the suspension's term is over"),
                Mark::StorageOver => ("Срок хранения результата истёк", "the storage term is over"),
            };
            told("marked", language, russian.into(), english.into(), [("mark", mark.timer().to_owned())])
        }
        Event::TicketAnswered { answer } => {
            let (russian, english, state) = match answer {
                LinkAnswer::Pending => {
                    ("Талон ждёт ответа очереди", "the ticket waits for the queue", "pending")
                }
                LinkAnswer::Linked => ("Талон связан с делом", "the ticket knows the case", "linked"),
                LinkAnswer::Refused(reason) => {
                    ("Очередь не приняла талон", "the queue refused the ticket", reason.as_str())
                }
            };
            told("ticket_answered", language, russian.into(), english.into(), [("answer", state.to_owned())])
        }
    }
}
