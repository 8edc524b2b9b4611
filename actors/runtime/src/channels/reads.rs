//! Reads of channels for services. A backlog may hold a hundred thousand messages: what is asked often reads the root, the
//! settings and single messages, never all of it.

use crate::{
    codec::{self, What},
    load::unreadable,
    query::Snapshot,
    work::entity_key,
};
use okno_domain::{
    channel::{Breaker, Inbox, Mode, Outgoing, Part, Root, Settings, letter_part, message_part},
    entity::EntityRef,
    registry::Kind,
};
use okno_storage::{
    commit::{EntityKey, Record},
    error::StorageError,
};
use std::sync::Arc;

/// A channel without its backlog.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelHead {
    pub code: String,
    pub root: Root,
    pub settings: Arc<Settings>,
    /// Log index of its last commit.
    pub head_index: u64,
    pub applied_index: u64,
}

/// Is it worth asking the channel for messages?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// There may be some.
    Now,
    /// Not before then (milliseconds since the epoch), unless it moves.
    At(i64),
    /// Only when it moves.
    Moved,
}

impl ChannelHead {
    /// A look from aside, so that asking in vain is rare: what is handed out the channel alone decides.
    pub fn worth_asking(&self, now_ms: i64) -> Worth {
        let counts = &self.root.counts;
        let busy = counts.out.saturating_add(counts.asking);
        if self.root.mode == Mode::Paused || counts.live <= busy {
            return Worth::Moved;
        }
        let out = usize::try_from(counts.out).unwrap_or(usize::MAX);
        if out >= self.settings.slots() {
            return Worth::Moved;
        }
        let probes = self.settings.breaker.as_ref().map(|breaker| usize::from(breaker.probes));
        match (self.root.account.breaker, probes) {
            (Breaker::Open { until_ms, .. }, Some(_)) if now_ms < until_ms => Worth::At(until_ms),
            (Breaker::Open { .. } | Breaker::HalfOpen { .. }, Some(probes)) if out >= probes => Worth::Moved,
            _ => Worth::Now,
        }
    }
}

fn key_of(code: &str) -> Option<EntityKey> {
    // A code that cannot be a key's is nobody's.
    entity_key(&EntityRef { kind: Kind::Channel, id: code.to_owned() }).ok()
}

fn part(key: &EntityKey, record: &Record) -> Result<Part, StorageError> {
    codec::decode(What::Part(Kind::Channel), record).map_err(|error| unreadable(key, &error))
}

impl Snapshot {
    /// `None`: the channel was never configured.
    pub fn channel_head(&self, code: &str) -> Result<Option<ChannelHead>, StorageError> {
        let Some(key) = key_of(code) else { return Ok(None) };
        let Some((head_index, record)) = self.view.root(&key)? else { return Ok(None) };
        let root: Root =
            codec::decode(What::Root(Kind::Channel), &record).map_err(|error| unreadable(&key, &error))?;
        let Some(record) = self.view.part(&key, b"settings")? else { return Ok(None) };
        let Part::Settings(settings) = part(&key, &record)? else { return Ok(None) };
        Ok(Some(ChannelHead {
            code: code.to_owned(),
            root,
            settings,
            head_index,
            applied_index: self.applied_index,
        }))
    }

    /// Codes of channels behind `after`, in order, at most `limit`.
    pub fn channels(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, StorageError> {
        let after = after.and_then(key_of);
        let found = self.view.entities(Kind::Channel.name(), after.as_ref(), limit)?;
        Ok(found.into_iter().map(|key| key.id().to_owned()).collect())
    }

    /// One message of the backlog by its place.
    pub fn channel_message(&self, code: &str, sequence: u64) -> Result<Option<Arc<Outgoing>>, StorageError> {
        let Some(key) = key_of(code) else { return Ok(None) };
        let Some(record) = self.view.part(&key, message_part(sequence).as_bytes())? else { return Ok(None) };
        match part(&key, &record)? {
            Part::Message(message) => Ok(Some(message)),
            Part::Letter(_) | Part::Settings(_) => Ok(None),
        }
    }

    /// A letter from outside by its number.
    pub fn channel_letter(&self, code: &str, number: u64) -> Result<Option<Arc<Inbox>>, StorageError> {
        let Some(key) = key_of(code) else { return Ok(None) };
        let Some(record) = self.view.part(&key, letter_part(number).as_bytes())? else { return Ok(None) };
        match part(&key, &record)? {
            Part::Letter(letter) => Ok(Some(letter)),
            Part::Message(_) | Part::Settings(_) => Ok(None),
        }
    }
}
