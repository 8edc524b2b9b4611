//! `okno.v1.QueueService`. Its streams are in `board` and `queue_stream`.

use super::{
    board,
    desk::{Desk, WriteRequest, wrong_reply},
    queue_stream,
};
use crate::{
    convert::{self, date, required},
    failure::Failure,
    front::CallContext,
};
use jiff::civil::Date;
use okno_domain::{
    directory::Role,
    entity::{Context, Entity, EntityRef, Fence, Kind, Origin, Principal, RefusalClass},
    level,
    queue::{Booking, Command, Queue, Reply, Share, Ticket},
    registry::{AnyCommand, AnyReply},
    time::local_date,
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
        let (reply, meta) = self.queue_command(context, request, office, command).await?;
        let ticket = reply.ticket().ok_or_else(wrong_reply)?;
        Ok((Some(convert::queue::ticket(office, &ticket)), meta))
    }

    async fn booking_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        office: &str,
        command: Command,
    ) -> Result<(Option<v1::Booking>, Option<v1::WriteMeta>), Failure> {
        match self.queue_command(context, request, office, command).await? {
            (Reply::Booking(booking), meta) => Ok((Some(convert::queue::booking(office, &booking)), meta)),
            _ => Err(wrong_reply()),
        }
    }

    /// Operators read the figures of their own offices; what others may read the table has said. As of the read point: an office
    /// that was given just now counts.
    fn check_office(&self, context: &CallContext, office: &str) -> Result<(), Failure> {
        if context.caller().kind != crate::identity::Kind::Operator {
            return Ok(());
        }
        let world = self.query.world();
        let person = world.directory.person(&context.caller().id);
        let may = person.is_some_and(|person| {
            matches!(person.role, Role::Administrator | Role::Auditor)
                || person.offices.iter().any(|own| own == office)
        });
        if may {
            return Ok(());
        }
        self.record_denial(context, "OFFICE_FOREIGN");
        Err(Failure::refused(
            RefusalClass::PermissionDenied,
            "OFFICE_FOREIGN",
            "Очередь другого офиса",
            "the queue is another office's",
        ))
    }

    /// Refuses what reads or watches the queue of feature level 3 below it.
    async fn needs_queue(&self, context: &CallContext) -> Result<(), Failure> {
        self.needs_level(context, level::QUEUE).await
    }

    /// The slots that can be booked now, as the queue itself would decide; nothing is decided here.
    fn free_slots(&self, queue: &Queue, service: &str, day: Date) -> Vec<i64> {
        let world = self.query.world();
        let this = EntityRef { kind: Kind::Queue, id: queue.office().to_owned() };
        let origin = Origin {
            principal: Principal { kind: "node".into(), id: self.node_id.to_string() },
            workstation: String::new(),
        };
        queue.free_slots(
            service,
            day,
            &Context {
                this: &this,
                now_ms: self.query.applied().1,
                origin: &origin,
                request_id: uuid::Uuid::nil(),
                catalogue: &world.catalogue,
                directory: &world.directory,
                level: self.cluster.level(),
                fence: Fence::default(),
            },
        )
    }
}

/// A method that moves a ticket: its command from the message, its response from the ticket.
macro_rules! moves {
    ($self:ident, $request:ident, $Request:ident => $Response:ident, $command:expr) => {{
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::$Request| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let office = message.office.clone();
            let command: fn(v1::$Request) -> Result<Command, Failure> = $command;
            let (ticket, meta) = desk.ticket_command(&context, request, &office, command(message)?).await?;
            Ok(v1::$Response { meta, ticket })
        };
        $self.0.handle($request, handler).await
    }};
}

/// A method that changes a window.
macro_rules! changes_window {
    ($self:ident, $request:ident, $Request:ident => $Response:ident, $command:expr) => {{
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::$Request| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            required("window", &message.window)?;
            let office = message.office.clone();
            let command: fn(v1::$Request) -> Result<Command, Failure> = $command;
            match desk.queue_command(&context, request, &office, command(message)?).await? {
                (Reply::Window(window), meta) => {
                    let shown =
                        convert::queue::desk(&office, &window.window, window.day, Some(&window), None);
                    Ok(v1::$Response { meta, desk: Some(shown) })
                }
                _ => Err(wrong_reply()),
            }
        };
        $self.0.handle($request, handler).await
    }};
}

/// A ticket that is named.
fn named(ticket: Option<v1::TicketRef>) -> Result<okno_domain::queue::TicketRef, Failure> {
    convert::cases::ticket_from("ticket", ticket.unwrap_or_default())
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
            let (reply, meta) = desk.queue_command(&context, request, &message.office, command).await?;
            let (ticket, ahead) = reply.given().ok_or_else(wrong_reply)?;
            let ticket = Some(convert::queue::ticket(&message.office, &ticket));
            Ok(v1::TakeTicketResponse { meta, ticket, ahead })
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
            let queue = desk.long_read(|| desk.query.queue(&message.office, Share::Tickets))?;
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

    async fn call_number(
        &self,
        request: Request<v1::CallNumberRequest>,
    ) -> Result<Response<v1::CallNumberResponse>, Status> {
        moves!(self, request, CallNumberRequest => CallNumberResponse, |message| {
            required("window", &message.window)?;
            Ok(Command::CallNumber { ticket: named(message.ticket)?, window: message.window })
        })
    }

    async fn call_again(
        &self,
        request: Request<v1::CallAgainRequest>,
    ) -> Result<Response<v1::CallAgainResponse>, Status> {
        moves!(self, request, CallAgainRequest => CallAgainResponse, |message| {
            Ok(Command::CallAgain { ticket: named(message.ticket)?, window: message.window })
        })
    }

    async fn put_off_ticket(
        &self,
        request: Request<v1::PutOffTicketRequest>,
    ) -> Result<Response<v1::PutOffTicketResponse>, Status> {
        moves!(self, request, PutOffTicketRequest => PutOffTicketResponse, |message| {
            let minutes = convert::queue::minutes_from("minutes", message.minutes)?;
            Ok(Command::PutOff { ticket: named(message.ticket)?, window: message.window, minutes })
        })
    }

    async fn redirect_ticket(
        &self,
        request: Request<v1::RedirectTicketRequest>,
    ) -> Result<Response<v1::RedirectTicketResponse>, Status> {
        moves!(self, request, RedirectTicketRequest => RedirectTicketResponse, |message| {
            let to = convert::queue::destination_from(message.to)?;
            Ok(Command::Redirect { ticket: named(message.ticket)?, window: message.window, to })
        })
    }

    async fn bind_ticket(
        &self,
        request: Request<v1::BindTicketRequest>,
    ) -> Result<Response<v1::BindTicketResponse>, Status> {
        moves!(self, request, BindTicketRequest => BindTicketResponse, |message| {
            Ok(Command::Bind { ticket: named(message.ticket)?, window: message.window })
        })
    }

    async fn return_ticket(
        &self,
        request: Request<v1::ReturnTicketRequest>,
    ) -> Result<Response<v1::ReturnTicketResponse>, Status> {
        moves!(self, request, ReturnTicketRequest => ReturnTicketResponse, |message| {
            Ok(Command::ReturnToQueue { ticket: named(message.ticket)?, window: message.window })
        })
    }

    async fn leave_queue(
        &self,
        request: Request<v1::LeaveQueueRequest>,
    ) -> Result<Response<v1::LeaveQueueResponse>, Status> {
        moves!(self, request, LeaveQueueRequest => LeaveQueueResponse, |message| {
            Ok(Command::Leave { ticket: named(message.ticket)? })
        })
    }

    async fn open_window(
        &self,
        request: Request<v1::OpenWindowRequest>,
    ) -> Result<Response<v1::OpenWindowResponse>, Status> {
        changes_window!(self, request, OpenWindowRequest => OpenWindowResponse, |message| {
            Ok(Command::OpenWindow { window: message.window })
        })
    }

    async fn close_window(
        &self,
        request: Request<v1::CloseWindowRequest>,
    ) -> Result<Response<v1::CloseWindowResponse>, Status> {
        changes_window!(self, request, CloseWindowRequest => CloseWindowResponse, |message| {
            Ok(Command::CloseWindow { window: message.window })
        })
    }

    async fn start_break(
        &self,
        request: Request<v1::StartBreakRequest>,
    ) -> Result<Response<v1::StartBreakResponse>, Status> {
        changes_window!(self, request, StartBreakRequest => StartBreakResponse, |message| {
            let minutes = convert::queue::minutes_from("minutes", message.minutes)?;
            Ok(Command::StartBreak { window: message.window, minutes })
        })
    }

    async fn list_desks(
        &self,
        request: Request<v1::ListDesksRequest>,
    ) -> Result<Response<v1::ListDesksResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListDesksRequest| async move {
            required("office", &message.office)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.needs_queue(&context).await?;
            let meta = desk.read_meta();
            let queue = desk.long_read(|| desk.query.queue(&message.office, Share::Hall))?;
            let queue = queue.as_ref().map(|read| &read.value);
            let world = desk.query.world();
            let offset =
                world.directory.office(&message.office).map_or(0, |office| office.utc_offset_minutes);
            let date = local_date(desk.query.applied().1, offset);
            let today = queue.and_then(Queue::day).map_or(date, |day| day.max(date));
            let desks = world
                .directory
                .windows(&message.office)
                .filter(|window| message.window.is_empty() || window.number == message.window)
                .map(|window| {
                    let number = &window.number;
                    let known = queue.and_then(|queue| queue.desk(number));
                    let held = queue.and_then(|queue| queue.at_window(number));
                    let held = held.filter(|ticket| ticket.ticket.day == today);
                    convert::queue::desk(&message.office, number, today, known, held)
                })
                .collect();
            Ok(v1::ListDesksResponse { meta, desks })
        };
        self.0.handle(request, handler).await
    }

    async fn close_day(
        &self,
        request: Request<v1::CloseDayRequest>,
    ) -> Result<Response<v1::CloseDayResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::CloseDayRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            match desk.queue_command(&context, request, &message.office, Command::CloseDay).await? {
                (Reply::DayClosed { left }, meta) => Ok(v1::CloseDayResponse { meta, left }),
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn book_slot(
        &self,
        request: Request<v1::BookSlotRequest>,
    ) -> Result<Response<v1::BookSlotResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::BookSlotRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let office = message.office.clone();
            let command = Command::Book {
                purpose: convert::queue::purpose_from(message.purpose)?,
                slot_ms: convert::queue::moment_from("slot", message.slot)?,
                service: message.service,
                category: message.category,
                reference: message.reference,
            };
            let (booking, meta) = desk.booking_command(&context, request, &office, command).await?;
            Ok(v1::BookSlotResponse { meta, booking })
        };
        self.0.handle(request, handler).await
    }

    async fn cancel_booking(
        &self,
        request: Request<v1::CancelBookingRequest>,
    ) -> Result<Response<v1::CancelBookingResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::CancelBookingRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let command = Command::CancelBooking { booking: convert::queue::booking_from(message.booking)? };
            let (booking, meta) = desk.booking_command(&context, request, &message.office, command).await?;
            Ok(v1::CancelBookingResponse { meta, booking })
        };
        self.0.handle(request, handler).await
    }

    async fn check_in(
        &self,
        request: Request<v1::CheckInRequest>,
    ) -> Result<Response<v1::CheckInResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::CheckInRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let command = Command::CheckIn { booking: convert::queue::booking_from(message.booking)? };
            let (reply, meta) = desk.queue_command(&context, request, &message.office, command).await?;
            let (ticket, ahead) = reply.given().ok_or_else(wrong_reply)?;
            let ticket = Some(convert::queue::ticket(&message.office, &ticket));
            Ok(v1::CheckInResponse { meta, ticket, ahead })
        };
        self.0.handle(request, handler).await
    }

    async fn list_bookings(
        &self,
        request: Request<v1::ListBookingsRequest>,
    ) -> Result<Response<v1::ListBookingsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListBookingsRequest| async move {
            required("office", &message.office)?;
            let day = convert::date_opt("day", &message.day)?;
            let filter = format!("{}\0{}", message.office, message.day);
            let page =
                desk.page(&context, message.page_size, PAGE, filter.as_bytes(), &message.page_token)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.check_office(&context, &message.office)?;
            desk.needs_queue(&context).await?;
            desk.record_read(&context, &format!("bookings of {}", message.office))?;
            let meta = desk.read_meta();
            let queue = desk.long_read(|| desk.query.queue(&message.office, Share::Bookings(day)))?;
            let bookings = queue.as_ref().into_iter().flat_map(|read| read.value.bookings());
            let named: Vec<(String, &Booking)> = bookings
                .filter(|booking| day.is_none_or(|day| booking.booking.day == day))
                .map(|booking| (booking.booking.part_name(), booking))
                .collect();
            let (found, next_page_token) =
                desk.page_by_text(&context, &page, filter.as_bytes(), named.into_iter(), |(name, _)| name);
            let bookings =
                found.iter().map(|(_, booking)| convert::queue::booking(&message.office, booking)).collect();
            Ok(v1::ListBookingsResponse { meta, bookings, next_page_token })
        };
        self.0.handle(request, handler).await
    }

    async fn list_slots(
        &self,
        request: Request<v1::ListSlotsRequest>,
    ) -> Result<Response<v1::ListSlotsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListSlotsRequest| async move {
            required("office", &message.office)?;
            let day = date("day", &message.day)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.needs_queue(&context).await?;
            let meta = desk.read_meta();
            let queue = desk.long_read(|| desk.query.queue(&message.office, Share::Slots))?;
            let queue = queue.map_or_else(|| Queue::empty(&message.office), |read| read.value);
            let slots = desk.free_slots(&queue, &message.service, day);
            Ok(v1::ListSlotsResponse {
                meta,
                slots: slots.into_iter().filter_map(convert::timestamp).collect(),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn get_queue_statistics(
        &self,
        request: Request<v1::GetQueueStatisticsRequest>,
    ) -> Result<Response<v1::GetQueueStatisticsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetQueueStatisticsRequest| async move {
            required("office", &message.office)?;
            let (from, to) = (date("from", &message.from)?, date("to", &message.to)?);
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.check_office(&context, &message.office)?;
            desk.needs_queue(&context).await?;
            let meta = desk.read_meta();
            let queue = desk.long_read(|| desk.query.queue(&message.office, Share::Statistics(from, to)))?;
            let queue = queue.map_or_else(|| Queue::empty(&message.office), |read| read.value);
            let statistics = queue.statistics(from, to).map_err(Failure::Refused)?;
            Ok(convert::queue::statistics(meta, &statistics))
        };
        self.0.handle(request, handler).await
    }

    type WatchBoardStream = board::BoardStream;

    async fn watch_board(
        &self,
        request: Request<v1::WatchBoardRequest>,
    ) -> Result<Response<Self::WatchBoardStream>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::WatchBoardRequest| async move {
            required("office", &message.office)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.needs_queue(&context).await?;
            board::start(&desk, &context, &message)
        };
        self.0.handle(request, handler).await
    }

    async fn tell_outside_event(
        &self,
        request: Request<v1::TellOutsideEventRequest>,
    ) -> Result<Response<v1::TellOutsideEventResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::TellOutsideEventRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let office = message.office;
            let command = Command::Outside(convert::outside::event_from(message.event)?);
            match desk.queue_command(&context, request, &office, command).await? {
                (Reply::Outside(ticket), meta) => {
                    let ticket = ticket.map(|ticket| convert::queue::ticket(&office, &ticket));
                    Ok(v1::TellOutsideEventResponse { meta, ticket })
                }
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    type WatchQueueStream = queue_stream::QueueStream;

    async fn watch_queue(
        &self,
        request: Request<v1::WatchQueueRequest>,
    ) -> Result<Response<Self::WatchQueueStream>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::WatchQueueRequest| async move {
            required("office", &message.office)?;
            // An export holds everything that was acknowledged before it began.
            desk.read_point(&context, None).await?;
            desk.check_office(&context, &message.office)?;
            desk.needs_queue(&context).await?;
            queue_stream::start(&desk, &context, &message)
        };
        self.0.handle(request, handler).await
    }
}
