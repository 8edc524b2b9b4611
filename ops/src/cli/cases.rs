//! `oknoctl case …`

use super::{
    Failure, Session,
    output::{self, facts, moment, plain, table},
    queue,
};
use clap::{Args, Subcommand, ValueEnum};
use okno_client::{
    CaseWatch,
    v1::{
        AcceptStep, AddDocumentRequest, AdvanceCaseRequest, Applicant, ArchiveStep, Case, CaseFilter,
        CaseOutcome, CaseState, Contact, DayKind, Deadline, DocumentForm, GetCaseHistoryRequest,
        GetCaseRequest, IdentityDocument, InteragencyAnsweredStep, IssueStep, JournalEvent, ListCasesRequest,
        MakeReadyStep, MarkUnclaimedStep, OpenCaseRequest, Person, PersonName, ReceiveRefusalStep,
        ReceiveResultStep, RemoveDocumentRequest, RequestInteragencyStep, ResumeStep, SendToAuthorityStep,
        SuspendStep, Term, WatchCasesRequest, WatchCasesResponse, WithdrawStep, advance_case_request::Step,
        applicant, case_filter, watch_cases_response,
    },
};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum CaseCommand {
    /// Open a draft
    Open(OpenArgs),
    /// Add an entry for a document
    AddDocument(DocumentArgs),
    /// Take an entry back while the case is a draft
    RemoveDocument { case: String, number: u32 },
    /// Take a step of the life cycle
    Advance(AdvanceArgs),
    /// Show a case
    Show { case: String },
    /// List cases by applicant, office and state, or deadline
    List(ListArgs),
    /// Everything that happened to a case
    History { case: String },
    /// Follow changes
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Code of the office
    #[arg(long)]
    office: String,
    /// Code of the service in the catalogue
    #[arg(long)]
    service: String,
    /// File with an applicant in JSON as in okno.v1.Applicant; may be repeated
    #[arg(long = "applicant", value_name = "FILE")]
    applicants: Vec<PathBuf>,
    /// A citizen: last, first and middle name
    #[arg(long, value_name = "NAME", required_unless_present = "applicants", requires = "snils")]
    person: Option<String>,
    /// The citizen's СНИЛС
    #[arg(long, requires = "person")]
    snils: Option<String>,
    /// The citizen's date of birth
    #[arg(long, requires = "person", value_name = "YYYY-MM-DD")]
    birth_date: Option<String>,
    /// The citizen's ИНН
    #[arg(long, requires = "person")]
    inn: Option<String>,
    /// Series and number of the citizen's passport
    #[arg(long, requires = "person", value_name = "SERIES NUMBER")]
    passport: Option<String>,
    /// The citizen's telephone
    #[arg(long, requires = "person")]
    phone: Option<String>,
    /// The ticket the visitor came with, e.g. А015
    #[arg(long)]
    ticket: Option<String>,
    /// Day of the ticket; the latest one of that number unless given
    #[arg(long, requires = "ticket", value_name = "YYYY-MM-DD")]
    ticket_day: Option<String>,
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Debug, Args)]
pub struct DocumentArgs {
    case: String,
    /// Kind as the catalogue names it
    #[arg(long)]
    kind: String,
    #[arg(long, value_enum, default_value_t = Form::Original)]
    form: Form,
    #[arg(long, default_value_t = 1)]
    sheets: u32,
    /// Series, number and date
    #[arg(long, default_value = "")]
    reference: String,
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Original,
    Copy,
}

#[derive(Debug, Args)]
pub struct AdvanceArgs {
    case: String,
    #[command(subcommand)]
    step: StepCommand,
}

#[derive(Debug, Subcommand)]
enum StepCommand {
    /// Take the documents in: the term starts
    Accept,
    /// Ask another authority
    RequestInteragency {
        #[arg(long)]
        authority: String,
        #[arg(long)]
        subject: String,
    },
    /// Record another authority's answer
    InteragencyAnswered {
        /// Number of the request within the case
        #[arg(long)]
        number: u32,
        #[arg(long, default_value = "")]
        answer: String,
    },
    /// Send the set to the authority that decides
    SendToAuthority {
        /// Number of the transfer register
        #[arg(long, default_value = "")]
        register: String,
    },
    /// Pause the term
    Suspend {
        /// Code of one of the service's suspension reasons
        #[arg(long)]
        reason: String,
        /// Where the act leaves the term to the authority
        #[arg(long)]
        days: Option<u32>,
        #[arg(long, value_enum, default_value_t = Days::Working, requires = "days")]
        day_kind: Days,
    },
    /// Let the term run on
    Resume {
        #[arg(long, default_value = "")]
        note: String,
    },
    /// The authority's result has come
    ReceiveResult {
        /// Number and date
        #[arg(long)]
        reference: String,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// The authority has refused the service
    ReceiveRefusal {
        #[arg(long)]
        reason: String,
        #[arg(long, default_value = "")]
        reference: String,
    },
    /// The result lies ready for the applicant
    MakeReady {
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Hand the result over
    Issue {
        /// Who received it
        #[arg(long)]
        to: String,
        /// A paper copy of an electronic result
        #[arg(long)]
        paper_copy: bool,
    },
    /// The applicant takes the application back
    Withdraw {
        #[arg(long)]
        reason: String,
    },
    /// Nobody came for the result
    MarkUnclaimed,
    /// Close the case for good
    Archive,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Days {
    Working,
    Calendar,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// СНИЛС, ИНН, or series and number of an identity document
    #[arg(long, conflicts_with_all = ["office", "state", "due_from", "due_to"])]
    applicant: Option<String>,
    #[arg(long)]
    office: Option<String>,
    /// draft, accepted, interagency, at-authority, suspended, result-received, refused, ready-for-issue, issued,
    /// withdrawn, unclaimed, archived
    #[arg(long, value_parser = state, conflicts_with_all = ["due_from", "due_to"])]
    state: Option<CaseState>,
    /// Deadline not before this day
    #[arg(long, value_name = "YYYY-MM-DD")]
    due_from: Option<String>,
    /// Deadline not after this day
    #[arg(long, value_name = "YYYY-MM-DD")]
    due_to: Option<String>,
    /// Cases to a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    page_size: u32,
    /// The page after an earlier one of the same list
    #[arg(long, default_value = "")]
    page_token: String,
    /// Fetch every page
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// One case; all unless given
    case: Option<String>,
    #[arg(long, default_value = "")]
    office: String,
    /// Go on behind this change
    #[arg(long, default_value = "")]
    resume: String,
    /// End after so many changes
    #[arg(long)]
    count: Option<u64>,
}

fn state(text: &str) -> Result<CaseState, String> {
    CaseState::from_str_name(&format!("CASE_STATE_{}", text.to_uppercase().replace('-', "_")))
        .filter(|state| *state != CaseState::Unspecified)
        .ok_or_else(|| "expected a state such as draft, at-authority or ready-for-issue".to_owned())
}

pub async fn run(session: &Session, command: CaseCommand) -> Result<(), Failure> {
    match command {
        CaseCommand::Open(args) => open(session, args).await,
        CaseCommand::AddDocument(args) => add_document(session, args).await,
        CaseCommand::RemoveDocument { case, number } => {
            let request =
                RemoveDocumentRequest { meta: session.meta(), case_id: case, document_number: number };
            let response = session.call(request).await?;
            output::print(session.format, &response, |_| format!("document {number} removed"));
            Ok(())
        }
        CaseCommand::Advance(args) => advance(session, args).await,
        CaseCommand::Show { case } => {
            let response = session.call(GetCaseRequest { read: session.read(), case_id: case }).await?;
            output::print(session.format, &response, |r| {
                let served = r.meta.as_ref().map_or(0, |m| m.served_by);
                r.case.as_ref().map(|case| show(case, served)).unwrap_or_default()
            });
            Ok(())
        }
        CaseCommand::List(args) => list(session, args).await,
        CaseCommand::History { case } => history(session, case).await,
        CaseCommand::Watch(args) => watch(session, args).await,
    }
}

async fn open(session: &Session, args: OpenArgs) -> Result<(), Failure> {
    let mut applicants =
        args.applicants.iter().map(|path| applicant_file(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(name) = &args.person {
        applicants.insert(0, person(name, &args)?);
    }
    let ticket = match args.ticket {
        None => None,
        Some(number) => Some(queue::ticket_ref(session, &args.office, number, args.ticket_day).await?),
    };
    let request = OpenCaseRequest {
        meta: session.meta(),
        office: args.office,
        service: args.service,
        applicants,
        ticket,
        note: args.note,
    };
    let response = session.call(request).await?;
    output::print(session.format, &response, |r| {
        let mut text =
            format!("case {} opened: {}", r.case_id, plain(r.state().as_str_name(), "CASE_STATE_"));
        warnings(&mut text, &r.warnings);
        text
    });
    Ok(())
}

fn applicant_file(path: &Path) -> Result<Applicant, Failure> {
    let usage = |cause: String| Failure::Usage(format!("{}: {cause}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| usage(error.to_string()))?;
    output::from_json(&text).map_err(usage)
}

fn person(name: &str, args: &OpenArgs) -> Result<Applicant, Failure> {
    let mut words = name.split_whitespace();
    let name = PersonName {
        last_name: words.next().unwrap_or_default().to_owned(),
        first_name: words.next().unwrap_or_default().to_owned(),
        middle_name: words.collect::<Vec<_>>().join(" "),
    };
    let identity = match &args.passport {
        None => None,
        Some(text) => {
            let (series, number) = text.rsplit_once(' ').ok_or_else(|| {
                Failure::Usage(format!(
                    "--passport {text:?}: expected series and number, e.g. \"1234 567890\""
                ))
            })?;
            Some(IdentityDocument {
                kind: "passport".to_owned(),
                series: series.to_owned(),
                number: number.to_owned(),
                ..IdentityDocument::default()
            })
        }
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let contact = args.phone.as_ref().map(|phone| Contact { phone: phone.clone(), ..Contact::default() });
    Ok(Applicant {
        kind: Some(applicant::Kind::Person(Person {
            name: Some(name),
            birth_date: text(&args.birth_date),
            snils: text(&args.snils),
            inn: text(&args.inn),
            identity,
            contact,
        })),
    })
}

async fn add_document(session: &Session, args: DocumentArgs) -> Result<(), Failure> {
    let form = match args.form {
        Form::Original => DocumentForm::Original,
        Form::Copy => DocumentForm::Copy,
    };
    let request = AddDocumentRequest {
        meta: session.meta(),
        case_id: args.case,
        kind: args.kind,
        form: form.into(),
        sheets: args.sheets,
        reference: args.reference,
        note: args.note,
    };
    let response = session.call(request).await?;
    output::print(session.format, &response, |r| format!("document {} added", r.document_number));
    Ok(())
}

async fn advance(session: &Session, args: AdvanceArgs) -> Result<(), Failure> {
    let request =
        AdvanceCaseRequest { meta: session.meta(), case_id: args.case, step: Some(step(args.step)) };
    let response = session.call(request).await?;
    output::print(session.format, &response, |r| {
        let mut text = format!("case is {}", plain(r.state().as_str_name(), "CASE_STATE_"));
        if let Some(deadline) = &r.deadline {
            text.push_str(&format!("; due {}", due(deadline)));
        }
        if r.interagency_number != 0 {
            text.push_str(&format!("; request {}", r.interagency_number));
        }
        warnings(&mut text, &r.warnings);
        text
    });
    Ok(())
}

fn step(command: StepCommand) -> Step {
    match command {
        StepCommand::Accept => Step::Accept(AcceptStep {}),
        StepCommand::RequestInteragency { authority, subject } => {
            Step::RequestInteragency(RequestInteragencyStep { authority, subject })
        }
        StepCommand::InteragencyAnswered { number, answer } => {
            Step::InteragencyAnswered(InteragencyAnsweredStep { number, answer })
        }
        StepCommand::SendToAuthority { register } => {
            Step::SendToAuthority(SendToAuthorityStep { register_number: register })
        }
        StepCommand::Suspend { reason, days, day_kind } => {
            let kind = match day_kind {
                Days::Working => DayKind::Working,
                Days::Calendar => DayKind::Calendar,
            };
            Step::Suspend(SuspendStep { reason, term: days.map(|days| Term { days, kind: kind.into() }) })
        }
        StepCommand::Resume { note } => Step::Resume(ResumeStep { note }),
        StepCommand::ReceiveResult { reference, note } => {
            Step::ReceiveResult(ReceiveResultStep { reference, note })
        }
        StepCommand::ReceiveRefusal { reason, reference } => {
            Step::ReceiveRefusal(ReceiveRefusalStep { reason, reference })
        }
        StepCommand::MakeReady { note } => Step::MakeReady(MakeReadyStep { note }),
        StepCommand::Issue { to, paper_copy } => Step::Issue(IssueStep { received_by: to, paper_copy }),
        StepCommand::Withdraw { reason } => Step::Withdraw(WithdrawStep { reason }),
        StepCommand::MarkUnclaimed => Step::MarkUnclaimed(MarkUnclaimedStep {}),
        StepCommand::Archive => Step::Archive(ArchiveStep {}),
    }
}

async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let by = if let Some(applicant) = args.applicant {
        case_filter::By::Applicant(applicant)
    } else if args.due_from.is_some() || args.due_to.is_some() {
        case_filter::By::Deadline(case_filter::DeadlineFilter {
            office: args.office.unwrap_or_default(),
            from: args.due_from.unwrap_or_default(),
            to: args.due_to.unwrap_or_default(),
        })
    } else if args.office.is_some() || args.state.is_some() {
        case_filter::By::Office(case_filter::OfficeFilter {
            office: args.office.unwrap_or_default(),
            state: args.state.unwrap_or_default().into(),
        })
    } else {
        return Err(Failure::Usage(
            "list by --applicant, --office, --state, --due-from or --due-to".to_owned(),
        ));
    };
    let request = ListCasesRequest {
        read: session.read(),
        filter: Some(CaseFilter { by: Some(by) }),
        page_size: args.page_size,
        page_token: args.page_token,
    };
    let response =
        if args.all { every_page!(session, request, cases) } else { session.call(request).await? };
    output::print(session.format, &response, |r| {
        let rows = r.cases.iter().map(|case| {
            [
                case.case_id.clone(),
                case.office.clone(),
                case.service.clone(),
                plain(case.state().as_str_name(), "CASE_STATE_"),
                case.applicant.clone(),
                case.documents.to_string(),
                case.deadline.as_ref().map(due).unwrap_or_default(),
                moment(case.opened_at.as_ref()),
            ]
        });
        let mut text =
            table(["CASE", "OFFICE", "SERVICE", "STATE", "APPLICANT", "DOCS", "DUE", "OPENED"], rows);
        if !r.next_page_token.is_empty() {
            text.push_str(&format!("\nmore: --page-token {}", r.next_page_token));
        }
        text
    });
    Ok(())
}

async fn history(session: &Session, case: String) -> Result<(), Failure> {
    let request = GetCaseHistoryRequest {
        read: session.read(),
        case_id: case,
        page_size: 0,
        page_token: String::new(),
    };
    let response = every_page!(session, request, events);
    output::print(session.format, &response, |r| {
        let rows = r.events.iter().map(|e| [e.index.to_string(), moment(e.time.as_ref()), actor(e), what(e)]);
        table(["INDEX", "TIME", "BY", "WHAT"], rows)
    });
    Ok(())
}

async fn watch(session: &Session, args: WatchArgs) -> Result<(), Failure> {
    let request = WatchCasesRequest {
        case_id: args.case.unwrap_or_default(),
        office: args.office,
        resume_token: args.resume,
    };
    let mut watch = CaseWatch::new(session.client.clone(), request);
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let response = watch.next().await?;
        seen += u64::from(matches!(response.change, Some(watch_cases_response::Change::Changed(_))));
        output::print_line(session.format, &response, changed);
    }
    eprintln!("resume with --resume {}", watch.resume_token());
    Ok(())
}

/// One line for a change; progress is for machines.
fn changed(response: &WatchCasesResponse) -> Option<String> {
    let watch_cases_response::Change::Changed(changed) = response.change.as_ref()? else { return None };
    let event = changed.event.clone().unwrap_or_default();
    let state = plain(changed.state().as_str_name(), "CASE_STATE_");
    Some(format!(
        "{} {} {state} {} {}",
        moment(event.time.as_ref()),
        changed.case_id,
        actor(&event),
        what(&event)
    ))
}

fn actor(event: &JournalEvent) -> String {
    let Some(actor) = &event.actor else { return String::new() };
    let place = match (actor.workstation.as_str(), actor.window.as_str()) {
        ("", "") => String::new(),
        (workstation, "") => format!(" ({workstation})"),
        (workstation, window) => format!(" ({workstation}, window {window})"),
    };
    format!("{}/{}{place}", actor.kind, actor.id)
}

fn what(event: &JournalEvent) -> String {
    if event.text.is_empty() { event.kind.clone() } else { event.text.clone() }
}

fn warnings(text: &mut String, warnings: &[String]) {
    for warning in warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
}

/// The date with its marks: what is provisional or late must be seen wherever it is shown.
fn due(deadline: &Deadline) -> String {
    let mut text = deadline.date.clone();
    if deadline.passed {
        text.push_str(" PASSED");
    } else if deadline.near {
        text.push_str(" near");
    }
    if !deadline.provisional.is_empty() {
        text.push_str(&format!(" (provisional: {})", deadline.provisional));
    }
    text
}

fn show(case: &Case, served_by: u64) -> String {
    let applicants: Vec<_> = case.applicants.iter().map(applicant_line).collect();
    let ticket = case.ticket.as_ref().map(|t| format!("{} of {} ({})", t.number, t.day, case.ticket_link));
    let suspension = case.suspension.as_ref().map(|s| {
        let until = if s.until.is_empty() {
            "until the cause is gone".to_owned()
        } else {
            format!("until {}", s.until)
        };
        format!("{} since {} {until}", s.reason, s.since)
    });
    let outcome = if case.outcome() == CaseOutcome::Unspecified {
        String::new()
    } else {
        plain(case.outcome().as_str_name(), "CASE_OUTCOME_")
    };
    let mut marks = Vec::new();
    for (set, text) in [
        (case.term_unverified, "the service's term is not verified against its act"),
        (case.suspension_over, "the suspension is over"),
        (case.storage_over, "the result lies longer than its storage term"),
    ] {
        if set {
            marks.push(text);
        }
    }
    let mut text = facts([
        ("case", case.case_id.clone()),
        ("office", case.office.clone()),
        ("service", format!("{} {}", case.service, case.service_name)),
        ("state", plain(case.state().as_str_name(), "CASE_STATE_")),
        ("applicants", applicants.join("; ")),
        ("due", case.deadline.as_ref().map(due).unwrap_or_default()),
        ("authority due", case.authority_deadline.as_ref().map(due).unwrap_or_default()),
        ("suspended", suspension.unwrap_or_default()),
        ("reason", case.reason.clone()),
        ("outcome", outcome),
        ("reference", case.reference.clone()),
        ("keep until", case.keep_until.clone()),
        ("received by", case.received_by.clone()),
        ("ticket", ticket.unwrap_or_default()),
        ("opened", moment(case.opened_at.as_ref())),
        ("changed", moment(case.changed_at.as_ref())),
        ("note", case.note.clone()),
        ("marks", marks.join("; ")),
        ("warnings", case.warnings.join("; ")),
        ("read from", format!("node {served_by}")),
    ]);
    if !case.documents.is_empty() {
        let rows = case.documents.iter().map(|d| {
            [
                d.number.to_string(),
                d.kind.clone(),
                plain(d.form().as_str_name(), "DOCUMENT_FORM_"),
                d.sheets.to_string(),
                d.reference.clone(),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(["DOC", "KIND", "FORM", "SHEETS", "REFERENCE"], rows));
    }
    if !case.interagency_requests.is_empty() {
        let rows = case.interagency_requests.iter().map(|r| {
            let answered = if r.answered_at.is_some() { r.answer.clone() } else { "waiting".to_owned() };
            [
                r.number.to_string(),
                r.authority.clone(),
                r.subject.clone(),
                moment(r.sent_at.as_ref()),
                answered,
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(["REQUEST", "AUTHORITY", "SUBJECT", "SENT", "ANSWER"], rows));
    }
    if !case.steps.is_empty() {
        let rows = case.steps.iter().map(|s| {
            [
                s.number.to_string(),
                s.step.clone(),
                plain(s.to().as_str_name(), "CASE_STATE_"),
                moment(s.time.as_ref()),
                s.actor.as_ref().map(|a| format!("{}/{}", a.kind, a.id)).unwrap_or_default(),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(["STEP", "WHAT", "STATE", "TIME", "BY"], rows));
    }
    text
}

fn applicant_line(applicant: &Applicant) -> String {
    use applicant::Kind;
    let full = |name: &Option<PersonName>| {
        let name = name.clone().unwrap_or_default();
        [name.last_name, name.first_name, name.middle_name].join(" ").trim().to_owned()
    };
    match &applicant.kind {
        None => String::new(),
        Some(Kind::Person(p)) => format!("{} {}", full(&p.name), p.snils),
        Some(Kind::ForeignPerson(p)) => format!("{} ({})", full(&p.name), p.citizenship),
        Some(Kind::SoleTrader(t)) => format!("ИП {} {}", full(&t.name), t.inn),
        Some(Kind::LegalEntity(e)) => format!("{} {}", e.name, e.inn),
        Some(Kind::ForeignEntityRepresentative(r)) => {
            format!("{} for {} ({})", full(&r.name), r.organisation, r.country)
        }
        Some(Kind::AuthorisedRepresentative(r)) => {
            let principal = r.principal.as_deref().map(applicant_line).unwrap_or_default();
            format!("{} for {principal}", full(&r.name))
        }
    }
}
