//! `okno.v1.QueueService`.

use super::desk::{Desk, WriteRequest, wrong_reply};
use crate::{
    convert::{self, required},
    failure::Failure,
    front::CallContext,
};
use okno_domain::{
    entity::{EntityRef, Kind},
    queue::{Command, Queue, Reply, Ticket},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, queue_service_server::QueueService};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct Queues(pub Arc<Desk>);

const PAGE: (u32, u32) = (100, 500);

impl Desk {
    async fn queue_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        office: &str,
        command: Command,
    ) -> Result<(Reply, Option<v1::WriteMeta>), Failure> {
        required("office", office)?;
        let target = EntityRef { kind: Kind::Queue, id: office.to_owned() };
        match self.command(context, request, target, AnyCommand::Queue(command)).await? {
            (AnyReply::Queue(reply), meta) => Ok((reply, meta)),
            _ => Err(wrong_reply()),
        }
    }

    async fn ticket_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        office: &str,
        command: Command,
    ) -> Result<(Option<v1::Ticket>, Option<v1::WriteMeta>), Failure> {
        match self.queue_command(context, request, office, command).await? {
            (Reply::Ticket(ticket), meta) => Ok((Some(convert::queue::ticket(office, &ticket)), meta)),
            _ => Err(wrong_reply()),
        }
    }
}

#[tonic::async_trait]
impl QueueService for Queues {
    async fn take_ticket(
        &self,
        request: Request<v1::TakeTicketRequest>,
    ) -> Result<Response<v1::TakeTicketResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::TakeTicketRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let command = Command::TakeTicket {
                purpose: convert::queue::purpose_from(message.purpose)?,
                service: message.service,
                category: message.category,
            };
            match desk.queue_command(&context, request, &message.office, command).await? {
                (Reply::Taken { ticket, ahead }, meta) => Ok(v1::TakeTicketResponse {
                    meta,
                    ticket: Some(convert::queue::ticket(&message.office, &ticket)),
                    ahead,
                }),
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn call_next(
        &self,
        request: Request<v1::CallNextRequest>,
    ) -> Result<Response<v1::CallNextResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::CallNextRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            required("window", &message.window)?;
            let command = Command::CallNext { window: message.window };
            let (ticket, meta) = desk.ticket_command(&context, request, &message.office, command).await?;
            Ok(v1::CallNextResponse { meta, ticket })
        };
        self.0.handle(request, handler).await
    }

    async fn begin_service(
        &self,
        request: Request<v1::BeginServiceRequest>,
    ) -> Result<Response<v1::BeginServiceResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::BeginServiceRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let ticket = convert::cases::ticket_from("ticket", message.ticket.unwrap_or_default())?;
            let command = Command::Begin { ticket, window: message.window };
            let (ticket, meta) = desk.ticket_command(&context, request, &message.office, command).await?;
            Ok(v1::BeginServiceResponse { meta, ticket })
        };
        self.0.handle(request, handler).await
    }

    async fn finish_service(
        &self,
        request: Request<v1::FinishServiceRequest>,
    ) -> Result<Response<v1::FinishServiceResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::FinishServiceRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let outcome = convert::queue::outcome_from(message.outcome)?;
            let ticket = convert::cases::ticket_from("ticket", message.ticket.unwrap_or_default())?;
            let command = Command::Finish { ticket, window: message.window, outcome };
            let (ticket, meta) = desk.ticket_command(&context, request, &message.office, command).await?;
            Ok(v1::FinishServiceResponse { meta, ticket })
        };
        self.0.handle(request, handler).await
    }

    async fn list_tickets(
        &self,
        request: Request<v1::ListTicketsRequest>,
    ) -> Result<Response<v1::ListTicketsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListTicketsRequest| async move {
            required("office", &message.office)?;
            let mut states = message.states.clone();
            states.sort_unstable();
            states.dedup();
            if states.iter().any(|state| *state == 0 || v1::TicketState::try_from(*state).is_err()) {
                return Err(Failure::field(
                    "states",
                    "неизвестное состояние",
                    "expected states of TicketState",
                ));
            }
            let filter = format!("{}\0{states:?}", message.office);
            let page =
                desk.page(&context, message.page_size, PAGE, filter.as_bytes(), &message.page_token)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            let meta = desk.read_meta();
            let queue = desk.long_read(|| desk.query.queue(&message.office))?;
            let queue = queue.as_ref().map(|read| &read.value);
            let wanted = |ticket: &&Ticket| {
                states.is_empty() || states.contains(&i32::from(convert::queue::state(&ticket.state)))
            };
            let tickets = queue.into_iter().flat_map(Queue::tickets).filter(wanted);
            let (found, next_page_token) =
                desk.page_by_text(&context, &page, filter.as_bytes(), tickets, |ticket| {
                    &ticket.ticket.number
                });
            let tickets =
                found.into_iter().map(|ticket| convert::queue::ticket(&message.office, ticket)).collect();
            Ok(v1::ListTicketsResponse { meta, tickets, next_page_token })
        };
        self.0.handle(request, handler).await
    }
}
