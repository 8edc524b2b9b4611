//! What cases and other channels tell a channel: requests, that they need an answer no longer, answers to what was asked
//! on a message's account, letters taken, bodies to forget.

use super::{
    Channel, Event, LetterState, MessageState, Mode, Move, Outgoing, Reply, SubAnswer,
    turn::{Turn, cut},
};
use crate::{
    entity::{Context, Decision, EntityRef, Kind, Refusal, Send},
    exchange::{BodyRef, ChannelRequest, DEPTH_MAX, Outcome, parent_of},
    message::Message,
    refusal::{CHANNEL_DRAINING, CHANNEL_FULL, MESSAGE_UNEXPECTED, SUBREQUEST_IMPOSSIBLE, refuse},
};

/// Bodies one message may ask to forget: what one sweep of a case names.
const FORGET_MAX: usize = 1_024;

impl Channel {
    pub(super) fn take_message(
        &self,
        source: &EntityRef,
        message: &Message,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let unexpected =
            || refuse(MESSAGE_UNEXPECTED).with("message", message.name()).with("source", source.to_string());
        match (message, source.kind) {
            (Message::ChannelRequest(request), Kind::Case | Kind::Channel) => {
                self.accept(source, request, context)
            }
            (Message::RequestWithdrawn { id }, Kind::Case | Kind::Channel) => {
                self.withdraw(source, id, context)
            }
            (Message::ChannelAnswer(answer), Kind::Channel) => {
                let what = SubAnswer {
                    outcome: one_line(&answer.outcome),
                    summary: cut(&answer.summary),
                    body: answer.body.clone(),
                    others: answer.others.clone(),
                };
                self.sub_answered(source, &answer.id, what, context)
            }
            (Message::LetterTaken { number }, Kind::Case) => self.letter_taken(source, *number, context),
            (Message::ForgetBodies { numbers }, Kind::Case) => self.forget(source, numbers, context),
            (Message::Refused { reason, of }, _) => match of.as_ref() {
                Message::ChannelRequest(request) => {
                    let what = SubAnswer {
                        outcome: Outcome::Refused { reason: cut(reason) },
                        summary: String::new(),
                        body: None,
                        others: Vec::new(),
                    };
                    self.sub_answered(source, &request.id, what, context)
                }
                Message::ChannelLetter(letter) => self.letter_refused(source, letter.number, reason, context),
                _ => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }

    /// Into the backlog. From here on it will be answered.
    fn accept(
        &self,
        source: &EntityRef,
        request: &ChannelRequest,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        if self.root.mode == Mode::Draining {
            return Err(refuse(CHANNEL_DRAINING).with("channel", self.id.clone()));
        }
        if request.depth > DEPTH_MAX {
            return Err(refuse(SUBREQUEST_IMPOSSIBLE).with("depth", format!("at most {DEPTH_MAX}")));
        }
        let depth = turn.settings.depth;
        if u32::try_from(self.messages.len()).map_or(true, |have| have >= depth) {
            return Err(refuse(CHANNEL_FULL).with("depth", format!("at most {depth}")));
        }
        if self.index.by_id.contains_key(&request.id) {
            return Err(refuse(MESSAGE_UNEXPECTED).with("message", request.id.clone()));
        }
        let default = turn.settings.expires_ms.map(|span| turn.now_ms.saturating_add(i64::from(span)));
        let message = Outgoing {
            sequence: turn.next_sequence(),
            id: request.id.clone(),
            source: source.clone(),
            case: request.case.clone(),
            kind: request.kind.clone(),
            key: request.key.clone(),
            subject: request.subject.clone(),
            body: request.body.clone(),
            accepted_ms: turn.now_ms,
            expires_ms: request.expires_ms.or(default),
            depth: request.depth,
            attempts: 0,
            deliveries: 0,
            unheard: 0,
            progress: 0,
            withdrawn: false,
            state: MessageState::Ready,
            subs: Vec::new(),
            failure: String::new(),
            received: Vec::new(),
        };
        turn.put(message, Move::Accepted);
        Ok(turn.finish(Reply::None))
    }

    /// What nobody works on ends at once; what is out is marked, and ends in its own time. Of what was answered already
    /// the answer is on its way.
    fn withdraw(
        &self,
        source: &EntityRef,
        id: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        if let Some(message) =
            turn.by_id(id).filter(|message| message.source == *source && !message.withdrawn)
        {
            let withdrawn = Outgoing { withdrawn: true, ..message.as_ref().clone() };
            match message.state {
                MessageState::Out { .. } | MessageState::Asking => {
                    turn.put(withdrawn, Move::Withdrawn);
                }
                MessageState::Ready | MessageState::Delayed { .. } | MessageState::Dead { .. } => {
                    turn.ends_instead(&withdrawn);
                }
            }
        }
        Ok(turn.finish(Reply::None))
    }

    /// One of those asked on a message's account has answered; with the last one the message waits for its turn again.
    fn sub_answered(
        &self,
        source: &EntityRef,
        id: &str,
        answer: SubAnswer,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        let unexpected = || refuse(MESSAGE_UNEXPECTED).with("message", id);
        let (parent, _) = parent_of(id).ok_or_else(unexpected)?;
        let message = turn.by_id(parent).ok_or_else(unexpected)?;
        let mut asking = message.as_ref().clone();
        let sub = asking
            .subs
            .iter_mut()
            .find(|sub| sub.id == id && sub.answer.is_none())
            .filter(|sub| source.kind == Kind::Channel && sub.channel == source.id)
            .ok_or_else(unexpected)?;
        sub.answer = Some(answer);
        if asking.subs.iter().all(|sub| sub.answer.is_some()) {
            asking.state = MessageState::Ready;
            if turn.ends_instead(&asking) {
                return Ok(turn.finish(Reply::None));
            }
        }
        turn.put(asking, Move::SubAnswered);
        Ok(turn.finish(Reply::None))
    }

    fn letter_taken(
        &self,
        source: &EntityRef,
        number: u64,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        let letter = self.routing(source, number)?;
        let state = LetterState::Taken { case: source.id.clone(), at_ms: turn.now_ms };
        turn.put_letter(super::Inbox { state, ..letter.clone() });
        Ok(turn.finish(Reply::None))
    }

    fn letter_refused(
        &self,
        source: &EntityRef,
        number: u64,
        reason: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        let letter = self.routing(source, number)?;
        let state = LetterState::Parked { reason: cut(reason), since_ms: turn.now_ms };
        turn.put_letter(super::Inbox { state, ..letter.clone() });
        Ok(turn.finish(Reply::None))
    }

    /// A letter on its way to this case.
    fn routing(&self, source: &EntityRef, number: u64) -> Result<&super::Inbox, Refusal> {
        let letter = self.letters.get(&number).map(AsRef::as_ref);
        letter
            .filter(|letter| {
                source.kind == Kind::Case
                    && matches!(&letter.state, LetterState::Routing { case } if *case == source.id)
            })
            .ok_or_else(|| refuse(MESSAGE_UNEXPECTED).with("letter", number.to_string()))
    }

    /// A case's year is over (R-I2): what it names here goes.
    fn forget(
        &self,
        source: &EntityRef,
        numbers: &[u64],
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        let known = numbers.iter().copied().filter(|number| (1..=self.root.last_body).contains(number));
        let numbers: Vec<u64> = known.take(FORGET_MAX).collect();
        let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        if !numbers.is_empty() {
            turn.events.push(Event::BodiesForgotten { numbers });
        }
        turn.sends.push(Send { target: source.clone(), message: Message::BodiesForgotten { count } });
        Ok(turn.finish(Reply::None))
    }
}

/// An outcome as it is kept with a message that waits: its reason cut to a line, as every text there.
fn one_line(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Rejected { reason } => Outcome::Rejected { reason: cut(reason) },
        Outcome::Discarded { reason } => Outcome::Discarded { reason: cut(reason) },
        Outcome::Refused { reason } => Outcome::Refused { reason: cut(reason) },
        Outcome::Answered | Outcome::Expired | Outcome::Withdrawn => outcome.clone(),
    }
}

/// The numbers of those bodies that a holder keeps, holder by holder.
pub(crate) fn by_holder<'b>(
    bodies: impl IntoIterator<Item = &'b BodyRef>,
) -> std::collections::BTreeMap<EntityRef, Vec<u64>> {
    let mut holders = std::collections::BTreeMap::<EntityRef, Vec<u64>>::new();
    for body in bodies {
        holders.entry(body.holder.clone()).or_default().push(body.number);
    }
    holders
}
