//! Golden records: bytes of every version ever written decode for ever (rule 9), and what this binary writes has
//! not changed by accident. One file per record type and version, one body in hexadecimal a line; what an enum got at its
//! end within a version, from a feature level on, stands in a file of that level.
//!
//! `UPDATE_GOLDENFILES=1` writes files that are missing; a file that is there is never changed. A record whose
//! bytes change needs a new version, an upcast and a file of its own.

use crate::{
    bench::{Bench, origin},
    channel_samples::{self, Sample, Samples},
    node::START_MS,
    world::{document, fixture, open_command, request_at},
};
use okno_domain::{
    case::{self, Case, Step},
    catalogue::{self, Catalogue, files},
    directory::{self, Directory},
    entity::{CHANNELS_LEVEL, Entity, Kind, Refusal},
    ids,
    message::Message,
    queue::{self, Purpose, Queue},
    registry::{AnyCommand, Registered},
    with_kind,
};
use okno_runtime::{
    cell::CellOutput,
    codec::{self, What},
    sys::{PowerNote, PowerState, SysEvent, SysRoot},
};
use okno_storage::commit::{Body, Commit, CommitId, EntityKey, Record, TimerKey};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fs, path::PathBuf};

fn name(what: What) -> String {
    let (what, kind) = match what {
        What::Root(kind) => ("root", Some(kind)),
        What::Part(kind) => ("part", Some(kind)),
        What::Event(kind) => ("event", Some(kind)),
        What::Reply(kind) => ("reply", Some(kind)),
        What::Message => ("message", None),
        What::Refusal => ("refusal", None),
        What::Timers => ("timers", None),
        What::SystemRoot => ("system-root", None),
        What::SystemEvent => ("system-event", None),
        What::SystemReply => ("system-reply", None),
        What::PowerNote => ("power-note", None),
        What::Body => ("body", None),
    };
    kind.map_or(what.to_owned(), |kind| format!("{}-{what}", kind.name()))
}

fn all() -> Vec<What> {
    let of_kinds = Kind::ALL
        .iter()
        .flat_map(|kind| [What::Root(*kind), What::Part(*kind), What::Event(*kind), What::Reply(*kind)]);
    let common = [
        What::Message,
        What::Refusal,
        What::Timers,
        What::SystemRoot,
        What::SystemEvent,
        What::SystemReply,
        What::PowerNote,
        What::Body,
    ];
    of_kinds.chain(common).collect()
}

/// `level` is set for what an enum got at its end within a version: what it has only from that feature level on.
fn golden(what: What, version: u16, level: Option<u32>) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let level = level.map(|level| format!(".level{level}")).unwrap_or_default();
    folder.join(format!("{}.v{version}{level}.hex", name(what)))
}

/// The level before [`SINCE`].
const BEFORE: u32 = SINCE - 1;
/// The level with which [`GROWN`] grew: channels and the whole queue came together.
const SINCE: u32 = CHANNELS_LEVEL;

/// Records that got variants with it. Those of the queue are pinned one by one in the domain's own golden file; here is
/// what a ticket that is taken writes.
const GROWN: [What; 9] = [
    What::Message,
    What::Event(Kind::Case),
    What::Part(Kind::Case),
    What::Reply(Kind::Case),
    What::Event(Kind::Catalogue),
    What::Part(Kind::Catalogue),
    What::Event(Kind::Queue),
    What::Part(Kind::Queue),
    What::Reply(Kind::Queue),
];

/// Decodes a record and encodes it again, by its type.
fn again(what: What, record: &Record) -> Record {
    fn turn<T: Serialize + DeserializeOwned>(what: What, record: &Record) -> Record {
        let value: T = codec::decode(what, record).unwrap_or_else(|error| panic!("{what:?}: {error}"));
        codec::encode(what, &value).expect("small")
    }
    match what {
        What::Root(kind) => with_kind!(kind, E => turn::<<E as Entity>::Root>(what, record)),
        What::Part(kind) => with_kind!(kind, E => turn::<<E as Entity>::Part>(what, record)),
        What::Event(kind) => with_kind!(kind, E => turn::<<E as Entity>::Event>(what, record)),
        What::Reply(kind) => with_kind!(kind, E => turn::<<E as Entity>::Reply>(what, record)),
        What::Message => turn::<Message>(what, record),
        What::Refusal => turn::<Refusal>(what, record),
        What::SystemRoot => turn::<SysRoot>(what, record),
        What::SystemEvent => turn::<SysEvent>(what, record),
        What::SystemReply => turn::<()>(what, record),
        What::PowerNote => turn::<PowerNote>(what, record),
        What::Body => {
            let bytes = codec::kept(record).expect("proven");
            Record { tag: what.tag(), body: codec::keep(&bytes) }
        }
        What::Timers => {
            let entity = EntityKey::parse("case/golden").expect("a good key");
            let timers = codec::decode_timers(&entity, record).expect("readable");
            codec::encode_timers(&timers).expect("small")
        }
    }
}

/// Records as this binary writes them, from a fixed history.
#[derive(Default)]
struct Written(BTreeMap<String, (What, Vec<Record>)>);

impl Written {
    fn add(&mut self, record: Record) {
        let what = all().into_iter().find(|what| what.number() == record.tag.kind).expect("a known type");
        let (_, records) = self.0.entry(name(what)).or_insert_with(|| (what, Vec::new()));
        if !records.contains(&record) {
            records.push(record);
        }
    }

    fn commit<E: Registered>(&mut self, bench: &mut Bench<E>, output: CellOutput) {
        let CellOutput::Proposed { data, reply, .. } = output else { panic!("{output:?}") };
        let commit = Commit::decode(&data).expect("readable");
        let rows = commit.rows.iter().filter_map(|row| row.value.as_ref().and_then(Option::as_ref));
        let parts = commit.parts.iter().filter_map(|part| part.value.as_ref());
        let values = commit.root.iter().chain(parts).chain(rows);
        for value in values {
            let body = match &value.body {
                Body::Inline(body) => body.clone(),
                Body::OfEvent { event, start, len } => {
                    let start = *start as usize;
                    commit.events[usize::from(*event)].body.slice(start..start + *len as usize)
                }
            };
            self.add(Record { tag: value.tag, body });
        }
        for record in commit.events.iter().chain(&reply).cloned() {
            self.add(record);
        }
        for sent in commit.sent {
            self.add(sent.record);
        }
        bench.apply(&data);
    }
}

fn take_ticket(written: &mut Written, level: u32) {
    let mut bench = Bench::<Queue>::at_level("tikhaya", level);
    let take = queue::Command::TakeTicket {
        purpose: Purpose::Apply,
        service: "paper".into(),
        category: String::new(),
    };
    let output = bench.run(origin("operator", "anna"), AnyCommand::Queue(take));
    written.commit(&mut bench, output);
}

/// What is written below the level of channels and of the whole queue.
fn written() -> Written {
    let mut written = Written::default();
    let (admin, anna) = (origin("admin", "root"), origin("operator", "anna"));

    let mut bench = Bench::<Catalogue>::at_level(catalogue::ENTITY_ID, BEFORE);
    let load = files::read(&[fixture()], &Catalogue::empty("region")).expect("the fixture is right");
    let output = bench.run(admin.clone(), AnyCommand::Catalogue(catalogue::Command::Load(load)));
    written.commit(&mut bench, output);

    let mut bench = Bench::<Directory>::at_level(directory::ENTITY_ID, BEFORE);
    let office = directory::Office {
        code: "tikhaya".into(),
        name: "МФЦ «Тихая улица»".into(),
        utc_offset_minutes: 420,
        kiosks: vec!["kiosk-1".into()],
        ..directory::Office::default()
    };
    let window = directory::Window {
        office: "tikhaya".into(),
        number: "1".into(),
        ticket_groups: vec!["А".into()],
        workstation: "ws-1".into(),
    };
    let person = directory::Person {
        id: "anna".into(),
        name: "Вымыслова Анна".into(),
        role: directory::Role::Officer,
        offices: vec!["tikhaya".into()],
    };
    for command in [
        directory::Command::PutOffice(office),
        directory::Command::PutWindow(window),
        directory::Command::PutPerson(person),
        directory::Command::RemovePerson { id: "anna".into() },
        directory::Command::RemoveWindow { office: "tikhaya".into(), number: "1".into() },
        directory::Command::RemoveOffice { code: "tikhaya".into() },
    ] {
        let output = bench.run(admin.clone(), AnyCommand::Directory(command));
        written.commit(&mut bench, output);
    }

    take_ticket(&mut written, BEFORE);

    let request = request_at(START_MS, 1);
    let mut bench = Bench::<Case>::at_level(&ids::case_id(&anna.principal, request), BEFORE);
    let open = open_command(Some(crate::probe::ticket()));
    let output = bench.run_as(anna.clone(), AnyCommand::Case(open), request);
    written.commit(&mut bench, output);
    let steps = [
        document("пример"),
        document("лишний"),
        AnyCommand::Case(case::Command::RemoveDocument { document: 2 }),
        AnyCommand::Case(case::Command::Advance { step: Step::Accept }),
        AnyCommand::Case(case::Command::Advance {
            step: Step::RequestInteragency { authority: "bureau".into(), subject: "пошлина".into() },
        }),
    ];
    for command in steps {
        let output = bench.run(anna.clone(), command);
        written.commit(&mut bench, output);
    }

    let ticket = crate::probe::ticket();
    for message in [
        Message::CaseOpened { ticket: ticket.clone() },
        Message::TicketLinked { ticket: ticket.clone() },
        Message::Refused { reason: "TICKET_UNKNOWN".into(), of: Box::new(Message::CaseOpened { ticket }) },
    ] {
        written.add(codec::encode(What::Message, &message).expect("small"));
    }
    written.add(codec::encode(What::Refusal, &crate::probe::refusal("EXAMPLE")).expect("small"));
    written.add(codec::encode(What::SystemRoot, &SysRoot { events: 3 }).expect("small"));
    for event in [
        SysEvent::Quarantined { entity: "case/a".into(), reason: "panic".into() },
        SysEvent::Released { entity: "case/a".into() },
        SysEvent::MessageBuried {
            source: "case/a".into(),
            target: "queue/b".into(),
            reason: "failed".into(),
        },
        SysEvent::LevelRaised { level: 2 },
    ] {
        written.add(codec::encode(What::SystemEvent, &event).expect("small"));
    }
    written.add(codec::encode(What::SystemReply, &()).expect("small"));
    let note = PowerNote {
        short: [(1, PowerState::OnBattery), (3, PowerState::Failing)].into(),
        russian: "Сеть пропала".into(),
        english: "mains lost".into(),
    };
    written.add(codec::encode(What::PowerNote, &note).expect("small"));
    let entity = EntityKey::parse("case/golden").expect("a good key");
    let timer = |name: &str, due_ms| TimerKey {
        due_ms,
        entity: entity.clone(),
        name: name.into(),
        generation: CommitId { term: 4, counter: 1_030 },
    };
    let timers = [timer("deadline-near", START_MS), timer("deadline-passed", -5)];
    written.add(codec::encode_timers(&timers).expect("small"));
    written
}

/// What channels write: the kind's own records, and what others got with it.
impl Samples for Written {
    fn add<T: Serialize>(&mut self, sample: Sample, value: &T) {
        let what = match sample {
            Sample::Root => What::Root(Kind::Channel),
            Sample::Part => What::Part(Kind::Channel),
            Sample::Event => What::Event(Kind::Channel),
            Sample::Reply => What::Reply(Kind::Channel),
            Sample::Message => What::Message,
            Sample::CaseEvent => What::Event(Kind::Case),
            Sample::CasePart => What::Part(Kind::Case),
            Sample::CaseReply => What::Reply(Kind::Case),
            Sample::CatalogueEvent => What::Event(Kind::Catalogue),
            Sample::CataloguePart => What::Part(Kind::Catalogue),
        };
        Written::add(self, codec::encode(what, value).expect("small"));
    }
}

#[test]
fn every_record_is_as_it_always_was() {
    let mut written = written();
    channel_samples::own(&mut written);
    written.add(Record { tag: What::Body.tag(), body: codec::keep("привет".as_bytes()) });
    for what in all() {
        compare(what, None, &written);
    }
    let mut since = Written::default();
    channel_samples::others(&mut since);
    take_ticket(&mut since, SINCE);
    for what in GROWN {
        compare(what, Some(SINCE), &since);
    }
    let folder = golden(What::Message, 1, None);
    let files = fs::read_dir(folder.parent().expect("a folder")).expect("readable").count();
    assert_eq!(files, all().len() + GROWN.len(), "a file that nothing reads");
}

fn compare(what: What, level: Option<u32>, written: &Written) {
    let (_, records) = written.0.get(&name(what)).unwrap_or_else(|| panic!("no sample of {what:?}"));
    let fresh: String = records.iter().map(|record| hex::encode(&record.body) + "\n").collect();
    let path = golden(what, codec::VERSION, level);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() && !path.exists() {
        fs::write(&path, &fresh).expect("the golden folder is writable");
    }
    let kept = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(kept, fresh, "{}: the bytes changed; that takes a new version", path.display());
    for line in kept.lines() {
        let record = Record { tag: what.tag(), body: hex::decode(line).expect("hexadecimal").into() };
        assert_eq!(again(what, &record), record, "{}", path.display());
    }
}

#[test]
fn numbers_are_never_reused() {
    let mut numbers: Vec<u16> = all().into_iter().map(What::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), all().len());
    assert!(numbers.iter().all(|number| *number >= 0x100));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let good =
        codec::encode(What::Message, &Message::CaseOpened { ticket: crate::probe::ticket() }).expect("small");
    let mut newer = good.clone();
    newer.tag.version = 2;
    assert!(matches!(
        codec::decode::<Message>(What::Message, &newer),
        Err(codec::CodecError::Newer { version: 2, .. })
    ));
    assert!(matches!(
        codec::decode::<Message>(What::Refusal, &good),
        Err(codec::CodecError::WrongType { .. })
    ));
    for len in 0..good.body.len() {
        let cut = Record { tag: good.tag, body: good.body.slice(..len) };
        assert!(matches!(
            codec::decode::<Message>(What::Message, &cut),
            Err(codec::CodecError::Malformed { .. })
        ));
    }
    let mut longer = good.body.to_vec();
    longer.push(0);
    let longer = Record { tag: good.tag, body: longer.into() };
    assert!(matches!(
        codec::decode::<Message>(What::Message, &longer),
        Err(codec::CodecError::Malformed { .. })
    ));
    assert!(codec::encode(What::Message, &vec![0_u8; 300_000]).is_none(), "larger than any commit");
}
