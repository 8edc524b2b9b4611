//! `okno.v1.ChannelService`: channels for those who run them (R-I1, R-I4).

use super::desk::{Desk, WriteRequest, wrong_reply};
use crate::{
    convert::{channels as wire, required, timestamp},
    failure::Failure,
    front::CallContext,
};
use okno_domain::{
    catalogue::{self, SourceFile, check},
    channel::{Channel, Command, LetterState, MessageState, Mode, Reply, files, settings},
    entity::{EntityRef, Kind},
    refusal::{CHANNEL_UNKNOWN, refuse},
    registry::{AnyCommand, AnyReply},
};
use okno_proto::v1::{self, channel_service_server::ChannelService};
use okno_runtime::{
    Read,
    channels::{Ask, ChannelHead, Told},
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
        self.channels_allowed()?;
        let target = wire::channel_ref(channel)?;
        match self.command(context, request, target, AnyCommand::Channel(command)).await? {
            (AnyReply::Channel(reply), meta) => Ok((reply, meta)),
            _ => Err(wrong_reply()),
        }
    }

    fn channel_figures(
        &self,
        context: &CallContext,
        head: &ChannelHead,
    ) -> Result<v1::ChannelFigures, Failure> {
        let oldest = self.query.snapshot().and_then(|view| view.channel_oldest(head));
        let oldest_ms = oldest.map_err(|error| self.unreadable(error))?;
        Ok(wire::figures(head, oldest_ms, context.language))
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
        Ok((self.channel_figures(context, &head)?, meta))
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

    /// Against what the called node has; the installation is checked again on the leader.
    fn expect_processes(&self, module: &files::Module) -> Result<(), Failure> {
        let present = self.query.world().catalogue.clone();
        let problems = check::processes(&module.processes, &present);
        if problems.is_empty() { Ok(()) } else { Err(Failure::Refused(check::refusal(&problems))) }
    }

    async fn install(
        &self,
        context: &CallContext,
        request: WriteRequest,
        module: files::Module,
    ) -> Result<v1::InstallModuleResponse, Failure> {
        self.channels_allowed()?;
        // Before anything is committed: what the second commit would refuse must not leave the first one behind. Should
        // the catalogue change in between, the refusal says so, and the installation can be said again.
        if !module.processes.is_empty() {
            self.read_point(context, None).await?;
            self.expect_processes(&module)?;
        }
        // Two commits under one request: the second has an id that follows from the first, so that a retry repeats both.
        let second = WriteRequest {
            request_id: second_id(request.request_id),
            principal: request.principal.clone(),
            attempt: request.attempt,
            workstation: request.workstation.clone(),
            hash: request.hash,
        };
        let channel = module.code;
        let command = Command::Configure { settings: Box::new(module.settings) };
        let (reply, mut meta) = self.channel_command(context, request, &channel, command).await?;
        let Reply::Configured { version } = reply else { return Err(wrong_reply()) };
        let (mut changed, mut unchanged) = (0, 0);
        if !module.processes.is_empty() {
            let target = EntityRef { kind: Kind::Catalogue, id: catalogue::ENTITY_ID.to_owned() };
            let command = AnyCommand::Catalogue(catalogue::Command::LoadProcesses(module.processes));
            match self.command(context, second, target, command).await? {
                (
                    AnyReply::Catalogue(catalogue::Reply::Loaded { changed: put, unchanged: same, .. }),
                    later,
                ) => {
                    (changed, unchanged, meta) = (put, same, later);
                }
                _ => return Err(wrong_reply()),
            }
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

/// The id of what follows from a request: of the same moment, which is what the memory of requests goes by.
fn second_id(first: Uuid) -> Uuid {
    let derived = okno_domain::ids::derived(first, 1);
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
            let meta = desk.read_meta();
            let heads = desk.long_read(|| {
                let view = desk.query.snapshot()?;
                let mut heads = Vec::new();
                for code in view.channels(None, CHANNELS_MAX)? {
                    if let Some(head) = view.channel_head(&code)? {
                        heads.push((view.channel_oldest(&head)?, head));
                    }
                }
                Ok(heads)
            })?;
            let channels = heads.iter().map(|(oldest, head)| wire::figures(head, *oldest, context.language));
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
                figures: Some(desk.channel_figures(&context, &head)?),
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

/// A place in a list as text that orders like it.
fn place(at_ms: i64, number: u64) -> String {
    format!("{at_ms:020}.{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_id_follows_from_the_first_and_is_of_its_moment() {
        let first = Uuid::now_v7();
        let second = second_id(first);
        assert_ne!(first, second);
        assert_eq!(second, second_id(first));
        assert_eq!(second.get_version_num(), 7);
        assert_eq!(first.as_bytes()[..6], second.as_bytes()[..6]);
    }
}
