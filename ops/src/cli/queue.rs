//! `oknoctl queue …`

use super::{
    Failure, Session,
    output::{self, moment, plain, table},
};
use clap::{Args, Subcommand, ValueEnum};
use okno_client::v1::{
    BeginServiceRequest, CallNextRequest, FinishServiceRequest, ListTicketsRequest, ListTicketsResponse,
    TakeTicketRequest, Ticket, TicketRef, TicketState, VisitOutcome, VisitPurpose,
};

/// Tickets of one office and day: 999 to a letter.
const PAGES_MAX: usize = 100;

#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Take a ticket
    Ticket {
        #[arg(long)]
        office: String,
        #[arg(long, value_enum, default_value_t = Purpose::Apply)]
        purpose: Purpose,
        /// Code of the service in the catalogue
        #[arg(long, default_value = "")]
        service: String,
        /// Category of citizens with calling priority
        #[arg(long, default_value = "")]
        category: String,
    },
    /// Call the next visitor to a window
    Call {
        #[arg(long)]
        office: String,
        #[arg(long)]
        window: String,
    },
    /// The called visitor has come
    Begin(TurnArgs),
    /// Done with the visitor
    Finish {
        #[command(flatten)]
        turn: TurnArgs,
        /// The called visitor did not come
        #[arg(long)]
        no_show: bool,
    },
    /// The tickets of an office's queue
    List {
        #[arg(long)]
        office: String,
        /// waiting, called, in-service, finished; may be repeated
        #[arg(long = "state", value_parser = state)]
        states: Vec<TicketState>,
    },
}

#[derive(Debug, Args)]
pub struct TurnArgs {
    /// Number of the ticket, e.g. А015
    ticket: String,
    /// Day of the ticket; the latest one of that number unless given
    #[arg(long, value_name = "YYYY-MM-DD")]
    day: Option<String>,
    #[arg(long)]
    office: String,
    #[arg(long)]
    window: String,
}

/// Names a ticket. Without a day it is the latest of that number in the queue: which day an office has depends on its
/// time zone, so this machine's date is no answer.
pub async fn ticket_ref(
    session: &Session,
    office: &str,
    number: String,
    day: Option<String>,
) -> Result<TicketRef, Failure> {
    if let Some(day) = day {
        return Ok(TicketRef { day, number });
    }
    let tickets = list(session, office.to_owned(), Vec::new()).await?.tickets;
    tickets
        .into_iter()
        .filter(|ticket| ticket.number == number)
        .map(|ticket| ticket.day)
        .max()
        .map(|day| TicketRef { day, number: number.clone() })
        .ok_or_else(|| Failure::Broken(format!("no ticket {number} in the queue of {office}")))
}

/// Every page of an office's tickets.
async fn list(
    session: &Session,
    office: String,
    states: Vec<TicketState>,
) -> Result<ListTicketsResponse, Failure> {
    let mut request = ListTicketsRequest {
        read: session.read(),
        office,
        states: states.into_iter().map(Into::into).collect(),
        page_size: 0,
        page_token: String::new(),
    };
    let mut response = session.call(request.clone()).await?;
    for _ in 1..PAGES_MAX {
        if response.next_page_token.is_empty() {
            break;
        }
        request.page_token.clone_from(&response.next_page_token);
        let mut page = session.call(request.clone()).await?;
        response.tickets.append(&mut page.tickets);
        response.next_page_token = page.next_page_token;
        response.meta = page.meta;
    }
    Ok(response)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Purpose {
    Apply,
    AskStatus,
    CollectResult,
    Other,
}

fn state(text: &str) -> Result<TicketState, String> {
    TicketState::from_str_name(&format!("TICKET_STATE_{}", text.to_uppercase().replace('-', "_")))
        .filter(|state| *state != TicketState::Unspecified)
        .ok_or_else(|| "expected waiting, called, in-service or finished".to_owned())
}

pub async fn run(session: &Session, command: QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::Ticket { office, purpose, service, category } => {
            let purpose = match purpose {
                Purpose::Apply => VisitPurpose::Apply,
                Purpose::AskStatus => VisitPurpose::AskStatus,
                Purpose::CollectResult => VisitPurpose::CollectResult,
                Purpose::Other => VisitPurpose::Other,
            };
            let request = TakeTicketRequest {
                meta: session.meta(),
                office,
                purpose: purpose.into(),
                service,
                category,
            };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                let ticket = r.ticket.clone().unwrap_or_default();
                format!("ticket {} of {}; {} before it", ticket.number, ticket.day, r.ahead)
            });
        }
        QueueCommand::Call { office, window } => {
            let response = session.call(CallNextRequest { meta: session.meta(), office, window }).await?;
            output::print(session.format, &response, |r| line(r.ticket.as_ref()));
        }
        QueueCommand::Begin(turn) => {
            let TurnArgs { ticket, day, office, window } = turn;
            let ticket = Some(ticket_ref(session, &office, ticket, day).await?);
            let response =
                session.call(BeginServiceRequest { meta: session.meta(), office, ticket, window }).await?;
            output::print(session.format, &response, |r| line(r.ticket.as_ref()));
        }
        QueueCommand::Finish { turn, no_show } => {
            let TurnArgs { ticket, day, office, window } = turn;
            let ticket = Some(ticket_ref(session, &office, ticket, day).await?);
            let outcome = if no_show { VisitOutcome::NoShow } else { VisitOutcome::Served };
            let request = FinishServiceRequest {
                meta: session.meta(),
                office,
                ticket,
                window,
                outcome: outcome.into(),
            };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| line(r.ticket.as_ref()));
        }
        QueueCommand::List { office, states } => {
            let response = list(session, office, states).await?;
            output::print(session.format, &response, |r| {
                let rows = r.tickets.iter().map(|t| {
                    [
                        t.number.clone(),
                        t.day.clone(),
                        plain(t.state().as_str_name(), "TICKET_STATE_"),
                        t.window.clone(),
                        plain(t.purpose().as_str_name(), "VISIT_PURPOSE_"),
                        t.service.clone(),
                        if t.priority { t.category.clone() } else { String::new() },
                        moment(t.taken_at.as_ref()),
                        t.case_ids.join(" "),
                    ]
                });
                table(
                    ["TICKET", "DAY", "STATE", "WINDOW", "PURPOSE", "SERVICE", "PRIORITY", "TAKEN", "CASES"],
                    rows,
                )
            });
        }
    }
    Ok(())
}

fn line(ticket: Option<&Ticket>) -> String {
    let Some(ticket) = ticket else { return String::new() };
    let window =
        if ticket.window.is_empty() { String::new() } else { format!(" at window {}", ticket.window) };
    format!(
        "ticket {} of {} is {}{window}",
        ticket.number,
        ticket.day,
        plain(ticket.state().as_str_name(), "TICKET_STATE_")
    )
}
