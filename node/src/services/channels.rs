//! `okno.v1.ChannelService`: channels for those who run them (R-I1, R-I4).

use super::{
    desk::{Desk, WriteRequest, wrong_reply},
    exchanges::body_forgotten,
    scope::Letters,
};
use crate::{
    convert::{channels as wire, required, timestamp},
    failure::Failure,
    front::CallContext,
};
use bytes::Bytes;
use okno_domain::{
    catalogue::{self, SourceFile, check},
    channel::{Channel, Command, LetterState, MessageState, Mode, Reply, files, settings},
    entity::{EntityRef, Kind},
    exchange::BodyRef,
    refusal::{CHANNEL_UNKNOWN, LETTER_STATE, LETTER_UNKNOWN, MESSAGE_UNKNOWN, refuse},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, channel_service_server::ChannelService};
use okno_runtime::{
    Read,
    channels::{Ask, Told},
};
use std::sync::Arc;
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub struct Channels(pub Arc<Desk>);

/// Dead or parked letters of one page.
const PAGE: (u32, u32) = (100, 1_000);
/// Channels of one answer: a region has dozens of integrations.
const CHANNELS_MAX: usize = 1_000;

fn unknown(code: &str) -> Failure {
    Failure::Refused(refuse(CHANNEL_UNKNOWN).with("channel", code))
}

impl Desk {
    async fn channel_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        channel: &str,
        command: Command,
    ) -> Result<(Reply, Option<v1::WriteMeta>), Failure> {
        self.channels_allowed(context).await?;
        let target = wire::channel_ref(channel)?;
        match self.command(context, request, target, AnyCommand::Channel(command)).await? {
            (AnyReply::Channel(reply), meta) => Ok((reply, meta)),
            _ => Err(wrong_reply()),
        }
    }

    /// Stops, opens or empties a channel, and shows it as it is after that.
    async fn steer(
        &self,
        context: &CallContext,
        request: WriteRequest,
        channel: &str,
        (mode, reason): (Mode, String),
    ) -> Result<(v1::ChannelFigures, Option<v1::WriteMeta>), Failure> {
        let command = Command::Steer { mode, reason };
        let (reply, meta) = self.channel_command(context, request, channel, command).await?;
        let (Reply::Steered { .. }, Some(index)) = (reply, meta.as_ref().map(|meta| meta.applied_index))
        else {
            return Err(wrong_reply());
        };
        self.wait_for_own(index).await?;
        let head = self.channel_head(channel)?.ok_or_else(|| unknown(channel))?;
        Ok((wire::figures(&head, context.language), meta))
    }

    async fn move_dead(
        &self,
        context: &CallContext,
        request: WriteRequest,
        channel: &str,
        command: Command,
    ) -> Result<(u32, u32, Option<v1::WriteMeta>), Failure> {
        match self.channel_command(context, request, channel, command).await? {
            (Reply::Moved { count, left }, meta) => Ok((count, left, meta)),
            _ => Err(wrong_reply()),
        }
    }

    /// A channel with its backlog: rare, and off the network threads.
    async fn whole_channel(
        &self,
        context: &CallContext,
        code: &str,
        read: Option<&v1::ReadOptions>,
    ) -> Result<Read<Channel>, Failure> {
        wire::channel_ref(code)?;
        self.read_point(context, read).await?;
        let found = self.long_read(|| self.query.snapshot()?.entity::<Channel>(code))?;
        found.ok_or_else(|| unknown(code))
    }

    /// May the caller look into these? A refusal is recorded as a denial.
    fn expect_letters(&self, context: &CallContext, letters: Letters) -> Result<(), Failure> {
        let caller = context.caller();
        letters
            .check(caller.kind, &caller.id, &self.query.world().directory)
            .inspect_err(|failure| self.record_denial(context, failure.reason()))
    }

    /// The body of a letter that no case has: a case shows its own.
    fn letter_body(&self, channel: &str, number: u64) -> Result<BodyRef, Failure> {
        let letter = self.query.snapshot().and_then(|view| view.channel_letter(channel, number));
        let letter = letter.map_err(|error| self.unreadable(error))?;
        let letter = letter
            .ok_or_else(|| Failure::Refused(refuse(LETTER_UNKNOWN).with("letter", number.to_string())))?;
        match &letter.state {
            LetterState::Taken { case, .. } => Err(Failure::Refused(
                refuse(LETTER_STATE)
                    .with("state", letter.state.name())
                    .with("expected", "parked, routing or dropped")
                    .with("case", case.clone()),
            )),
            LetterState::Routing { .. } | LetterState::Parked { .. } | LetterState::Dropped { .. } => {
                Ok(letter.body.clone())
            }
        }
    }

    /// Against what the called node has, as of the read point; an installation is checked by the leader.
    fn expect_processes(&self, module: &files::Module) -> Result<(), Failure> {
        let present = self.query.world().catalogue.clone();
        let problems = check::processes(&module.processes, &present);
        if problems.is_empty() { Ok(()) } else { Err(Failure::Refused(check::refusal(&problems))) }
    }

    /// How many records it put, and how many were there.
    async fn processes_command(
        &self,
        context: &CallContext,
        request: WriteRequest,
        command: catalogue::Command,
    ) -> Result<(u32, u32, Option<v1::WriteMeta>), Failure> {
        let target = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.to_owned() };
        match self.command(context, request, target, AnyCommand::Catalogue(command)).await? {
            (AnyReply::Catalogue(catalogue::Reply::Loaded { changed, unchanged, .. }), meta) => {
                Ok((changed, unchanged, meta))
            }
            _ => Err(wrong_reply()),
        }
    }

    async fn install(
        &self,
        context: &CallContext,
        request: WriteRequest,
        module: files::Module,
    ) -> Result<v1::InstallModuleResponse, Failure> {
        self.channels_allowed(context).await?;
        // Three commits under one request: the later ones have ids that follow from the first, so that a retry repeats them
        // all. First the codes of asks are claimed: whatever else the catalogue refuses it refuses before anything changed, and
        // what is claimed it does not refuse afterwards, however it changes in between. A channel that refuses leaves a
        // claim behind, which changes nothing that holds and is the module's own.
        let following = |n: u32| WriteRequest {
            request_id: following_id(request.request_id, n),
            principal: request.principal.clone(),
            attempt: request.attempt,
            workstation: request.workstation.clone(),
            hash: request.hash,
        };
        let (claim, load) = (following(2), following(1));
        if !module.processes.is_empty() {
            let claimed = catalogue::Command::ClaimProcesses(module.processes.clone());
            self.processes_command(context, claim, claimed).await?;
        }
        let channel = module.code;
        let command = Command::Configure { settings: Box::new(module.settings) };
        let (reply, mut meta) = self.channel_command(context, request, &channel, command).await?;
        let Reply::Configured { version } = reply else { return Err(wrong_reply()) };
        let (mut changed, mut unchanged) = (0, 0);
        if !module.processes.is_empty() {
            let loaded = catalogue::Command::LoadProcesses(module.processes);
            (changed, unchanged, meta) = self.processes_command(context, load, loaded).await?;
        }
        Ok(v1::InstallModuleResponse {
            channel,
            version,
            processes_changed: changed,
            processes_unchanged: unchanged,
            meta,
        })
    }
}

/// The ids of what follows from a request: of the same moment, which is what the memory of requests goes by.
fn following_id(first: Uuid, n: u32) -> Uuid {
    let derived = okno_domain::ids::derived(first, n);
    let mut bytes = *derived.as_bytes();
    bytes[..6].copy_from_slice(&first.as_bytes()[..6]);
    uuid::Builder::from_bytes(bytes).with_version(uuid::Version::SortRand).into_uuid()
}

fn read_module(path: String, text: String) -> Result<files::Module, Failure> {
    let file = SourceFile::new(path, text);
    files::read(&file).map_err(|problems| Failure::Refused(settings::refusal(&problems)))
}

#[tonic::async_trait]
impl ChannelService for Channels {
    async fn install_module(
        &self,
        request: Request<v1::InstallModuleRequest>,
    ) -> Result<Response<v1::InstallModuleResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::InstallModuleRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let module = read_module(message.path, message.text)?;
            if !message.dry_run {
                return desk.install(&context, request, module).await;
            }
            desk.read_point(&context, None).await?;
            desk.expect_processes(&module)?;
            let version = desk.channel_head(&module.code)?.map_or(0, |head| head.root.version);
            Ok(v1::InstallModuleResponse {
                channel: module.code,
                version,
                processes_changed: 0,
                processes_unchanged: 0,
                meta: None,
            })
        };
        self.0.handle(request, handler).await
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListChannelsRequest| async move {
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.channels_allowed(&context).await?;
            let meta = desk.read_meta();
            let heads = desk.long_read(|| {
                let view = desk.query.snapshot()?;
                let mut heads = Vec::new();
                for code in view.channels(None, CHANNELS_MAX)? {
                    heads.extend(view.channel_head(&code)?);
                }
                Ok(heads)
            })?;
            let channels = heads.iter().map(|head| wire::figures(head, context.language));
            Ok(v1::ListChannelsResponse { channels: channels.collect(), meta })
        };
        self.0.handle(request, handler).await
    }

    async fn show_channel(
        &self,
        request: Request<v1::ShowChannelRequest>,
    ) -> Result<Response<v1::ShowChannelResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ShowChannelRequest| async move {
            wire::channel_ref(&message.channel)?;
            desk.read_point(&context, message.read.as_ref()).await?;
            let meta = desk.read_meta();
            let head = desk.channel_head(&message.channel)?.ok_or_else(|| unknown(&message.channel))?;
            let local = message.read.is_some_and(|read| read.consistency() == v1::Consistency::Local);
            // Who is attached the leader knows; a read of this node's own store does without.
            let attached = if local {
                Vec::new()
            } else {
                match desk.ask_leader(Ask::Attached { channel: message.channel.clone() }).await? {
                    Told::Attached(attached) => attached,
                    _ => return Err(wrong_reply()),
                }
            };
            Ok(v1::ShowChannelResponse {
                figures: Some(wire::figures(&head, context.language)),
                settings: files::write(&head.code, &head.settings),
                connectors: attached
                    .into_iter()
                    .map(|(node, session)| wire::attached(node, session))
                    .collect(),
                meta,
            })
        };
        self.0.handle(request, handler).await
    }

    async fn pause_channel(
        &self,
        request: Request<v1::PauseChannelRequest>,
    ) -> Result<Response<v1::PauseChannelResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::PauseChannelRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let how = (Mode::Paused, message.reason);
            let (figures, meta) = desk.steer(&context, request, &message.channel, how).await?;
            Ok(v1::PauseChannelResponse { figures: Some(figures), meta })
        };
        self.0.handle(request, handler).await
    }

    async fn resume_channel(
        &self,
        request: Request<v1::ResumeChannelRequest>,
    ) -> Result<Response<v1::ResumeChannelResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::ResumeChannelRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let how = (Mode::Open, String::new());
            let (figures, meta) = desk.steer(&context, request, &message.channel, how).await?;
            Ok(v1::ResumeChannelResponse { figures: Some(figures), meta })
        };
        self.0.handle(request, handler).await
    }

    async fn drain_channel(
        &self,
        request: Request<v1::DrainChannelRequest>,
    ) -> Result<Response<v1::DrainChannelResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::DrainChannelRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let how = (Mode::Draining, message.reason);
            let (figures, meta) = desk.steer(&context, request, &message.channel, how).await?;
            let left = figures.live.saturating_add(figures.dead);
            Ok(v1::DrainChannelResponse { figures: Some(figures), left, meta })
        };
        self.0.handle(request, handler).await
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListDeadLettersRequest| async move {
            let filter = message.channel.as_bytes();
            let page = desk.page(&context, message.page_size, PAGE, filter, &message.page_token)?;
            let read = desk.whole_channel(&context, &message.channel, message.read.as_ref()).await?;
            // As of the read point: a role that was given just now counts.
            desk.expect_letters(&context, Letters::Dead)?;
            desk.record_read(&context, &message.channel)?;
            let dead = read.value.dead().filter_map(|letter| match letter.state {
                MessageState::Dead { at_ms } => Some((place(at_ms, letter.sequence), at_ms, letter)),
                _ => None,
            });
            let (found, next_page_token) = desk.page_by_text(&context, &page, filter, dead, |row| &row.0);
            let letters = found.into_iter().map(|(_, at_ms, letter)| v1::DeadLetter {
                message_id: letter.id.clone(),
                case: letter.case.clone(),
                kind: letter.kind.clone(),
                subject: letter.subject.clone(),
                reason: letter.failure.clone(),
                attempts: letter.attempts,
                accepted_at: timestamp(letter.accepted_ms),
                buried_at: timestamp(at_ms),
                expires_at: letter.expires_ms.and_then(timestamp),
                received: letter.received.iter().map(wire::body).collect(),
            });
            Ok(v1::ListDeadLettersResponse {
                letters: letters.collect(),
                next_page_token,
                meta: desk.read_meta_at(read.applied_index),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<v1::RedriveDeadLettersRequest>,
    ) -> Result<Response<v1::RedriveDeadLettersResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::RedriveDeadLettersRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let which = wire::which_from(message.message_ids, message.oldest)?;
            let command = Command::Redrive { which };
            let (moved, left, meta) = desk.move_dead(&context, request, &message.channel, command).await?;
            Ok(v1::RedriveDeadLettersResponse { moved, left, meta })
        };
        self.0.handle(request, handler).await
    }

    async fn discard_dead_letters(
        &self,
        request: Request<v1::DiscardDeadLettersRequest>,
    ) -> Result<Response<v1::DiscardDeadLettersResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::DiscardDeadLettersRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            required("reason", &message.reason)?;
            let which = wire::which_from(message.message_ids, message.oldest)?;
            let command = Command::Discard { which, reason: message.reason };
            let (moved, left, meta) = desk.move_dead(&context, request, &message.channel, command).await?;
            Ok(v1::DiscardDeadLettersResponse { moved, left, meta })
        };
        self.0.handle(request, handler).await
    }

    async fn list_parked_letters(
        &self,
        request: Request<v1::ListParkedLettersRequest>,
    ) -> Result<Response<v1::ListParkedLettersResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::ListParkedLettersRequest| async move {
            let filter = message.channel.as_bytes();
            let page = desk.page(&context, message.page_size, PAGE, filter, &message.page_token)?;
            let read = desk.whole_channel(&context, &message.channel, message.read.as_ref()).await?;
            desk.expect_letters(&context, Letters::Parked)?;
            desk.record_read(&context, &message.channel)?;
            let parked = read.value.letters().filter_map(|letter| match &letter.state {
                LetterState::Parked { reason, .. } => Some((place(0, letter.number), reason, letter)),
                _ => None,
            });
            let (found, next_page_token) = desk.page_by_text(&context, &page, filter, parked, |row| &row.0);
            let letters = found.into_iter().map(|(_, reason, letter)| v1::ParkedLetter {
                number: letter.number,
                outside_id: letter.outside_id.clone(),
                about: letter.about.clone(),
                kind: letter.kind.clone(),
                subject: letter.subject.clone(),
                body: Some(wire::body(&letter.body)),
                received_at: timestamp(letter.received_ms),
                reason: reason.clone(),
            });
            Ok(v1::ListParkedLettersResponse {
                letters: letters.collect(),
                next_page_token,
                meta: desk.read_meta_at(read.applied_index),
            })
        };
        self.0.handle(request, handler).await
    }

    async fn get_channel_body(
        &self,
        request: Request<v1::GetChannelBodyRequest>,
    ) -> Result<Response<v1::GetChannelBodyResponse>, Status> {
        use v1::get_channel_body_request::Whose;
        let expected = || {
            Failure::field(
                "whose",
                "ожидается номер письма либо неудачная попытка сообщения",
                "expected the number of a letter, or a failed attempt of a message",
            )
        };
        let handler = |desk: Arc<Desk>, context: CallContext, message: v1::GetChannelBodyRequest| async move {
            let channel = message.channel.as_str();
            wire::channel_ref(channel)?;
            let (letters, subject) = match &message.whose {
                Some(Whose::Letter(number)) => (Letters::Parked, format!("{channel}/letter/{number}")),
                Some(Whose::Attempt(of)) => {
                    (Letters::Dead, format!("{channel}/message/{}", cut(&of.message_id)))
                }
                None => return Err(expected()),
            };
            // A role that was given just now may not have applied here.
            desk.read_point(&context, message.read.as_ref()).await?;
            desk.expect_letters(&context, letters)?;
            desk.channel_head(channel)?.ok_or_else(|| unknown(channel))?;
            // Before the answer says whether it is there: that, too, is told of somebody.
            desk.record_read(&context, &subject)?;
            let meta = desk.read_meta();
            let wanted = match message.whose {
                Some(Whose::Attempt(of)) => {
                    let found = desk.long_read(|| desk.query.snapshot()?.entity::<Channel>(channel))?;
                    let found = found.ok_or_else(|| unknown(channel))?.value;
                    let of_message =
                        || Failure::Refused(refuse(MESSAGE_UNKNOWN).with("message", cut(&of.message_id)));
                    let received = &found.message(&of.message_id).ok_or_else(of_message)?.received;
                    let body = received.iter().find(|body| body.number == of.body);
                    body.cloned().ok_or_else(|| {
                        Failure::field(
                            "attempt.body",
                            "такого сообщения у попыток нет",
                            "expected a body that ListDeadLetters names",
                        )
                    })?
                }
                Some(Whose::Letter(number)) => desk.letter_body(channel, number)?,
                None => return Err(expected()),
            };
            // Where it is not the bytes of its hash, reading it closes the node: it is damage.
            let body = desk.body_bytes(&wanted)?.ok_or_else(body_forgotten)?;
            Ok(v1::GetChannelBodyResponse { body, sha256: Bytes::copy_from_slice(&wanted.sha256), meta })
        };
        self.0.handle(request, handler).await
    }

    async fn assign_letter(
        &self,
        request: Request<v1::AssignLetterRequest>,
    ) -> Result<Response<v1::AssignLetterResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::AssignLetterRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            let case = super::cases::case_ref(&message.case_id)?.id;
            let command = Command::AssignLetter { letter: message.number, case };
            let (_, meta) = desk.channel_command(&context, request, &message.channel, command).await?;
            Ok(v1::AssignLetterResponse { meta })
        };
        self.0.handle(request, handler).await
    }

    async fn drop_letter(
        &self,
        request: Request<v1::DropLetterRequest>,
    ) -> Result<Response<v1::DropLetterResponse>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut message: v1::DropLetterRequest| async move {
            let meta = message.meta.take();
            let request = WriteRequest::of(&context, meta, &message)?;
            required("reason", &message.reason)?;
            let command = Command::DropLetter { letter: message.number, reason: message.reason };
            let (_, meta) = desk.channel_command(&context, request, &message.channel, command).await?;
            Ok(v1::DropLetterResponse { meta })
        };
        self.0.handle(request, handler).await
    }
}

/// A foreign id as it is recorded and told: ours have at most 128 characters.
fn cut(id: &str) -> String {
    id.chars().take(128).collect()
}

/// A place in a list as text that orders like it.
fn place(at_ms: i64, number: u64) -> String {
    format!("{at_ms:020}.{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_follow_from_the_first_are_their_own_and_of_its_moment() {
        let first = Uuid::now_v7();
        let [second, third] = [1, 2].map(|n| following_id(first, n));
        assert!(first != second && first != third && second != third);
        assert_eq!(second, following_id(first, 1));
        for id in [second, third] {
            assert_eq!(id.get_version_num(), 7);
            assert_eq!(first.as_bytes()[..6], id.as_bytes()[..6]);
        }
    }
}
