//! Letters from outside: known by their outside id, routed to a case, or parked for a person.

use super::{
    Channel, Inbox, LetterState, NewLetter, Received, Reply,
    turn::Turn,
    work::{expect_body, expect_call},
};
use crate::{
    entity::{Context, Decision, Refusal},
    exchange::{CODE_MAX, LINE_MAX, Letter, case_of},
    message::Message,
    refusal::{
        CHANNEL_FULL, FIELD_INVALID, LETTER_ID_REUSED, LETTER_STATE, LETTER_UNADDRESSED, LETTER_UNKNOWN,
        refuse,
    },
    validators::{expect_len, expect_line},
};
use std::{collections::BTreeMap, sync::Arc};

/// What a letter may take in a commit beside its body: three times its lines, whose characters have up to four bytes.
const LETTER_BYTES: usize = 12 * 1024;
/// Characters of the id of a case, or of a message id.
const ABOUT_MAX: usize = 128;

impl Channel {
    /// What a connector brings. A letter that is refused hinders no other; one refused alone is refused as a call.
    pub(super) fn receive_letters(
        &self,
        letters: &[NewLetter],
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        let mut turn = Turn::begin(self, context)?;
        if letters.is_empty() {
            return Err(refuse(FIELD_INVALID).with("letters", "at least one"));
        }
        expect_call(letters.len(), letters.iter().map(|letter| &letter.body))?;
        let mut fresh = BTreeMap::new();
        let mut results = Vec::with_capacity(letters.len());
        for letter in letters {
            let taken = self.take_in(letter, &mut turn, &mut fresh);
            if let (Err(refusal), 1) = (&taken, letters.len()) {
                return Err(refusal.clone());
            }
            let outside_id = letter.outside_id.chars().take(LINE_MAX).collect();
            results.push(match taken {
                Ok((number, duplicate)) => Received { outside_id, number, duplicate, reason: String::new() },
                Err(refusal) => Received { outside_id, number: 0, duplicate: false, reason: refusal.reason },
            });
        }
        Ok(turn.finish(Reply::Received { results }))
    }

    /// Its number, and whether it was here before.
    fn take_in<'l>(
        &self,
        new: &'l NewLetter,
        turn: &mut Turn<'_>,
        fresh: &mut BTreeMap<&'l str, (u64, [u8; 32])>,
    ) -> Result<(u64, bool), Refusal> {
        if new.outside_id.trim().is_empty() {
            return Err(refuse(FIELD_INVALID).with("outside_id", "not empty"));
        }
        expect_line("outside_id", &new.outside_id, LINE_MAX)?;
        expect_line("about", &new.about, ABOUT_MAX)?;
        expect_line("kind", &new.kind, CODE_MAX)?;
        expect_line("subject", &new.subject, LINE_MAX)?;
        expect_body(&new.body)?;
        let known = self.index.outside.get(&new.outside_id).and_then(|number| self.letters.get(number));
        let known = known.map(|letter| (letter.number, letter.body.sha256));
        if let Some((number, sha256)) = known.or_else(|| fresh.get(new.outside_id.as_str()).copied()) {
            if sha256 == new.body.sha256() {
                return Ok((number, true));
            }
            return Err(refuse(LETTER_ID_REUSED).with("outside_id", new.outside_id.clone()));
        }
        let depth = turn.settings.inbound.depth;
        if u32::try_from(self.letters.len() + fresh.len()).map_or(true, |have| have >= depth) {
            return Err(refuse(CHANNEL_FULL).with("inbound.depth", format!("at most {depth}")));
        }
        turn.expect_room(new.body.0.len() + LETTER_BYTES)?;
        let case = case_of(&new.about);
        let state = if is_case(case) {
            LetterState::Routing { case: case.to_owned() }
        } else {
            LetterState::Parked { reason: LETTER_UNADDRESSED.code.to_owned(), since_ms: turn.now_ms }
        };
        let letter = Inbox {
            number: turn.next_letter(),
            outside_id: new.outside_id.clone(),
            about: new.about.clone(),
            kind: new.kind.clone(),
            subject: new.subject.clone(),
            body: turn.keep(&new.body),
            received_ms: turn.now_ms,
            connector: turn.context.origin.principal.id.clone(),
            state,
        };
        fresh.insert(&new.outside_id, (letter.number, letter.body.sha256));
        send(turn, &letter);
        Ok((turn.put_letter(letter).number, false))
    }

    /// A person has found out whose it is.
    pub(super) fn assign_letter(
        &self,
        number: u64,
        case: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        if !is_case(case) {
            return Err(refuse(FIELD_INVALID).with("case", "the id of a case"));
        }
        let mut turn = Turn::begin(self, context)?;
        let letter = Inbox {
            state: LetterState::Routing { case: case.to_owned() },
            about: case.to_owned(),
            ..self.parked(number)?.clone()
        };
        send(&mut turn, &letter);
        let letter = turn.put_letter(letter);
        Ok(turn.finish(Reply::Letter(letter)))
    }

    pub(super) fn drop_letter(
        &self,
        number: u64,
        reason: &str,
        context: &Context<'_>,
    ) -> Result<Decision<Self>, Refusal> {
        if reason.trim().is_empty() {
            return Err(refuse(FIELD_INVALID).with("reason", "not empty"));
        }
        expect_len("reason", reason, LINE_MAX)?;
        let mut turn = Turn::begin(self, context)?;
        let by = context.origin.principal.clone();
        let state = LetterState::Dropped { reason: reason.to_owned(), by, at_ms: turn.now_ms };
        let letter: Arc<Inbox> = turn.put_letter(Inbox { state, ..self.parked(number)?.clone() });
        Ok(turn.finish(Reply::Letter(letter)))
    }

    fn parked(&self, number: u64) -> Result<&Inbox, Refusal> {
        let letter = self.letters.get(&number);
        let letter = letter.ok_or_else(|| refuse(LETTER_UNKNOWN).with("letter", number.to_string()))?;
        match &letter.state {
            LetterState::Parked { .. } => Ok(letter),
            other => Err(refuse(LETTER_STATE).with("state", other.name()).with("expected", "parked")),
        }
    }
}

/// On its way to the case it names.
fn send(turn: &mut Turn<'_>, letter: &Inbox) {
    let LetterState::Routing { case } = &letter.state else { return };
    let told = Letter {
        number: letter.number,
        outside_id: letter.outside_id.clone(),
        kind: letter.kind.clone(),
        subject: letter.subject.clone(),
        body: letter.body.clone(),
        received_ms: letter.received_ms,
        connector: letter.connector.clone(),
    };
    turn.tell(case, Message::ChannelLetter(Box::new(told)));
}

/// May a case have this id? Cases are named by UUIDs.
fn is_case(id: &str) -> bool {
    uuid::Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id)
}
