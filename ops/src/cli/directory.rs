//! `oknoctl directory …`

use super::{
    Failure, Session,
    output::{self, facts, table},
};
use clap::{Args, Subcommand};
use okno_client::v1::{
    GetOfficeRequest, GetPersonRequest, ListOfficesRequest, ListPeopleRequest, Office, OfficePerson,
    PutOfficeRequest, PutPersonRequest, PutWindowRequest, RemoveOfficeRequest, RemovePersonRequest,
    RemoveWindowRequest, Window,
};

#[derive(Debug, Subcommand)]
pub enum DirectoryCommand {
    /// Offices
    #[command(subcommand)]
    Office(OfficeCommand),
    /// Windows of an office
    #[command(subcommand)]
    Window(WindowCommand),
    /// People who work with the system
    #[command(subcommand)]
    Person(PersonCommand),
}

#[derive(Debug, Subcommand)]
pub enum OfficeCommand {
    /// Add or replace an office
    Put(OfficeArgs),
    /// Show an office with its windows, or list all offices
    Show { code: Option<String> },
    /// Remove an office that no window or person names
    Remove { code: String },
}

#[derive(Debug, Args)]
pub struct OfficeArgs {
    code: String,
    #[arg(long)]
    name: String,
    #[arg(long, default_value = "")]
    address: String,
    /// Code of the region whose holidays count with the country's
    #[arg(long, default_value = "")]
    region: String,
    /// IANA name, for people
    #[arg(long, default_value = "Europe/Moscow")]
    time_zone: String,
    /// Minutes ahead of UTC
    #[arg(long, default_value_t = 180, allow_negative_numbers = true)]
    utc_offset: i32,
    /// Ids of the kiosks that give out tickets here
    #[arg(long, value_delimiter = ',')]
    kiosks: Vec<String>,
    /// Categories of citizens called first here
    #[arg(long, value_delimiter = ',')]
    priority_categories: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum WindowCommand {
    /// Add or replace a window
    Put {
        office: String,
        number: String,
        /// Letters of the ticket groups it serves; all unless given
        #[arg(long, value_delimiter = ',')]
        groups: Vec<String>,
        /// Id of the workstation that stands there
        #[arg(long, default_value = "")]
        stands: String,
    },
    /// Remove a window
    Remove { office: String, number: String },
}

#[derive(Debug, Subcommand)]
pub enum PersonCommand {
    /// Add or replace a person
    Put {
        /// The id in the person's certificate
        id: String,
        #[arg(long)]
        name: String,
        /// officer, head, administrator or auditor
        #[arg(long, default_value = "officer")]
        role: String,
        /// Codes of the offices the person works in
        #[arg(long, value_delimiter = ',')]
        offices: Vec<String>,
    },
    /// Show a person, or list people
    Show {
        id: Option<String>,
        /// Only people of this office
        #[arg(long, default_value = "", conflicts_with = "id")]
        office: String,
    },
    /// Remove a person
    Remove { id: String },
}

pub async fn run(session: &Session, command: DirectoryCommand) -> Result<(), Failure> {
    match command {
        DirectoryCommand::Office(command) => office(session, command).await,
        DirectoryCommand::Window(command) => window(session, command).await,
        DirectoryCommand::Person(command) => person(session, command).await,
    }
}

fn version(version: u64) -> String {
    format!("directory version {version}")
}

async fn office(session: &Session, command: OfficeCommand) -> Result<(), Failure> {
    match command {
        OfficeCommand::Put(args) => {
            let office = Office {
                code: args.code,
                name: args.name,
                address: args.address,
                region: args.region,
                time_zone: args.time_zone,
                utc_offset_minutes: args.utc_offset,
                kiosks: args.kiosks,
                priority_categories: args.priority_categories,
            };
            let response =
                session.call(PutOfficeRequest { meta: session.meta(), office: Some(office) }).await?;
            output::print(session.format, &response, |r| version(r.version));
        }
        OfficeCommand::Remove { code } => {
            let response = session.call(RemoveOfficeRequest { meta: session.meta(), code }).await?;
            output::print(session.format, &response, |r| version(r.version));
        }
        OfficeCommand::Show { code: Some(code) } => {
            let response = session.call(GetOfficeRequest { read: session.read(), code }).await?;
            output::print(session.format, &response, |r| {
                let office = r.office.clone().unwrap_or_default();
                let text = facts([
                    ("code", office.code),
                    ("name", office.name),
                    ("address", office.address),
                    ("region", office.region),
                    ("time zone", format!("{} ({:+} min)", office.time_zone, office.utc_offset_minutes)),
                    ("kiosks", office.kiosks.join(", ")),
                    ("called first", office.priority_categories.join(", ")),
                ]);
                let rows = r
                    .windows
                    .iter()
                    .map(|w| [w.number.clone(), w.ticket_groups.join(" "), w.workstation.clone()]);
                format!("{text}\n\n{}", table(["WINDOW", "GROUPS", "WORKSTATION"], rows))
            });
        }
        OfficeCommand::Show { code: None } => {
            let request =
                ListOfficesRequest { read: session.read(), page_size: 0, page_token: String::new() };
            let response = every_page!(session, request, offices);
            output::print(session.format, &response, |r| {
                let rows = r.offices.iter().map(|o| {
                    [o.code.clone(), o.name.clone(), o.region.clone(), o.time_zone.clone(), o.address.clone()]
                });
                table(["CODE", "NAME", "REGION", "TIME ZONE", "ADDRESS"], rows)
            });
        }
    }
    Ok(())
}

async fn window(session: &Session, command: WindowCommand) -> Result<(), Failure> {
    match command {
        WindowCommand::Put { office, number, groups, stands } => {
            let window = Window { office, number, ticket_groups: groups, workstation: stands };
            let response =
                session.call(PutWindowRequest { meta: session.meta(), window: Some(window) }).await?;
            output::print(session.format, &response, |r| version(r.version));
        }
        WindowCommand::Remove { office, number } => {
            let response = session.call(RemoveWindowRequest { meta: session.meta(), office, number }).await?;
            output::print(session.format, &response, |r| version(r.version));
        }
    }
    Ok(())
}

async fn person(session: &Session, command: PersonCommand) -> Result<(), Failure> {
    match command {
        PersonCommand::Put { id, name, role, offices } => {
            let person = OfficePerson { person_id: id, name, role, offices };
            let response =
                session.call(PutPersonRequest { meta: session.meta(), person: Some(person) }).await?;
            output::print(session.format, &response, |r| version(r.version));
        }
        PersonCommand::Remove { id } => {
            let response = session.call(RemovePersonRequest { meta: session.meta(), person_id: id }).await?;
            output::print(session.format, &response, |r| version(r.version));
        }
        PersonCommand::Show { id: Some(id), .. } => {
            let response = session.call(GetPersonRequest { read: session.read(), person_id: id }).await?;
            output::print(session.format, &response, |r| people(r.person.as_slice()));
        }
        PersonCommand::Show { id: None, office } => {
            let request =
                ListPeopleRequest { read: session.read(), office, page_size: 0, page_token: String::new() };
            let response = every_page!(session, request, people);
            output::print(session.format, &response, |r| people(&r.people));
        }
    }
    Ok(())
}

fn people(people: &[OfficePerson]) -> String {
    let rows =
        people.iter().map(|p| [p.person_id.clone(), p.name.clone(), p.role.clone(), p.offices.join(" ")]);
    table(["ID", "NAME", "ROLE", "OFFICES"], rows)
}
