//! Golden scripts: transcripts under `tests/scripts/{case,queue,channel,directory}`, one test per folder. To accept a changed
//! transcript, run with `UPDATE_GOLDENFILES=1` and read the difference.
//!
//! - `now TIME` moves the clock of the offices on; `as KIND/ID [ws=ID]` changes the caller; `timers` lists timers
//! - `office`, `window`, `person`, `remove-office`, `remove-window`, `remove-person`: the directory
//! - `open NAME …`, `add NAME …`, `remove NAME N`, `step NAME STEP …`, `show NAME`: cases
//! - `take-over NAME`: another officer goes on with a case
//! - `level N`: the replicated feature level · everything about queues: `crate::queue_script`
//! - channels, and what cases ask of them: `crate::channels`

use crate::world::{World, local, moment, origin};
use goldenscript::Command;
use okno_domain::{
    case::{self, Case, DocumentForm, Mark, State, Step},
    catalogue::{DayKind, Term},
    directory::{self, Office, Person, Role, Window},
    entity::Refusal,
    people::{
        Applicant, AuthorisedRepresentative, ForeignEntityRepresentative, ForeignPerson, IdentityDocument,
        LegalEntity, PersonName, PowerOfAttorney, SoleTrader,
    },
    queue::{BookingRef, TicketRef},
};
use std::{collections::BTreeMap, error::Error, fs, path::Path};

fn check(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(folder);
    let mut scripts: Vec<_> = fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    for script in scripts {
        let mut runner =
            Runner { world: World::with_office(), names: BTreeMap::new(), bookings: BTreeMap::new() };
        goldenscript::run(&mut runner, &script).expect("the script can be run");
    }
}

#[test]
fn cases_go_as_their_scripts_say() {
    check("case");
}

#[test]
fn queues_go_as_their_scripts_say() {
    check("queue");
}

#[test]
fn channels_go_as_their_scripts_say() {
    check("channel");
}

#[test]
fn the_directory_goes_as_its_scripts_say() {
    check("directory");
}

pub struct Runner {
    pub world: World,
    /// Script name → case id.
    names: BTreeMap<String, String>,
    /// Script name → booking.
    pub bookings: BTreeMap<String, BookingRef>,
}

/// Arguments by key, with what is left positional.
pub struct Args<'a> {
    keys: BTreeMap<&'a str, &'a str>,
    positions: std::vec::IntoIter<&'a str>,
}

impl<'a> Args<'a> {
    fn of(command: &'a Command) -> Self {
        let keys =
            command.args.iter().filter_map(|arg| arg.key.as_deref().map(|key| (key, arg.value.as_str())));
        let positions: Vec<_> =
            command.args.iter().filter(|arg| arg.key.is_none()).map(|arg| arg.value.as_str()).collect();
        Self { keys: keys.collect(), positions: positions.into_iter() }
    }

    pub fn next(&mut self) -> Result<&'a str, String> {
        self.positions.next().ok_or_else(|| "an argument is missing".to_owned())
    }

    pub fn take(&mut self, key: &str) -> &'a str {
        self.keys.remove(key).unwrap_or_default()
    }

    pub fn list(&mut self, key: &str) -> Vec<String> {
        self.take(key).split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn end(mut self) -> Result<(), String> {
        match (self.keys.pop_first(), self.positions.next()) {
            (None, None) => Ok(()),
            (Some((key, _)), _) => Err(format!("unknown argument {key}")),
            (None, Some(extra)) => Err(format!("one argument too many: {extra}")),
        }
    }
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = Args::of(command);
        let mut output = match command.name.as_str() {
            "now" => {
                self.world.advance_to(moment(args.next()?));
                String::new()
            }
            "as" => {
                let (kind, id) = args.next()?.split_once('/').ok_or("kind/id")?;
                self.world.origin = origin(kind, id, args.take("ws"));
                String::new()
            }
            "timers" => {
                let timers = self.world.timers();
                timers
                    .iter()
                    .map(|(due, entity, name)| {
                        format!("{} {} {name}\n", local(*due), self.world.show(entity))
                    })
                    .collect()
            }
            "office" | "window" | "person" | "remove-office" | "remove-window" | "remove-person" => {
                let command = directory_command(&command.name, &mut args)?;
                match self.world.directory(&command) {
                    Ok(directory::Reply::Version(version)) => format!("version {version}\n"),
                    Ok(directory::Reply::None) => unreachable!("commands are answered"),
                    Err(refusal) => refused(&refusal),
                }
            }
            "open" => self.open(&mut args)?,
            "add" | "remove" | "step" => self.case(&command.name, &mut args)?,
            "show" => self.show(args.next()?)?,
            "level" => {
                self.world.level = args.next()?.parse()?;
                String::new()
            }
            "take-over" => self.case(&command.name, &mut args)?,
            "after" | "term" | "process" | "ask" | "give-up" | "bodies" | "channel" | "take" | "settle"
            | "lapse" | "letter" | "assign" | "drop" | "steer" | "redrive" | "discard" | "backlog" => {
                crate::channels::run(&mut self.world, &self.names, &command.name, &mut args)?
            }
            other => self.queue(other, &mut args)?,
        };
        args.end()?;
        for line in self.world.log.drain(..) {
            output.push_str(&format!("  {line}\n"));
        }
        Ok(output)
    }
}

impl Runner {
    fn open(&mut self, args: &mut Args<'_>) -> Result<String, Box<dyn Error>> {
        let name = args.next()?.to_owned();
        let (service, office) = (args.take("service").to_owned(), args.take("office").to_owned());
        let command = case::Command::Open {
            office: if office.is_empty() { "tikhaya".into() } else { office },
            service: if service.is_empty() { "paper".into() } else { service },
            ticket: ticket(args)?,
            note: String::new(),
            applicants: applicants(args)?,
        };
        let (id, reply) = self.world.open(&command);
        Ok(match reply {
            Ok(reply) => {
                self.names.insert(name, id);
                show_reply(&reply)
            }
            Err(refusal) => refused(&refusal),
        })
    }

    fn case(&mut self, name: &str, args: &mut Args<'_>) -> Result<String, Box<dyn Error>> {
        let case = args.next()?;
        let id = self.names.get(case).cloned().unwrap_or_else(|| case.to_owned());
        let command = match name {
            "add" => case::Command::AddDocument {
                kind: args.next()?.into(),
                form: if args.take("form") == "copy" { DocumentForm::Copy } else { DocumentForm::Original },
                sheets: args.take("sheets").parse().unwrap_or(1),
                reference: args.take("reference").into(),
                note: args.take("note").into(),
            },
            "take-over" => case::Command::TakeOver,
            "remove" => case::Command::RemoveDocument { document: args.next()?.parse()? },
            _ => case::Command::Advance { step: step(args)? },
        };
        Ok(self
            .world
            .case(&id, &command)
            .map_or_else(|refusal| refused(&refusal), |reply| show_reply(&reply)))
    }

    fn show(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let id = self.names.get(name).ok_or("no such case")?;
        Ok(show_case(&self.world.cases[id].state))
    }
}

fn directory_command(name: &str, args: &mut Args<'_>) -> Result<directory::Command, Box<dyn Error>> {
    let first = args.next()?.to_owned();
    Ok(match name {
        "office" => directory::Command::PutOffice(Office {
            code: first,
            name: args.take("name").into(),
            utc_offset_minutes: args.take("offset").parse().unwrap_or(420),
            kiosks: args.list("kiosks"),
            priority_categories: args.list("categories"),
            ..Office::default()
        }),
        "window" => directory::Command::PutWindow(Window {
            office: first,
            number: args.next()?.into(),
            ticket_groups: args.list("groups"),
            workstation: args.take("workstation").into(),
        }),
        "person" => directory::Command::PutPerson(Person {
            id: first,
            name: args.take("name").into(),
            role: Role::parse(args.take("role")).ok_or("which role?")?,
            offices: args.list("offices"),
        }),
        "remove-office" => directory::Command::RemoveOffice { code: first },
        "remove-window" => directory::Command::RemoveWindow { office: first, number: args.next()?.into() },
        _ => directory::Command::RemovePerson { id: first },
    })
}

fn step(args: &mut Args<'_>) -> Result<Step, Box<dyn Error>> {
    let mut text = |key: &str| args.take(key).to_owned();
    let reason = text("reason");
    let (reference, note) = (text("reference"), text("note"));
    Ok(match args.next()? {
        "accept" => Step::Accept,
        "request-interagency" => Step::RequestInteragency {
            authority: args.take("authority").into(),
            subject: args.take("subject").into(),
        },
        "interagency-answered" => Step::InteragencyAnswered {
            request: args.take("request").parse()?,
            answer: args.take("answer").into(),
        },
        "send-to-authority" => Step::SendToAuthority { register_number: args.take("register").into() },
        "suspend" => {
            let days = args.take("days").parse().ok();
            Step::Suspend { reason, term: days.map(|days| Term { days, kind: DayKind::Calendar }) }
        }
        "resume" => Step::Resume { note },
        "receive-result" => Step::ReceiveResult { reference, note },
        "receive-refusal" => Step::ReceiveRefusal { reason, reference },
        "make-ready" => Step::MakeReady { note },
        "issue" => {
            Step::Issue { received_by: args.take("to").into(), paper_copy: args.take("copy") == "paper" }
        }
        "withdraw" => Step::Withdraw { reason },
        "mark-unclaimed" => Step::MarkUnclaimed,
        "archive" => Step::Archive,
        other => return Err(format!("unknown step {other}").into()),
    })
}

pub fn ticket(args: &mut Args<'_>) -> Result<Option<TicketRef>, Box<dyn Error>> {
    let (number, day) = (args.take("ticket"), args.take("day"));
    let day = if day.is_empty() { "2026-03-02" } else { day };
    Ok(if number.is_empty() { None } else { Some(TicketRef { day: day.parse()?, number: number.into() }) })
}

/// One applicant of the kind asked for, or nobody; `for=represented` puts a representative before a person.
fn applicants(args: &mut Args<'_>) -> Result<Vec<Applicant>, Box<dyn Error>> {
    let name =
        || PersonName {
            last_name: "Образцов".into(), first_name: "Пётр".into(), middle_name: String::new()
        };
    let identity = |kind: &str, series: &str, number: &str| IdentityDocument {
        kind: kind.into(),
        series: series.into(),
        number: number.into(),
        ..IdentityDocument::default()
    };
    let authority = || PowerOfAttorney { number: "77/1".into(), ..PowerOfAttorney::default() };
    let text = |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
    let (snils, inn) = (args.take("snils"), args.take("inn"));
    let person = okno_domain::people::Person {
        name: name(),
        snils: text(snils, "112-233-445 95"),
        inn: inn.into(),
        identity: Some(identity("passport", "0000", text(args.take("passport"), "123456").as_str())),
        ..okno_domain::people::Person::default()
    };
    Ok(vec![match args.take("by") {
        "nobody" => return Ok(Vec::new()),
        "" | "person" => Applicant::Person(person),
        "foreigner" => Applicant::ForeignPerson(ForeignPerson {
            name: name(),
            citizenship: text(args.take("citizenship"), "KAZ"),
            identity: Some(identity("foreign_passport", "N", "12345678")),
            ..ForeignPerson::default()
        }),
        "trader" => Applicant::SoleTrader(SoleTrader {
            name: name(),
            inn: text(inn, "990000000115"),
            ogrnip: text(args.take("ogrnip"), "399990000000002"),
            ..SoleTrader::default()
        }),
        "entity" => Applicant::LegalEntity(LegalEntity {
            name: "ООО «Образец»".into(),
            inn: text(inn, "9900000017"),
            ogrn: text(args.take("ogrn"), "1999900000000"),
            kpp: text(args.take("kpp"), "990001001"),
            ..LegalEntity::default()
        }),
        "foreign-entity" => Applicant::ForeignEntityRepresentative(ForeignEntityRepresentative {
            name: name(),
            organisation: "Sample Ltd".into(),
            country: text(args.take("citizenship"), "CHN"),
            registration_number: "SAMPLE-1".into(),
            authority: authority(),
            ..ForeignEntityRepresentative::default()
        }),
        "representative" => Applicant::AuthorisedRepresentative(AuthorisedRepresentative {
            name: PersonName { last_name: "Заступников".into(), ..PersonName::default() },
            snils: "087-654-303 00".into(),
            identity: None,
            authority: authority(),
            contact: okno_domain::people::Contact::default(),
            principal: Box::new(Applicant::Person(person)),
        }),
        other => return Err(format!("unknown kind of applicant {other}").into()),
    }])
}

pub fn refused(refusal: &Refusal) -> String {
    let details: String = refusal.details.iter().map(|(key, value)| format!(" {key}={value:?}")).collect();
    format!("refused {}{details}\n", refusal.reason)
}

pub fn show_reply(reply: &case::Reply) -> String {
    let warnings =
        |all: &[String]| all.iter().map(|warning| format!("warning {warning}\n")).collect::<String>();
    match reply {
        case::Reply::None => unreachable!("commands are answered"),
        case::Reply::Opened { state, warnings: all } => format!("{}\n{}", state.name(), warnings(all)),
        case::Reply::DocumentAdded { document } => format!("document {document}\n"),
        case::Reply::DocumentRemoved => "removed\n".into(),
        case::Reply::TakenOver { officer, before } => format!("taken over by {officer} from {before:?}\n"),
        case::Reply::Asked { asking, state } => format!("ask {asking} · {}\n", state.name()),
        case::Reply::Advanced(advanced) => {
            let mut line = format!("{}. {}", advanced.step, advanced.state.name());
            if let Some(deadline) = advanced.deadline {
                line.push_str(&format!(" · deadline {deadline}"));
            }
            if let Some(mark) = &advanced.provisional {
                line.push_str(&format!(" ({mark})"));
            }
            if advanced.request > 0 {
                line.push_str(&format!(" · request {}", advanced.request));
            }
            format!("{line}\n{}", warnings(&advanced.warnings))
        }
    }
}

fn show_case(case: &Case) -> String {
    let head = case.head();
    let mut text =
        format!("{} of {} in {}: {:?}\n", case.state().name(), head.service, head.office, head.life);
    for applicant in case.applicants() {
        text.push_str(&format!("applicant {}\n", applicant.display_name()));
    }
    if let Some(due) = &head.due {
        let verified = if due.verified { "" } else { ", not verified" };
        text.push_str(&format!(
            "accepted on {} by catalogue {}; authority until {}, office until {}{verified}\n",
            due.accepted_on, due.catalogue_version, due.deadlines.execution.date, due.deadlines.ready.date
        ));
    }
    for mark in Mark::ALL {
        if let Some(at) = *head.marks.clone().get_mut(mark) {
            text.push_str(&format!("mark {} since {}\n", mark.timer(), local(at)));
        }
    }
    if let Some(link) = &head.ticket {
        text.push_str(&format!("ticket {} {}: {:?}\n", link.ticket.day, link.ticket.number, link.answer));
    }
    if let Some(officer) = case.officer() {
        let how = if officer.by_load { "given by load" } else { "taken over" };
        text.push_str(&format!("officer {}: {how} at {}\n", officer.officer, local(officer.since_ms)));
    }
    for document in case.documents() {
        text.push_str(&format!(
            "document {} {} {} {} sheets, by {}\n",
            document.number,
            document.kind,
            document.form.name(),
            document.sheets,
            document.added_by.id
        ));
    }
    for request in case.requests() {
        let answered =
            request.answered_ms.map_or_else(|| "open".into(), |at| format!("answered {}", local(at)));
        text.push_str(&format!("request {} to {}: {answered}\n", request.number, request.authority));
    }
    crate::channels::show_dealings(case, &mut text);
    for step in case.steps() {
        let stamp = &step.stamp;
        text.push_str(&format!(
            "{}. {} {} → {} at {} by {}/{} ws={} window={}\n",
            step.number,
            step.step.name(),
            step.from.name(),
            step.to.name(),
            local(stamp.at_ms),
            stamp.by.kind,
            stamp.by.id,
            stamp.workstation,
            stamp.window
        ));
    }
    debug_assert_ne!(case.state(), State::Unopened);
    text
}
