//! `oknoctl catalogue …`

use super::{
    Failure, Session,
    output::{self, facts, plain, table},
};
use crate::embedded;
use clap::Subcommand;
use okno_client::v1::{
    CatalogueFile, DayKind, GetCalendarRequest, GetServiceRequest, ListServicesRequest, LoadCatalogueRequest,
    Service, Source, Term,
};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum CatalogueCommand {
    /// Load catalogue files as one new version: the shipped ones, or every .toml below a folder
    Load {
        dir: Option<PathBuf>,
        /// The same as DIR
        #[arg(long = "dir", value_name = "DIR", conflicts_with = "dir")]
        dir_flag: Option<PathBuf>,
    },
    /// Show a service, or list them all
    Show { code: Option<String> },
    /// Show the production calendar of a year
    Calendar {
        year: i32,
        /// Code of a region with holidays of its own
        #[arg(long, default_value = "")]
        region: String,
    },
}

pub async fn run(session: &Session, command: CatalogueCommand) -> Result<(), Failure> {
    match command {
        CatalogueCommand::Load { dir, dir_flag } => {
            let files = match dir.or(dir_flag) {
                Some(dir) => files(&dir)?,
                None => embedded::catalogue_files(),
            };
            let response = session.call(LoadCatalogueRequest { meta: session.meta(), files }).await?;
            output::print(session.format, &response, |r| {
                format!(
                    "catalogue version {}: {} records put, {} were there already",
                    r.version, r.changed, r.unchanged
                )
            });
        }
        CatalogueCommand::Show { code: Some(code) } => {
            let response = session.call(GetServiceRequest { read: session.read(), code }).await?;
            output::print(session.format, &response, |r| r.service.as_ref().map(show).unwrap_or_default());
        }
        CatalogueCommand::Show { code: None } => list(session).await?,
        CatalogueCommand::Calendar { year, region } => {
            let response = session.call(GetCalendarRequest { read: session.read(), year, region }).await?;
            output::print(session.format, &response, |r| {
                let calendar = r.calendar.clone().unwrap_or_default();
                let moved: Vec<_> = calendar.moved.iter().map(|m| format!("{} → {}", m.from, m.to)).collect();
                let holidays: Vec<_> =
                    calendar.holidays.iter().map(|h| format!("{} {}", h.date, h.name)).collect();
                facts([
                    ("year", calendar.year.to_string()),
                    ("region", calendar.region),
                    ("working days", calendar.working_days.to_string()),
                    ("holidays", holidays.join("\n")),
                    ("moved", moved.join("\n")),
                    ("short days", calendar.short_days.join(", ")),
                    ("source", calendar.source.as_ref().map(source).unwrap_or_default()),
                    ("PROVISIONAL", calendar.provisional),
                ])
            });
        }
    }
    Ok(())
}

/// Every `.toml` below a folder, by path.
fn files(dir: &Path) -> Result<Vec<CatalogueFile>, Failure> {
    let usage = |path: &Path, cause: String| Failure::Usage(format!("{}: {cause}", path.display()));
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.map_err(|error| usage(dir, error.to_string()))?;
        let path = entry.path();
        if !entry.file_type().is_file() || path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(path).map_err(|error| usage(path, error.to_string()))?;
        let name = path.strip_prefix(dir).unwrap_or(path).display().to_string().replace('\\', "/");
        files.push(CatalogueFile { path: name, text });
    }
    if files.is_empty() {
        return Err(usage(dir, "holds no .toml file".to_owned()));
    }
    Ok(files)
}

async fn list(session: &Session) -> Result<(), Failure> {
    let request = ListServicesRequest { read: session.read(), page_size: 0, page_token: String::new() };
    let response = every_page!(session, request, services);
    output::print(session.format, &response, |r| {
        let rows = r.services.iter().map(|s| {
            [
                s.code.clone(),
                s.name.clone().unwrap_or_default().ru,
                s.authority.as_ref().and_then(|a| a.short_name.clone()).unwrap_or_default().ru,
                s.execution.as_ref().map(term).unwrap_or_default(),
                if s.term_verified { "yes".to_owned() } else { "NOT VERIFIED".to_owned() },
            ]
        });
        format!(
            "{}\ncatalogue version {}",
            table(["CODE", "NAME", "AUTHORITY", "TERM", "VERIFIED"], rows),
            r.catalogue_version
        )
    });
    Ok(())
}

fn term(term: &Term) -> String {
    let kind = match term.kind() {
        DayKind::Working => "working days",
        DayKind::Calendar | DayKind::Unspecified => "calendar days",
    };
    format!("{} {kind}", term.days)
}

/// With the mark of what could not be confirmed.
fn source(source: &Source) -> String {
    let mut text = source.act.clone();
    if !source.clause.is_empty() {
        text.push_str(&format!(", {}", source.clause));
    }
    text.push_str(&format!(" (checked {}", source.checked_on));
    if !source.against.is_empty() {
        text.push_str(&format!(": {}", source.against));
    }
    text.push_str(if source.verified { ")" } else { ") — NOT VERIFIED" });
    text
}

fn show(service: &Service) -> String {
    let name = service.name.clone().unwrap_or_default();
    let authority = service.authority.as_ref().and_then(|a| a.name.clone()).unwrap_or_default().ru;
    let receivers: Vec<_> = service.receivers().map(|r| plain(r.as_str_name(), "RECEIVER_KIND_")).collect();
    let source_of = |s: &Option<Source>| s.as_ref().map(source).unwrap_or_default();
    let mut text = facts([
        ("code", service.code.clone()),
        ("name", name.ru),
        ("in English", name.en),
        ("authority", authority),
        ("ticket group", service.ticket_group.clone()),
        ("active", service.active.to_string()),
        ("execution", service.execution.as_ref().map(term).unwrap_or_default()),
        ("by", source_of(&service.source)),
        ("delivery", service.delivery.as_ref().map(term).unwrap_or_default()),
        ("by", source_of(&service.delivery_source)),
        ("receivers", receivers.join(", ")),
        ("representative", service.representative.to_string()),
        (
            "unclaimed results",
            service.storage.as_ref().and_then(|s| s.term.as_ref()).map(term).unwrap_or_default(),
        ),
    ]);
    if !service.documents.is_empty() {
        let rows = service.documents.iter().map(|d| {
            [
                d.code.clone(),
                d.name.clone().unwrap_or_default().ru,
                plain(d.need().as_str_name(), "DOCUMENT_NEED_"),
                plain(d.presentation().as_str_name(), "DOCUMENT_PRESENTATION_"),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(["DOCUMENT", "NAME", "NEED", "FORM"], rows));
        text.push_str(&format!("\nby {}", source_of(&service.documents_source)));
    }
    if !service.suspension_reasons.is_empty() {
        let rows = service.suspension_reasons.iter().map(|s| {
            [
                s.code.clone(),
                s.name.clone().unwrap_or_default().ru,
                s.longest.as_ref().map_or_else(|| "until the cause is gone".to_owned(), term),
                source_of(&s.source),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(["SUSPENSION", "NAME", "LONGEST", "BY"], rows));
    }
    text
}
