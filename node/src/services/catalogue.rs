//! `okno.v1.CatalogueService`.

use super::desk::{Desk, WriteRequest, wrong_reply};
use crate::{
    convert::{catalogue as wire, required},
    failure::Failure,
    front::CallContext,
};
use okno_domain::{
    catalogue::{Catalogue, Command, ENTITY_ID, Reply, SourceFile, check, files},
    entity::{EntityRef, Kind},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, catalogue_service_server::CatalogueService};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct Catalogues(pub Arc<Desk>);

const PAGE: (u32, u32) = (50, 200);

impl Desk {
    async fn catalogue_at(
        &self,
        context: &CallContext,
        read: Option<&v1::ReadOptions>,
    ) -> Result<(Option<v1::ReadMeta>, Arc<Catalogue>), Failure> {
        self.read_point(context, read).await?;
        let meta = self.read_meta();
        Ok((meta, self.query.world().catalogue.clone()))
    }
}

#[tonic::async_trait]
impl CatalogueService for Catalogues {
    async fn load_catalogue(
        &self,
        request: Request<v1::LoadCatalogueRequest>,
    ) -> Result<Response<v1::LoadCatalogueResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::LoadCatalogueRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let sources: Vec<SourceFile> =
                message.files.into_iter().map(|file| SourceFile::new(file.path, file.text)).collect();
            // Files name records of the catalogue as it is (an authority loaded before); the load itself is
            // checked again on the leader when it decides.
            let present = desk.query.world().catalogue.clone();
            let load = files::read(&sources, &present)
                .map_err(|problems| Failure::Refused(check::refusal(&problems)))?;
            let target = EntityRef { kind: Kind::Catalogue, id: ENTITY_ID.to_owned() };
            let command = AnyCommand::Catalogue(Command::Load(load));
            match desk.command(&context, request, target, command).await? {
                (AnyReply::Catalogue(Reply::Loaded { version, changed, unchanged }), meta) => {
                    Ok(v1::LoadCatalogueResponse { meta, version, changed, unchanged })
                }
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetServiceRequest| async move {
            required("code", &message.code)?;
            let (meta, catalogue) = desk.catalogue_at(&context, message.read.as_ref()).await?;
            let service = catalogue.service(&message.code).ok_or_else(|| {
                Failure::not_found(
                    "Нет такой услуги в каталоге",
                    "the catalogue has no such service",
                    "SERVICE_UNKNOWN",
                )
            })?;
            Ok(v1::GetServiceResponse {
                meta,
                service: Some(wire::service(service, &catalogue)),
                catalogue_version: catalogue.version(),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListServicesRequest| async move {
            let page = desk.page(&context, message.page_size, PAGE, b"", &message.page_token)?;
            let (meta, catalogue) = desk.catalogue_at(&context, message.read.as_ref()).await?;
            let (found, next_page_token) =
                desk.page_by_text(&context, &page, b"", catalogue.services(), |service| &service.code);
            Ok(v1::ListServicesResponse {
                meta,
                services: found.into_iter().map(|service| wire::service(service, &catalogue)).collect(),
                catalogue_version: catalogue.version(),
                next_page_token,
            })
        };
        self.0.handle(request, handler).await
    }

    async fn get_calendar(
        &self,
        request: Request<v1::GetCalendarRequest>,
    ) -> Result<Response<v1::GetCalendarResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetCalendarRequest| async move {
            let year = i16::try_from(message.year)
                .ok()
                .filter(|year| (1900..=2200).contains(year))
                .ok_or_else(|| {
                    Failure::field(
                        "year",
                        "ожидается год от 1900 до 2200",
                        "expected a year from 1900 to 2200",
                    )
                })?;
            let (meta, catalogue) = desk.catalogue_at(&context, message.read.as_ref()).await?;
            let calendar = catalogue.calendar(year, &message.region).ok_or_else(|| {
                Failure::not_found(
                    "Производственный календарь этого года не загружен",
                    "no production calendar of this year is loaded",
                    "CALENDAR_YEAR_MISSING",
                )
            })?;
            let (working_days, ..) = calendar.counts();
            Ok(v1::GetCalendarResponse {
                meta,
                calendar: Some(wire::calendar(calendar, u32::from(working_days))),
                catalogue_version: catalogue.version(),
            })
        };
        self.0.handle(request, handler).await
    }
}
