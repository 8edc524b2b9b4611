//! Journal events for people and machines: a stable name, a sentence in the caller's language, and the facts.

use super::cases::step_note;
use crate::failure::Language;
use okno_domain::{
    case::{Event, LinkAnswer, Mark},
    exchange::hex,
    registry::AnyEvent,
};
use okno_runtime::sys::{OwnEvent, PowerNote, PowerState, SysEvent};
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
        AnyEvent::Channel(_) => {
            told("channel_changed", language, "Канал изменился".into(), "channel changed".into(), [])
        }
        AnyEvent::Directory(_) => {
            told("directory_changed", language, "Справочник изменился".into(), "directory changed".into(), [])
        }
    }
}

/// Tells what the cluster did by itself or was told to do.
pub fn tell_own(event: &OwnEvent, language: Language) -> Told {
    match event {
        OwnEvent::System(SysEvent::Quarantined { entity, reason }) => told(
            "quarantined",
            language,
            format!("Объект {entity} закрыт: {reason}"),
            format!("{entity} is closed: {reason}"),
            [("entity", entity.clone()), ("reason", reason.clone())],
        ),
        OwnEvent::System(SysEvent::Released { entity }) => told(
            "released",
            language,
            format!("Объект {entity} снова открыт"),
            format!("{entity} is open again"),
            [("entity", entity.clone())],
        ),
        OwnEvent::System(SysEvent::MessageBuried { source, target, reason }) => told(
            "message_buried",
            language,
            format!("Сообщение от {source} к {target} не доставлено: {reason}"),
            format!("a message from {source} to {target} cannot be delivered: {reason}"),
            [("source", source.clone()), ("target", target.clone()), ("reason", reason.clone())],
        ),
        OwnEvent::System(SysEvent::LevelRaised { level }) => told(
            "level_raised",
            language,
            format!("Уровень возможностей поднят до {level}"),
            format!("the feature level was raised to {level}"),
            [("level", level.to_string())],
        ),
        OwnEvent::Power(note) => {
            let PowerNote { short, russian, english } = note;
            let nodes = |state| {
                let such = short.iter().filter(|(_, found)| **found == state);
                such.map(|(node, _)| node.to_string()).collect::<Vec<_>>().join(" ")
            };
            told(
                "power",
                language,
                russian.clone(),
                english.clone(),
                [("on_battery", nodes(PowerState::OnBattery)), ("failing", nodes(PowerState::Failing))],
            )
        }
    }
}

/// What passed between a case and channels: which, how they stand, and the hashes by which it can be proven (R-I2).
fn tell_dealt(
    kind: &'static str,
    language: Language,
    (russian, english): (&str, &str),
    dealt: &okno_domain::case::Dealt,
) -> Told {
    let each = |show: &dyn Fn(&okno_domain::case::Exchange) -> String| {
        dealt.exchanges.iter().map(|exchange| show(exchange)).collect::<Vec<_>>().join("; ")
    };
    let facts = [
        ("messages", each(&|exchange| exchange.id.clone())),
        ("channels", each(&|exchange| exchange.channel.clone())),
        ("states", each(&|exchange| exchange.state.name().to_owned())),
        ("sent_sha256", each(&|exchange| hex(&exchange.body.sha256))),
        (
            "received_sha256",
            each(&|exchange| exchange.answer.as_ref().map(|body| hex(&body.sha256)).unwrap_or_default()),
        ),
        ("ask", dealt.asking.as_ref().map(|asking| asking.code.clone()).unwrap_or_default()),
        ("ask_state", dealt.asking.as_ref().map(|asking| asking.state.name().to_owned()).unwrap_or_default()),
    ];
    told(kind, language, russian.to_owned(), english.to_owned(), facts)
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
        Event::OfficerSet(assignment) => {
            let officer = &assignment.officer;
            let (russian, english) = if assignment.by_load {
                (format!("Дело передано сотруднику {officer}"), format!("given to officer {officer} by load"))
            } else {
                (format!("Дело принял сотрудник {officer}"), format!("taken over by officer {officer}"))
            };
            told("officer_set", language, russian, english, [("officer", officer.clone())])
        }
        Event::Asked(dealt) => {
            tell_dealt("asked", language, ("Направлены запросы", "channels were asked"), dealt)
        }
        Event::Exchanged(dealt) => {
            tell_dealt("exchanged", language, ("Сведения из каналов", "channels have answered"), dealt)
        }
        Event::LetterTaken(letter) => told(
            "letter_taken",
            language,
            format!("Поступило сообщение по каналу {}: {}", letter.channel, letter.letter.subject),
            format!("a letter came by channel {}: {}", letter.channel, letter.letter.subject),
            [
                ("number", letter.number.to_string()),
                ("channel", letter.channel.clone()),
                ("outside_id", letter.letter.outside_id.clone()),
                ("kind", letter.letter.kind.clone()),
                ("sha256", hex(&letter.letter.body.sha256)),
            ],
        ),
        Event::BodiesForgotten { exchanges, letters } => told(
            "bodies_forgotten",
            language,
            "Истёк год хранения сообщений".into(),
            "messages were kept for their year".into(),
            [("exchanges", exchanges.len().to_string()), ("letters", letters.len().to_string())],
        ),
    }
}
