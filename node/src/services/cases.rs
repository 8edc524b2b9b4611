//! `okno.v1.CaseService`.

use super::{
    desk::{Desk, WriteRequest, wrong_reply},
    scope::Scope,
    watch,
};
use crate::{
    convert::{self, actor, date_opt, required},
    failure::{Failure, Language},
    front::CallContext,
};
use futures::Stream;
use okno_domain::{
    case::{Advanced, Case, Command, Reply},
    entity::{EntityRef, Kind},
    ids::case_id,
    people::applicant_key,
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, case_service_server::CaseService};
use okno_runtime::{CaseFilter, HistoryEntry, ListCursor, Read};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status};

pub struct Cases(pub Arc<Desk>);

const CASES_PAGE: (u32, u32) = (50, 200);
/// Commits, each with a few events.
const HISTORY_PAGE: (u32, u32) = (100, 500);

/// The id of a case as it stands in its key: checked here, so that a malformed one is a clear refusal.
pub fn case_ref(id: &str) -> Result<EntityRef, Failure> {
    required("case_id", id)?;
    let uuid = uuid::Uuid::try_parse(id).ok().map(|uuid| uuid.to_string());
    match uuid {
        Some(id) => Ok(EntityRef { kind: Kind::Case, id }),
        None => Err(Failure::field("case_id", "ожидается UUID дела", "expected the case's UUID")),
    }
}

pub fn case_unknown() -> Failure {
    Failure::not_found("Нет такого дела", "there is no such case", "CASE_UNKNOWN")
}

impl Desk {
    async fn case_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        target: EntityRef,
        command: Command,
    ) -> Result<(Reply, Option<v1::WriteMeta>), Failure> {
        match self.command(context, request, target, AnyCommand::Case(command)).await? {
            (AnyReply::Case(reply), meta) => Ok((reply, meta)),
            _ => Err(wrong_reply()),
        }
    }

    /// Which cases the caller may read; a refusal is recorded as a denial.
    pub fn scope(&self, context: &CallContext) -> Result<Scope, Failure> {
        let caller = context.caller();
        Scope::of(caller.kind, &caller.id, &self.query.world().directory)
            .inspect_err(|failure| self.record_denial(context, failure.reason()))
    }

    /// A case the caller may read, recorded as read.
    pub fn readable_case(&self, context: &CallContext, id: &str) -> Result<Read<Case>, Failure> {
        let scope = self.scope(context)?;
        let case = self.query.case(id).map_err(|error| self.unreadable(error))?.ok_or_else(case_unknown)?;
        scope
            .check(&case.value.head().office)
            .inspect_err(|failure| self.record_denial(context, failure.reason()))?;
        self.record_read(context, id)?;
        Ok(case)
    }
}

#[tonic::async_trait]
impl CaseService for Cases {
    async fn open_case(
        &self,
        request: Request<v1::OpenCaseRequest>,
    ) -> Result<Response<v1::OpenCaseResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::OpenCaseRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let command = convert::cases::open_from(message)?;
            // The id derives from the request, so that a retry opens the same case (rule 6).
            let id = case_id(&request.principal, request.request_id);
            let target = EntityRef { kind: Kind::Case, id: id.clone() };
            match desk.case_command(&context, request, target, command).await? {
                (Reply::Opened { state, warnings }, meta) => Ok(v1::OpenCaseResponse {
                    meta,
                    case_id: id,
                    state: convert::cases::state(state).into(),
                    warnings,
                }),
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn add_document(
        &self,
        request: Request<v1::AddDocumentRequest>,
    ) -> Result<Response<v1::AddDocumentResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::AddDocumentRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = case_ref(&message.case_id)?;
            let command = convert::cases::add_document_from(message)?;
            match desk.case_command(&context, request, target, command).await? {
                (Reply::DocumentAdded { document }, meta) => {
                    Ok(v1::AddDocumentResponse { meta, document_number: document })
                }
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn remove_document(
        &self,
        request: Request<v1::RemoveDocumentRequest>,
    ) -> Result<Response<v1::RemoveDocumentResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::RemoveDocumentRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = case_ref(&message.case_id)?;
            let command = Command::RemoveDocument { document: message.document_number };
            match desk.case_command(&context, request, target, command).await? {
                (Reply::DocumentRemoved, meta) => Ok(v1::RemoveDocumentResponse { meta }),
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn advance_case(
        &self,
        request: Request<v1::AdvanceCaseRequest>,
    ) -> Result<Response<v1::AdvanceCaseResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::AdvanceCaseRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = case_ref(&message.case_id)?;
            let command = Command::Advance { step: convert::cases::step_from(message.step)? };
            match desk.case_command(&context, request, target, command).await? {
                (Reply::Advanced(advanced), meta) => Ok(advanced_response(advanced, meta)),
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn take_over_case(
        &self,
        request: Request<v1::TakeOverCaseRequest>,
    ) -> Result<Response<v1::TakeOverCaseResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::TakeOverCaseRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = case_ref(&message.case_id)?;
            match desk.case_command(&context, request, target, Command::TakeOver).await? {
                (Reply::TakenOver { officer, before }, meta) => {
                    Ok(v1::TakeOverCaseResponse { meta, officer, officer_before: before })
                }
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn get_case(
        &self,
        request: Request<v1::GetCaseRequest>,
    ) -> Result<Response<v1::GetCaseResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetCaseRequest| async move {
            let target = case_ref(&message.case_id)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            let case = desk.readable_case(&context, &target.id)?;
            let world = desk.query.world();
            Ok(v1::GetCaseResponse {
                meta: desk.read_meta_at(case.applied_index),
                case: Some(convert::cases::case(&case.value, &world.catalogue, context.language)),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn list_cases(
        &self,
        request: Request<v1::ListCasesRequest>,
    ) -> Result<Response<v1::ListCasesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListCasesRequest| async move {
            let (filter, canonical) = filter_from(message.filter.as_ref())?;
            let canonical = canonical.as_bytes();
            let page = desk.page(&context, message.page_size, CASES_PAGE, canonical, &message.page_token)?;
            let after = page.after.as_deref().map(cursor_from).transpose()?;
            desk.read_point(&context, message.read.as_ref()).await?;
            let scope = desk.scope(&context)?;
            if let Some(office) = office_of(&filter) {
                scope.check(office).inspect_err(|failure| desk.record_denial(&context, failure.reason()))?;
            }
            desk.record_read(&context, &subject_of(&filter))?;
            let found = desk.long_read(|| desk.query.list_cases(&filter, after.as_ref(), page.size))?;
            let readable = found.cases.iter().filter(|case| scope.covers(&case.value.head().office));
            Ok(v1::ListCasesResponse {
                meta: desk.read_meta_at(found.applied_index),
                cases: readable.map(|case| convert::cases::summary(&case.value)).collect(),
                next_page_token: found
                    .next
                    .map(|next| desk.next_page(&context, canonical, &cursor_bytes(&next)))
                    .unwrap_or_default(),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn get_case_history(
        &self,
        request: Request<v1::GetCaseHistoryRequest>,
    ) -> Result<Response<v1::GetCaseHistoryResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetCaseHistoryRequest| async move {
            let target = case_ref(&message.case_id)?;
            let filter = target.id.as_bytes();
            let page = desk.page(&context, message.page_size, HISTORY_PAGE, filter, &message.page_token)?;
            let after = match page.after {
                None => 0,
                Some(position) => {
                    u64::from_be_bytes(position.try_into().map_err(|_| Failure::page_token_stale())?)
                }
            };
            desk.read_point(&context, message.read.as_ref()).await?;
            let meta = desk.read_meta();
            desk.readable_case(&context, &target.id)?;
            // One more than the page: whether there is another page.
            let mut found = desk.long_read(|| desk.query.history(&target, after, page.size + 1))?;
            let more = found.len() > page.size;
            found.truncate(page.size);
            let next_page_token = match found.last() {
                Some(last) if more => desk.next_page(&context, filter, &last.index.to_be_bytes()),
                _ => String::new(),
            };
            let events = found.iter().flat_map(|entry| journal_events(entry, context.language)).collect();
            Ok(v1::GetCaseHistoryResponse { meta, events, next_page_token })
        };
        self.0.handle(request, handler).await
    }

    type WatchCasesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchCasesResponse, Status>> + Send>>;

    async fn watch_cases(
        &self,
        request: Request<v1::WatchCasesRequest>,
    ) -> Result<Response<Self::WatchCasesStream>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::WatchCasesRequest| async move {
            // A node that lags must not say that a case just opened is unknown, or an office just given foreign: it catches up
            // with the token, or with everything acknowledged before the call.
            let consistency = match message.resume_token.is_empty() {
                true => v1::Consistency::Linearizable,
                false => v1::Consistency::Local,
            };
            let options = v1::ReadOptions {
                consistency: consistency.into(),
                resume_token: message.resume_token.clone(),
            };
            if message.case_id.is_empty() {
                desk.read_point(&context, Some(&options)).await?;
                desk.record_read(&context, &format!("watch office={}", message.office))?;
            } else {
                let target = case_ref(&message.case_id)?;
                desk.read_point(&context, Some(&options)).await?;
                desk.readable_case(&context, &target.id)?;
                message.case_id = target.id;
            }
            watch::start(&desk, context, &message)
        };
        self.0.handle(request, handler).await
    }
}

fn advanced_response(advanced: Advanced, meta: Option<v1::WriteMeta>) -> v1::AdvanceCaseResponse {
    let deadline = advanced.deadline.map(|date| v1::Deadline {
        date: date.to_string(),
        provisional: advanced.provisional.unwrap_or_default(),
        near: false,
        passed: false,
    });
    v1::AdvanceCaseResponse {
        meta,
        state: convert::cases::state(advanced.state).into(),
        deadline,
        interagency_number: advanced.request,
        step_number: advanced.step,
        warnings: advanced.warnings,
    }
}

/// One commit's events, told.
fn journal_events(entry: &HistoryEntry, language: Language) -> impl Iterator<Item = v1::JournalEvent> {
    (0_u32..).zip(&entry.events).map(move |(number, event)| {
        let told = convert::history::tell(event, language);
        v1::JournalEvent {
            index: entry.index,
            number,
            time: convert::timestamp(entry.time_ms),
            actor: actor(&entry.origin.principal, &entry.origin.workstation, ""),
            kind: told.kind.to_owned(),
            text: told.text,
            details: told.details,
        }
    })
}

/// The filter, and the canonical form that page tokens are bound to.
fn filter_from(filter: Option<&v1::CaseFilter>) -> Result<(CaseFilter, String), Failure> {
    use v1::case_filter::By;
    let by = filter.and_then(|filter| filter.by.as_ref()).ok_or_else(|| {
        Failure::field(
            "filter",
            "ожидается applicant, office или deadline",
            "expected one of applicant, office, deadline",
        )
    })?;
    match by {
        By::Applicant(text) => {
            let key = applicant_key(text).ok_or_else(|| {
                Failure::field(
                    "filter.applicant",
                    "ожидается номер заявителя",
                    "expected an applicant's number",
                )
            })?;
            let canonical = format!("applicant {}", hex::encode(key));
            Ok((CaseFilter::Applicant(key), canonical))
        }
        By::Office(by) => match convert::cases::state_from("filter.office.state", by.state)? {
            None => {
                required("filter.office.office", &by.office)?;
                Ok((CaseFilter::Office(by.office.clone()), format!("office {}", by.office)))
            }
            Some(state) => {
                let office = Some(by.office.clone()).filter(|office| !office.is_empty());
                let canonical = format!("state {} {}", state.name(), by.office);
                Ok((CaseFilter::State { state, office }, canonical))
            }
        },
        By::Deadline(by) => {
            let from = date_opt("filter.deadline.from", &by.from)?.unwrap_or(jiff::civil::Date::MIN);
            let to = date_opt("filter.deadline.to", &by.to)?.unwrap_or(jiff::civil::Date::MAX);
            if to < from {
                return Err(Failure::field(
                    "filter.deadline.to",
                    "не раньше from",
                    "expected no earlier than from",
                ));
            }
            let office = Some(by.office.clone()).filter(|office| !office.is_empty());
            let canonical = format!("deadline {from} {to} {}", by.office);
            Ok((CaseFilter::Deadline { from, to, office }, canonical))
        }
    }
}

fn office_of(filter: &CaseFilter) -> Option<&str> {
    match filter {
        CaseFilter::Applicant(_) => None,
        CaseFilter::Office(office) => Some(office),
        CaseFilter::State { office, .. } | CaseFilter::Deadline { office, .. } => office.as_deref(),
    }
}

/// What the security log says was listed; an applicant only by the key, which spells no personal data.
fn subject_of(filter: &CaseFilter) -> String {
    match filter {
        CaseFilter::Applicant(key) => format!("list applicant={}", hex::encode(key)),
        CaseFilter::Office(office) => format!("list office={office}"),
        CaseFilter::State { state, office } => {
            format!("list state={} office={}", state.name(), office.as_deref().unwrap_or("*"))
        }
        CaseFilter::Deadline { from, to, office } => {
            format!("list deadline={from}..{to} office={}", office.as_deref().unwrap_or("*"))
        }
    }
}

fn cursor_bytes(cursor: &ListCursor) -> Vec<u8> {
    let length = u32::try_from(cursor.key.len()).unwrap_or_default();
    [&length.to_be_bytes(), cursor.key.as_slice(), cursor.entity.as_bytes()].concat()
}

fn cursor_from(bytes: &[u8]) -> Result<ListCursor, Failure> {
    let parsed = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (key, entity) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        Some(ListCursor { key: key.to_vec(), entity: std::str::from_utf8(entity).ok()?.to_owned() })
    };
    parsed().ok_or_else(Failure::page_token_stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        let cursor = ListCursor { key: vec![0, 255, 1], entity: "case/1".into() };
        assert_eq!(cursor_from(&cursor_bytes(&cursor)), Ok(cursor));
        assert!(cursor_from(&[0, 0]).is_err());
        assert!(cursor_from(&[0, 0, 0, 9, 1]).is_err());
    }

    #[test]
    fn filters_differ_in_their_canonical_form() {
        use v1::case_filter::{By, DeadlineFilter, OfficeFilter};
        let canonical = |by: By| filter_from(Some(&v1::CaseFilter { by: Some(by) })).map(|(_, text)| text);
        let office = |office: &str, state: i32| By::Office(OfficeFilter { office: office.into(), state });
        let texts = [
            canonical(By::Applicant("112-233-445 95".into())),
            canonical(By::Applicant("112-233-445 96".into())),
            canonical(office("42-01", 0)),
            canonical(office("42-02", 0)),
            canonical(office("42-01", 1)),
            canonical(By::Deadline(DeadlineFilter::default())),
            canonical(By::Deadline(DeadlineFilter { to: "2026-01-01".into(), ..Default::default() })),
        ];
        for (n, one) in texts.iter().enumerate() {
            assert!(one.is_ok());
            assert!(texts[..n].iter().all(|other| other != one), "{one:?} stands twice");
        }
        assert_eq!(
            canonical(By::Applicant("112-233-445 95".into())),
            canonical(By::Applicant("11223344595".into())),
            "separators do not count"
        );
        assert!(canonical(office("", 0)).is_err());
        assert!(canonical(By::Applicant("--".into())).is_err());
        assert!(filter_from(None).is_err());
    }

    #[test]
    fn case_ids_are_checked_and_canonical() {
        assert!(case_ref("").is_err());
        assert!(case_ref("case/1").is_err());
        let id = "0190B5F0-0000-7000-8000-00000000000A";
        assert_eq!(case_ref(id).map(|target| target.id), Ok(id.to_lowercase()));
    }
}
