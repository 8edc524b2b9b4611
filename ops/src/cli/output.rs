//! What a command prints: a table for people or the canonical JSON of the protobuf message for machines.

use comfy_table::{Table, presets};
use okno_client::{CallError, Class};
use okno_proto::FILE_DESCRIPTOR_SET;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use prost_types::Timestamp;
use serde_json::{Value, json};
use std::{io::Write as _, sync::OnceLock};

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the contracts were compiled by the build")
    })
}

/// A message as JSON: field names as in the contracts, defaults written out, 64-bit integers as numbers.
pub fn to_json<M: Message + Name>(message: &M) -> Value {
    let descriptor =
        pool().get_message_by_name(&M::full_name()).expect("every message of okno.v1 is in the descriptors");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes by its own descriptor");
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a message without google.protobuf.Any has a JSON form")
}

/// A message from its JSON form; the error says what and where.
pub fn from_json<M: Message + Name + Default>(text: &str) -> Result<M, String> {
    let descriptor =
        pool().get_message_by_name(&M::full_name()).expect("every message of okno.v1 is in the descriptors");
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options)
        .map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    M::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

/// Prints to standard output. A reader that has seen enough (`| head`) ends the command: what it asked for is done.
pub fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(exit::DONE.into());
    }
}

/// Prints a response in the form asked for.
pub fn print<M: Message + Name>(format: Format, message: &M, table: impl FnOnce(&M) -> String) {
    match format {
        Format::Json => line(&format!("{:#}", to_json(message))),
        Format::Table => {
            let text = table(message);
            if !text.is_empty() {
                line(text.trim_end());
            }
        }
    }
}

/// Prints one of a stream of messages on one line.
pub fn print_line<M: Message + Name>(format: Format, message: &M, text: impl FnOnce(&M) -> Option<String>) {
    match format {
        Format::Json => line(&to_json(message).to_string()),
        Format::Table => {
            if let Some(text) = text(message) {
                line(&text);
            }
        }
    }
}

/// Columns with headings.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Name and value, one a line; empty values are left out.
pub fn facts<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, value) in rows {
        if !value.is_empty() {
            table.add_row([name.to_owned(), value]);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A moment in UTC, to the second; empty when unset.
pub fn moment(time: Option<&Timestamp>) -> String {
    time.and_then(|t| jiff::Timestamp::new(t.seconds, 0).ok()).map(|t| t.to_string()).unwrap_or_default()
}

/// An enum value as people write it: `CASE_STATE_AT_AUTHORITY` → `at-authority`.
pub fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

/// Exit codes (design §8).
pub mod exit {
    pub const DONE: u8 = 0;
    pub const REFUSED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_APPLIED: u8 = 3;
    pub const UNKNOWN: u8 = 4;
}

pub fn exit_code(class: Class) -> u8 {
    match class {
        Class::Refused => exit::REFUSED,
        Class::NotApplied => exit::NOT_APPLIED,
        Class::Unknown => exit::UNKNOWN,
    }
}

/// A failed call as JSON.
pub fn error_json(error: &CallError) -> Value {
    let problem = error.problem();
    let violations: Vec<_> = problem
        .violations
        .iter()
        .map(|(field, expected)| json!({"field": field, "expected": expected}))
        .collect();
    json!({"error": {
        "class": error.class().name().replace(' ', "_"),
        "reason": problem.reason,
        "message": problem.message,
        "details": problem.details,
        "violations": violations,
        "request_id": problem.request_id.map(|id| id.to_string()),
        "attempts": problem.attempts,
    }})
}

/// A failed call for people: what happened, why, and what may be done now.
pub fn error_text(error: &CallError) -> String {
    let problem = error.problem();
    let mut text = format!("{}: {}", error.class().name(), problem.reason);
    if !problem.message.is_empty() {
        text.push_str(&format!(": {}", problem.message));
    }
    for (field, expected) in &problem.violations {
        text.push_str(&format!("\n  {field}: {expected}"));
    }
    for (name, value) in &problem.details {
        if !problem.violations.iter().any(|(field, _)| field == name) {
            text.push_str(&format!("\n  {name}: {value}"));
        }
    }
    match error.class() {
        Class::Refused => {}
        Class::NotApplied => text.push_str("\n  nothing happened; it is safe to try again"),
        Class::Unknown => {
            text.push_str("\n  it may or may not take effect; find out by the same command with");
            if let Some(id) = problem.request_id {
                text.push_str(&format!(" --request-id {id} --attempt {}", problem.attempts + 1));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_proto::v1::{
        AddDocumentResponse, Applicant, Case, CaseState, GetCaseResponse, WriteMeta, applicant,
    };

    #[test]
    fn json_has_contract_names_and_plain_numbers() {
        let response = AddDocumentResponse {
            meta: Some(WriteMeta {
                applied_index: 1 << 40,
                served_by: 2,
                leader: 0,
                resume_token: "t".to_owned(),
            }),
            document_number: 3,
        };
        assert_eq!(
            to_json(&response),
            json!({"meta": {"applied_index": 1_099_511_627_776_u64, "served_by": 2, "leader": 0, "resume_token": "t"}, "document_number": 3})
        );
    }

    #[test]
    fn enums_and_defaults_are_written_out() {
        let case = Case { case_id: "c".to_owned(), state: CaseState::Draft.into(), ..Case::default() };
        let value = to_json(&GetCaseResponse { meta: None, case: Some(case) });
        assert_eq!(value["case"]["state"], "CASE_STATE_DRAFT");
        assert_eq!(value["case"]["documents"], json!([]));
    }

    #[test]
    fn applicants_come_from_json() {
        let person = r#"{"person": {"name": {"last_name": "Примеров"}, "snils": "112-233-445 95"}}"#;
        let applicant: Applicant = from_json(person).expect("valid");
        assert!(matches!(applicant.kind, Some(applicant::Kind::Person(p)) if p.snils == "112-233-445 95"));
        let error = from_json::<Applicant>(r#"{"person": {"snlis": "1"}}"#).expect_err("misspelt");
        assert!(error.contains("snlis"), "{error}");
    }

    #[test]
    fn names_of_enum_values() {
        assert_eq!(plain("CASE_STATE_AT_AUTHORITY", "CASE_STATE_"), "at-authority");
    }
}
