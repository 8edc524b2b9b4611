//! `okno.v1.Connectors`: connectors take messages of a channel, answer them, and bring letters. Streams are in
//! [`super::connector_streams`], the turn to take in [`super::hand_out`].

use super::{
    connector_streams,
    desk::{Desk, WriteRequest, wrong_reply},
    hand_out::HandedOut,
};
use crate::{convert::channels as wire, failure::Failure, front::CallContext};
use okno_domain::{
    channel::{Command, Exchanged, MessageState, Outgoing, Reply, Take, Token, Verdict},
    exchange::BodyRef,
    refusal::{DELIVERY_LOST, refuse},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, connectors_server::Connectors};
use okno_runtime::channels::{Ask, Delivered, Told};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Request, Response, Status, Streaming};

pub struct ConnectorCalls(pub Arc<Desk>);

/// The longest a pull may wait.
const PULL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Left of the caller's deadline when a pull stops waiting: for the hand-out itself.
const PULL_LEAD: Duration = Duration::from_millis(500);

impl Desk {
    /// What every call of a connector passes: the level, and a place among the calls of its certificate.
    async fn connector_call(
        &self,
        context: &CallContext,
    ) -> Result<(String, tokio::sync::OwnedSemaphorePermit), Failure> {
        self.channels_allowed(context).await?;
        let connector = context.caller().id.to_string();
        let permit = self.traffic.call_of(&connector)?;
        Ok((connector, permit))
    }

    /// Verdicts, and perhaps more messages, under the caller's own request id.
    pub async fn exchange(
        &self,
        context: &CallContext,
        request: WriteRequest,
        channel: &str,
        (verdicts, take): (Vec<Verdict>, Take),
    ) -> Result<(HandedOut, Option<v1::WriteMeta>), Failure> {
        let target = wire::channel_ref(channel)?;
        let command = AnyCommand::Channel(Command::Exchange { verdicts, take });
        match self.command(context, request, target, command).await? {
            (AnyReply::Channel(Reply::Exchanged(exchanged)), meta) => {
                let index = meta.as_ref().map_or(0, |meta| meta.applied_index);
                Ok((HandedOut { exchanged: *exchanged, index }, meta))
            }
            _ => Err(wrong_reply()),
        }
    }

    /// What was handed out, with its bodies. One whose body cannot be read is given back rather than sent without it.
    pub async fn deliveries(
        &self,
        connector: &str,
        channel: &str,
        handed: &HandedOut,
    ) -> Result<Vec<(Arc<Outgoing>, Token, v1::Delivery)>, Failure> {
        let Exchanged { handed: messages, ack_ms, work_ms, .. } = &handed.exchanged;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        self.wait_for_own(handed.index).await?;
        let mut deliveries = Vec::with_capacity(messages.len());
        let mut unreadable = Vec::new();
        for message in messages {
            let MessageState::Out { token, .. } = message.state else { continue };
            match self.body_bytes(&message.body) {
                Ok(Some(bytes)) => {
                    let delivery = wire::delivery(channel, message, token, bytes, (*ack_ms, *work_ms));
                    deliveries.push((message.clone(), token, delivery));
                }
                Ok(None) | Err(_) => {
                    tracing::error!(channel, message = message.id, "a body to be sent is not there");
                    unreadable.push(Delivered { id: message.id.clone(), token });
                }
            }
        }
        self.give_back(connector, channel, unreadable, false).await;
        Ok(deliveries)
    }

    /// One answer to verdicts and takes, as unary calls give it.
    async fn settled(
        &self,
        connector: &str,
        channel: &str,
        handed: HandedOut,
        meta: Option<v1::WriteMeta>,
    ) -> Result<v1::SettleMessagesResponse, Failure> {
        let deliveries = self.deliveries(connector, channel, &handed).await?;
        let head = self.channel_head(channel)?;
        Ok(v1::SettleMessagesResponse {
            results: handed.exchanged.results.into_iter().map(wire::result).collect(),
            deliveries: deliveries.into_iter().map(|(_, _, delivery)| delivery).collect(),
            state: head.map(|head| wire::state(&head, handed.exchanged.again_ms)),
            meta,
        })
    }
}

#[tonic::async_trait]
impl Connectors for ConnectorCalls {
    type AttachConnectorStream = connector_streams::DownStream;

    async fn attach_connector(
        &self,
        request: Request<Streaming<v1::AttachConnectorRequest>>,
    ) -> Result<Response<Self::AttachConnectorStream>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, up: Streaming<v1::AttachConnectorRequest>| {
            connector_streams::attach(desk, context, up)
        };
        self.0.handle(request, handler).await
    }

    async fn pull_messages(
        &self,
        request: Request<v1::PullMessagesRequest>,
    ) -> Result<Response<v1::PullMessagesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::PullMessagesRequest| async move {
            let (connector, _permit) = desk.connector_call(&context).await?;
            let meta = message.meta.take();
            let mut request = WriteRequest::of(&context, meta, &message)?;
            wire::channel_ref(&message.channel)?;
            let instance = wire::instance_from(&message.instance)?;
            request.workstation.clone_from(&instance);
            let take = wire::take_from(message.messages.max(1), message.bytes)?;
            let channel = message.channel;
            if desk.own_channel(&channel, &connector).is_err() {
                // What was installed just now may not have applied here; what is wrong then is wrong.
                desk.read_point(&context, None).await?;
            }
            let wait = Duration::from_millis(message.wait_ms.into()).min(PULL_WAIT_MAX);
            let latest = context.deadline.checked_sub(PULL_LEAD).unwrap_or(context.deadline);
            let until = (Instant::now() + wait).min(latest);
            let named = (Some(request), Some(until));
            let Some(handed) = desk.take((&connector, &instance), &channel, || take, named).await? else {
                let head = desk.own_channel(&channel, &connector)?;
                let state = Some(wire::state(&head, None));
                return Ok(v1::PullMessagesResponse { deliveries: Vec::new(), state, meta: None });
            };
            let meta = desk.write_meta(handed.index);
            let answer = desk.settled(&connector, &channel, handed, meta).await?;
            Ok(v1::PullMessagesResponse {
                deliveries: answer.deliveries,
                state: answer.state,
                meta: answer.meta,
            })
        };
        self.0.handle(request, handler).await
    }

    async fn acknowledge_messages(
        &self,
        request: Request<v1::AcknowledgeMessagesRequest>,
    ) -> Result<Response<v1::AcknowledgeMessagesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::AcknowledgeMessagesRequest| async move {
            let (connector, _permit) = desk.connector_call(&context).await?;
            wire::channel_ref(&message.channel)?;
            let deliveries = wire::delivered_from(message.deliveries)?;
            let reasons = desk.acknowledge(&connector, &message.channel, deliveries.clone()).await?;
            let refused = deliveries.into_iter().zip(reasons).filter(|(_, reason)| !reason.is_empty());
            let refused = refused.map(|(delivered, reason)| v1::VerdictResult {
                message_id: delivered.id,
                reason,
                withdrawn: false,
            });
            Ok(v1::AcknowledgeMessagesResponse { refused: refused.collect() })
        };
        self.0.handle(request, handler).await
    }

    async fn settle_messages(
        &self,
        request: Request<v1::SettleMessagesRequest>,
    ) -> Result<Response<v1::SettleMessagesResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::SettleMessagesRequest| async move {
            let (connector, _permit) = desk.connector_call(&context).await?;
            let meta = message.meta.take();
            let mut request = WriteRequest::of(&context, meta, &message)?;
            request.workstation = wire::instance_from(&message.instance)?;
            let take = wire::take_from(message.take_messages, message.take_bytes)?;
            let verdicts = wire::verdicts_from(message.verdicts)?;
            let (handed, meta) = desk.exchange(&context, request, &message.channel, (verdicts, take)).await?;
            desk.settled(&connector, &message.channel, handed, meta).await
        };
        self.0.handle(request, handler).await
    }

    async fn bring_letters(
        &self,
        request: Request<v1::BringLettersRequest>,
    ) -> Result<Response<v1::BringLettersResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::BringLettersRequest| async move {
            let (_, _permit) = desk.connector_call(&context).await?;
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let target = wire::channel_ref(&message.channel)?;
            let letters = wire::letters_from(message.letters)?;
            let command = AnyCommand::Channel(Command::Receive { letters });
            match desk.command(&context, request, target, command).await? {
                (AnyReply::Channel(Reply::Received { results }), meta) => {
                    let results = results.into_iter().map(|result| v1::LetterResult {
                        outside_id: result.outside_id,
                        number: result.number,
                        duplicate: result.duplicate,
                        reason: result.reason,
                    });
                    Ok(v1::BringLettersResponse { results: results.collect(), meta })
                }
                _ => Err(wrong_reply()),
            }
        };
        self.0.handle(request, handler).await
    }

    async fn fetch_body(
        &self,
        request: Request<v1::FetchBodyRequest>,
    ) -> Result<Response<v1::FetchBodyResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::FetchBodyRequest| async move {
            let (connector, _permit) = desk.connector_call(&context).await?;
            wire::channel_ref(&message.channel)?;
            let wanted = wire::body_from("body", message.body)?;
            let name = v1::DeliveryName { message_id: message.message_id.clone(), token: message.token };
            let delivery = wire::delivered_from(vec![name])?.swap_remove(0);
            let refused = |reason: &str| {
                let mut refusal = refuse(DELIVERY_LOST).with("message", message.message_id.clone());
                reason.clone_into(&mut refusal.reason);
                Failure::Refused(refusal)
            };
            let ask = Ask::Holds { channel: message.channel.clone(), connector, delivery };
            let sequence = match desk.ask_leader(ask).await? {
                Told::Holds(Ok(sequence)) => sequence,
                Told::Holds(Err(reason)) => return Err(refused(&reason)),
                _ => return Err(wrong_reply()),
            };
            // The leader may be ahead of this node's rows.
            desk.read_point(&context, None).await?;
            let held = desk
                .query
                .snapshot()
                .and_then(|view| view.channel_message(&message.channel, sequence))
                .map_err(|error| desk.unreadable(error))?
                .ok_or_else(|| refused(DELIVERY_LOST.code))?;
            if !names(&held, &wanted) {
                return Err(Failure::field(
                    "body",
                    "такого тела у сообщения нет",
                    "expected a body that the delivery names",
                ));
            }
            desk.record_read(&context, &held.case)?;
            let body = desk.body_bytes(&wanted)?;
            let body = body.ok_or_else(super::exchanges::body_forgotten)?;
            Ok(v1::FetchBodyResponse { body })
        };
        self.0.handle(request, handler).await
    }
}

/// Does a message name this body: its own, or of what was asked on its account?
fn names(message: &Outgoing, body: &BodyRef) -> bool {
    let answers = message.subs.iter().filter_map(|sub| sub.answer.as_ref());
    let others = answers.flat_map(|answer| answer.body.iter().chain(&answer.others));
    message.body == *body || others.into_iter().any(|other| other == body)
}
