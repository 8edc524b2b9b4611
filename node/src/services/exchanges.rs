//! `okno.v1.ExchangeService`: what a case asks of channels and what it got (R-I2, R-C11).

use super::{
    cases::case_ref,
    desk::{Desk, WriteRequest, wrong_reply},
};
use crate::{
    convert::{self, channels as wire, required, timestamp},
    failure::Failure,
    front::CallContext,
};
use bytes::Bytes;
use okno_domain::{
    case::{AskBody, Case, Command, Exchange, ExchangeState, Reply},
    entity::{EntityRef, RefusalClass},
    exchange::{BODY_BYTES_MAX, BodyRef, Content},
    refusal::{BODY_TOO_LARGE, CALL_TOO_LARGE, refuse},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, exchange_service_server::ExchangeService};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct Exchanges(pub Arc<Desk>);

/// Requests of one ask, as processes may have.
const BODIES_MAX: usize = 16;

/// The body is gone, or never was here.
pub fn body_forgotten() -> Failure {
    Failure::refused(
        RefusalClass::NotFound,
        "BODY_FORGOTTEN",
        "Срок хранения сообщения истёк",
        "the message is kept no longer: its year is over",
    )
}

impl Desk {
    async fn ask_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        target: EntityRef,
        command: Command,
    ) -> Result<(u32, String, Option<v1::WriteMeta>), Failure> {
        match self.command(context, request, target, AnyCommand::Case(command)).await? {
            (AnyReply::Case(Reply::Asked { asking, state }), meta) => {
                Ok((asking, state.name().to_owned(), meta))
            }
            _ => Err(wrong_reply()),
        }
    }
}

fn bodies_from(bodies: Vec<v1::AskBody>) -> Result<Vec<AskBody>, Failure> {
    if bodies.len() > BODIES_MAX {
        return Err(Failure::Refused(refuse(CALL_TOO_LARGE).with("items", format!("at most {BODIES_MAX}"))));
    }
    if bodies.iter().any(|body| body.body.len() > BODY_BYTES_MAX) {
        let bytes = format!("at most {BODY_BYTES_MAX}");
        return Err(Failure::Refused(refuse(BODY_TOO_LARGE).with("bytes", bytes)));
    }
    Ok(bodies
        .into_iter()
        .map(|body| AskBody { subject: body.subject, key: body.key, body: Content(body.body.into()) })
        .collect())
}

fn exchange(exchange: &Exchange) -> v1::CaseExchange {
    let (since, reason) = match &exchange.state {
        ExchangeState::Planned => (None, ""),
        ExchangeState::Sent { at_ms } => (timestamp(*at_ms), ""),
        ExchangeState::Closed { at_ms, outcome } => (timestamp(*at_ms), outcome.reason()),
    };
    v1::CaseExchange {
        number: exchange.number,
        message_id: exchange.id.clone(),
        asking: exchange.asking,
        channel: exchange.channel.clone(),
        kind: exchange.kind.clone(),
        state: exchange.state.name().to_owned(),
        state_since: since,
        reason: reason.to_owned(),
        progress: exchange.progress.clone(),
        sent: Some(wire::body(&exchange.body)),
        received: exchange.answer.as_ref().map(wire::body),
        forgotten: exchange.forgotten,
        others: exchange.others.iter().map(wire::body).collect(),
    }
}

/// Everything that passed about a case, by reference.
fn bodies_of(case: &Case) -> impl Iterator<Item = &BodyRef> {
    let exchanges = case
        .exchanges()
        .flat_map(|exchange| std::iter::once(&exchange.body).chain(&exchange.answer).chain(&exchange.others));
    exchanges.chain(case.letters().map(|letter| &letter.letter.body))
}

#[tonic::async_trait]
impl ExchangeService for Exchanges {
    async fn ask_channels(
        &self,
        request: Request<v1::AskChannelsRequest>,
    ) -> Result<Response<v1::AskChannelsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::AskChannelsRequest| async move {
            desk.channels_allowed(&context).await?;
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = case_ref(&message.case_id)?;
            required("code", &message.code)?;
            let command = Command::Ask { code: message.code, bodies: bodies_from(message.bodies)? };
            let (asking, state, meta) = desk.ask_command(&context, request, target, command).await?;
            Ok(v1::AskChannelsResponse { asking, state, meta })
        };
        self.0.handle(request, handler).await
    }

    async fn give_up_ask(
        &self,
        request: Request<v1::GiveUpAskRequest>,
    ) -> Result<Response<v1::GiveUpAskResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::GiveUpAskRequest| async move {
            desk.channels_allowed(&context).await?;
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = case_ref(&message.case_id)?;
            let command = Command::GiveUpAsk { asking: message.asking };
            let (_, state, meta) = desk.ask_command(&context, request, target, command).await?;
            Ok(v1::GiveUpAskResponse { state, meta })
        };
        self.0.handle(request, handler).await
    }

    async fn list_exchanges(
        &self,
        request: Request<v1::ListExchangesRequest>,
    ) -> Result<Response<v1::ListExchangesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListExchangesRequest| async move {
            let id = case_ref(&message.case_id)?.id;
            desk.read_point(&context, message.read.as_ref()).await?;
            let read = desk.readable_case(&context, &id)?;
            let case = &read.value;
            let askings = case.askings().map(|asking| v1::CaseAsking {
                number: asking.number,
                code: asking.code.clone(),
                wait: asking.wait.name().to_owned(),
                order: asking.order.name().to_owned(),
                blocking: asking.blocking,
                requests: asking.requests.clone(),
                state: asking.state.name().to_owned(),
                asked_at: timestamp(asking.asked_ms),
            });
            let letters = case.letters().map(|letter| v1::CaseLetter {
                number: letter.number,
                channel: letter.channel.clone(),
                outside_id: letter.letter.outside_id.clone(),
                kind: letter.letter.kind.clone(),
                subject: letter.letter.subject.clone(),
                body: Some(wire::body(&letter.letter.body)),
                received_at: convert::timestamp(letter.letter.received_ms),
                forgotten: letter.forgotten,
            });
            Ok(v1::ListExchangesResponse {
                askings: askings.collect(),
                exchanges: case.exchanges().map(exchange).collect(),
                letters: letters.collect(),
                meta: desk.read_meta_at(read.applied_index),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn get_message_body(
        &self,
        request: Request<v1::GetMessageBodyRequest>,
    ) -> Result<Response<v1::GetMessageBodyResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetMessageBodyRequest| async move {
            let id = case_ref(&message.case_id)?.id;
            let wanted = wire::body_from("body", message.body)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            let read = desk.readable_case(&context, &id)?;
            if !bodies_of(&read.value).any(|own| *own == wanted) {
                return Err(Failure::field(
                    "body",
                    "такого сообщения у дела нет",
                    "expected a body that ListExchanges names",
                ));
            }
            // Where it is not the bytes of its hash, reading it closes the node: it is damage.
            let body = desk.body_bytes(&wanted)?.ok_or_else(body_forgotten)?;
            Ok(v1::GetMessageBodyResponse {
                body,
                sha256: Bytes::copy_from_slice(&wanted.sha256),
                meta: desk.read_meta_at(read.applied_index),
            })
        };
        self.0.handle(request, handler).await
    }
}
