//! `okno.v1.DirectoryService`.

use super::desk::{Desk, WriteRequest, wrong_reply};
use crate::{
    convert::{directory as wire, queue_settings as settings, required},
    failure::Failure,
    front::CallContext,
};
use okno_domain::{
    directory::{Command, Directory, ENTITY_ID, Reply},
    entity::{EntityRef, Kind},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, directory_service_server::DirectoryService};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct Directories(pub Arc<Desk>);

const PAGE: (u32, u32) = (100, 500);

impl Desk {
    async fn directory_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        command: Command,
    ) -> Result<(Option<v1::WriteMeta>, u64), Failure> {
        let target = EntityRef { kind: Kind::Directory, id: ENTITY_ID.to_owned() };
        match self.command(context, request, target, AnyCommand::Directory(command)).await? {
            (AnyReply::Directory(Reply::Version(version)), meta) => Ok((meta, version)),
            _ => Err(wrong_reply()),
        }
    }

    async fn directory_at(
        &self,
        context: &CallContext,
        read: Option<&v1::ReadOptions>,
    ) -> Result<(Option<v1::ReadMeta>, Arc<Directory>), Failure> {
        self.read_point(context, read).await?;
        let meta = self.read_meta();
        Ok((meta, self.query.world().directory.clone()))
    }
}

fn unknown(what: &str) -> Failure {
    Failure::not_found(
        &format!("Нет в справочнике: {what}"),
        &format!("not in the directory: {what}"),
        "DIRECTORY_ENTRY_UNKNOWN",
    )
}

/// A mutating method: its command from the message, its response from the new version.
macro_rules! put {
    ($self:ident, $request:ident, $Request:ident => $Response:ident, $command:expr) => {{
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::$Request| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let command: fn(v1::$Request) -> Result<Command, Failure> = $command;
            let (meta, version) = desk.directory_command(&context, request, command(message)?).await?;
            Ok(v1::$Response { meta, version })
        };
        $self.0.handle($request, handler).await
    }};
}

#[tonic::async_trait]
impl DirectoryService for Directories {
    async fn put_office(
        &self,
        request: Request<v1::PutOfficeRequest>,
    ) -> Result<Response<v1::PutOfficeResponse>, Status> {
        put!(self, request, PutOfficeRequest => PutOfficeResponse, |message| {
            Ok(Command::PutOffice(wire::office_from(message.office)?))
        })
    }

    async fn remove_office(
        &self,
        request: Request<v1::RemoveOfficeRequest>,
    ) -> Result<Response<v1::RemoveOfficeResponse>, Status> {
        put!(self, request, RemoveOfficeRequest => RemoveOfficeResponse, |message| {
            Ok(Command::RemoveOffice { code: message.code })
        })
    }

    async fn put_window(
        &self,
        request: Request<v1::PutWindowRequest>,
    ) -> Result<Response<v1::PutWindowResponse>, Status> {
        put!(self, request, PutWindowRequest => PutWindowResponse, |message| {
            Ok(Command::PutWindow(wire::window_from(message.window)?))
        })
    }

    async fn remove_window(
        &self,
        request: Request<v1::RemoveWindowRequest>,
    ) -> Result<Response<v1::RemoveWindowResponse>, Status> {
        put!(self, request, RemoveWindowRequest => RemoveWindowResponse, |message| {
            Ok(Command::RemoveWindow { office: message.office, number: message.number })
        })
    }

    async fn put_person(
        &self,
        request: Request<v1::PutPersonRequest>,
    ) -> Result<Response<v1::PutPersonResponse>, Status> {
        put!(self, request, PutPersonRequest => PutPersonResponse, |message| {
            Ok(Command::PutPerson(wire::person_from(message.person)?))
        })
    }

    async fn remove_person(
        &self,
        request: Request<v1::RemovePersonRequest>,
    ) -> Result<Response<v1::RemovePersonResponse>, Status> {
        put!(self, request, RemovePersonRequest => RemovePersonResponse, |message| {
            Ok(Command::RemovePerson { id: message.person_id })
        })
    }

    async fn put_queue_settings(
        &self,
        request: Request<v1::PutQueueSettingsRequest>,
    ) -> Result<Response<v1::PutQueueSettingsResponse>, Status> {
        put!(self, request, PutQueueSettingsRequest => PutQueueSettingsResponse, |message| {
            Ok(Command::PutQueueSettings(Box::new(settings::from(message.settings)?)))
        })
    }

    async fn get_queue_settings(
        &self,
        request: Request<v1::GetQueueSettingsRequest>,
    ) -> Result<Response<v1::GetQueueSettingsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetQueueSettingsRequest| async move {
            required("office", &message.office)?;
            let (meta, directory) = desk.directory_at(&context, message.read.as_ref()).await?;
            directory.office(&message.office).ok_or_else(|| unknown(&message.office))?;
            let settings = settings::shown(&message.office, directory.queue_settings(&message.office));
            Ok(v1::GetQueueSettingsResponse { meta, settings: Some(settings) })
        };
        self.0.handle(request, handler).await
    }

    async fn get_office(
        &self,
        request: Request<v1::GetOfficeRequest>,
    ) -> Result<Response<v1::GetOfficeResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetOfficeRequest| async move {
            required("code", &message.code)?;
            let (meta, directory) = desk.directory_at(&context, message.read.as_ref()).await?;
            let office = directory.office(&message.code).ok_or_else(|| unknown(&message.code))?;
            Ok(v1::GetOfficeResponse {
                meta,
                office: Some(wire::office(office)),
                windows: directory.windows(&message.code).map(wire::window).collect(),
                version: directory.version(),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn list_offices(
        &self,
        request: Request<v1::ListOfficesRequest>,
    ) -> Result<Response<v1::ListOfficesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListOfficesRequest| async move {
            let page = desk.page(&context, message.page_size, PAGE, b"", &message.page_token)?;
            let (meta, directory) = desk.directory_at(&context, message.read.as_ref()).await?;
            let (found, next_page_token) =
                desk.page_by_text(&context, &page, b"", directory.offices(), |office| &office.code);
            Ok(v1::ListOfficesResponse {
                meta,
                offices: found.into_iter().map(wire::office).collect(),
                next_page_token,
            })
        };
        self.0.handle(request, handler).await
    }

    async fn list_windows(
        &self,
        request: Request<v1::ListWindowsRequest>,
    ) -> Result<Response<v1::ListWindowsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListWindowsRequest| async move {
            required("office", &message.office)?;
            let (meta, directory) = desk.directory_at(&context, message.read.as_ref()).await?;
            let windows = directory.windows(&message.office).map(wire::window).collect();
            Ok(v1::ListWindowsResponse { meta, windows })
        };
        self.0.handle(request, handler).await
    }

    async fn get_person(
        &self,
        request: Request<v1::GetPersonRequest>,
    ) -> Result<Response<v1::GetPersonResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetPersonRequest| async move {
            required("person_id", &message.person_id)?;
            let (meta, directory) = desk.directory_at(&context, message.read.as_ref()).await?;
            let person = directory.person(&message.person_id).ok_or_else(|| unknown(&message.person_id))?;
            Ok(v1::GetPersonResponse { meta, person: Some(wire::person(person)) })
        };
        self.0.handle(request, handler).await
    }

    async fn list_people(
        &self,
        request: Request<v1::ListPeopleRequest>,
    ) -> Result<Response<v1::ListPeopleResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListPeopleRequest| async move {
            let filter = message.office.as_bytes();
            let page = desk.page(&context, message.page_size, PAGE, filter, &message.page_token)?;
            let (meta, directory) = desk.directory_at(&context, message.read.as_ref()).await?;
            let people = directory
                .people()
                .filter(|person| message.office.is_empty() || person.offices.contains(&message.office));
            let (found, next_page_token) =
                desk.page_by_text(&context, &page, filter, people, |person| &person.id);
            Ok(v1::ListPeopleResponse {
                meta,
                people: found.into_iter().map(wire::person).collect(),
                next_page_token,
            })
        };
        self.0.handle(request, handler).await
    }
}
