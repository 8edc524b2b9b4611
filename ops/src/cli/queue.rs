//! `oknoctl queue …`

use super::{
    Failure, Session,
    output::{self, moment, plain, table},
};
use clap::{Args, Subcommand, ValueEnum};
use okno_client::{
    read_error,
    v1::{
        BeginServiceRequest, CallNextRequest, Desk, FinishServiceRequest, GetQueueStatisticsRequest,
        ListDesksRequest, ListTicketsRequest, ListTicketsResponse, QueueTally, TakeTicketRequest, Ticket,
        TicketRef, TicketState, VisitOutcome, VisitPurpose, WatchQueueRequest,
    },
};

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
        /// waiting, called, in-service, finished, put-off, closed; may be repeated
        #[arg(long = "state", value_parser = state)]
        states: Vec<TicketState>,
    },
    /// The windows of an office, with whom they have
    Windows {
        #[arg(long)]
        office: String,
    },
    /// Statistics of a period: counts, waiting and service, by hour, service, window and officer
    Statistics {
        #[arg(long)]
        office: String,
        /// The first day
        #[arg(long, value_name = "YYYY-MM-DD")]
        from: String,
        /// The last day
        #[arg(long, value_name = "YYYY-MM-DD")]
        to: String,
    },
    /// Everything that happened to an office's tickets, from the journal: one line an event
    Export {
        #[arg(long)]
        office: String,
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
    let request = ListTicketsRequest {
        read: session.read(),
        office,
        states: states.into_iter().map(Into::into).collect(),
        page_size: 0,
        page_token: String::new(),
    };
    let response = every_page!(session, request, tickets);
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
        .ok_or_else(|| "expected waiting, called, in-service, finished, put-off or closed".to_owned())
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
        QueueCommand::Windows { office } => {
            let request = ListDesksRequest { read: session.read(), office, window: String::new() };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                table(["WINDOW", "STATE", "ATTENDED", "OFFICER", "TICKET"], r.desks.iter().map(window_row))
            });
        }
        QueueCommand::Statistics { office, from, to } => {
            let request = GetQueueStatisticsRequest { read: session.read(), office, from, to };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                let all = r.all.iter().map(|tally| tally_row("all", "", tally));
                let mut rows: Vec<_> = all.collect();
                for (what, tallies) in [
                    ("hour", &r.hours),
                    ("service", &r.services),
                    ("window", &r.windows),
                    ("officer", &r.officers),
                ] {
                    let mut sorted: Vec<_> = tallies.iter().collect();
                    sorted.sort_by_key(|(key, _)| key.as_str());
                    rows.extend(sorted.into_iter().map(|(key, tally)| tally_row(what, key, tally)));
                }
                table(
                    [
                        "BY",
                        "OF",
                        "VISITS",
                        "SERVED",
                        "DID NOT COME",
                        "LEFT",
                        "UNSERVED",
                        "IN NORM",
                        "WAIT",
                        "WAIT P90",
                        "SERVICE",
                        "SERVICE P90",
                    ],
                    rows,
                )
            });
        }
        QueueCommand::Export { office } => {
            let request = WatchQueueRequest { office, ..WatchQueueRequest::default() };
            let mut stream = session.client.watch_queue(session.endpoint(), request).await?;
            while let Some(told) = stream.message().await.map_err(|status| read_error(&status))? {
                output::print_line(session.format, &told, |told| {
                    let event = told.event.as_ref()?;
                    let kind = plain(event.kind().as_str_name(), "OUTSIDE_KIND_");
                    Some(format!("{} {} {kind} {}", moment(event.at.as_ref()), event.ticket, event.window))
                });
            }
        }
    }
    Ok(())
}

fn window_row(desk: &Desk) -> [String; 5] {
    let attended = match (desk.unattended, desk.attached) {
        (true, _) => "lost",
        (false, true) => "yes",
        (false, false) => "",
    };
    let ticket = desk
        .ticket
        .as_ref()
        .map(|ticket| format!("{} {}", ticket.number, plain(ticket.state().as_str_name(), "TICKET_STATE_")));
    [
        desk.window.clone(),
        plain(desk.state().as_str_name(), "DESK_STATE_"),
        attended.to_owned(),
        desk.officer.clone(),
        ticket.unwrap_or_default(),
    ]
}

fn tally_row(what: &str, key: &str, tally: &QueueTally) -> [String; 12] {
    // Whole seconds: what is counted is people's time.
    let seconds = |ms: Option<u64>| ms.map_or_else(String::new, |ms| format!("{} s", ms / 1_000));
    let in_norm = if tally.called == 0 {
        String::new()
    } else {
        format!("{} %", u64::from(tally.in_norm) * 100 / u64::from(tally.called))
    };
    [
        what.to_owned(),
        key.to_owned(),
        tally.visits.to_string(),
        tally.served.to_string(),
        tally.did_not_come.to_string(),
        tally.left.to_string(),
        tally.unserved.to_string(),
        in_norm,
        seconds(tally.wait_average_ms),
        seconds(tally.wait_p90_ms),
        seconds(tally.service_average_ms),
        seconds(tally.service_p90_ms),
    ]
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
