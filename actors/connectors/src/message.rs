//! What a handler gets and what it says.

use bytes::Bytes;
use okno_client::v1;
use std::{future::Future, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes of one body (the channel's bound).
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Characters of a reason or a summary.
pub const TEXT_MAX: usize = 2_000;
/// Characters of a report of progress.
pub const PROGRESS_TEXT_MAX: usize = 300;

/// A message to be worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The idempotency key: the same each time the message is handed out.
    pub id: String,
    /// What is asked, in a word of the module.
    pub kind: String,
    pub key: String,
    pub subject: String,
    /// The bytes to send, as the case gave them.
    pub body: Bytes,
    pub case: String,
    /// From 1; above 1 the outside system may have had it before.
    pub delivery: u32,
    pub failed_attempts: u32,
    /// What was asked of other channels on its account ([`Verdict::Ask`]), answered by now.
    pub answers: Vec<v1::SubAnswer>,
}

impl Message {
    pub(crate) fn of(delivery: v1::Delivery) -> Self {
        Self {
            id: delivery.message_id,
            kind: delivery.kind,
            key: delivery.key,
            subject: delivery.subject,
            body: delivery.body,
            case: delivery.case,
            delivery: delivery.delivery,
            failed_attempts: delivery.failed_attempts,
            answers: delivery.answers,
        }
    }
}

/// What came of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Done; the answer byte for byte as it came.
    Complete { summary: String, body: Option<Bytes> },
    /// Not now: the channel tries again after its back-off, and not before `retry_after`. What the other side said all the
    /// same goes into `body`, and is kept.
    Fail { reason: String, retry_after: Option<Duration>, body: Option<Bytes> },
    /// Never: whoever asked is told.
    Reject { reason: String, body: Option<Bytes> },
    /// Other channels first; the message comes again with their answers.
    Ask(Vec<v1::OtherRequest>),
}

impl Verdict {
    pub fn complete(summary: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::Complete { summary: summary.into(), body: Some(body.into()) }
    }

    pub fn fail(reason: impl Into<String>) -> Self {
        Self::Fail { reason: reason.into(), retry_after: None, body: None }
    }

    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into(), body: None }
    }

    /// Bytes of its bodies.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Complete { body, .. } | Self::Reject { body, .. } | Self::Fail { body, .. } => {
                body.as_ref().map_or(0, Bytes::len)
            }
            Self::Ask(requests) => requests.iter().map(|request| request.body.len()).sum(),
        }
    }

    /// As it is said; what the channel would refuse is said as a failure that names the reason, so that the message ends in
    /// front of a person rather than nowhere.
    pub(crate) fn said(self) -> v1::verdict::Said {
        use v1::verdict::Said;
        if self.bytes() > BODY_BYTES_MAX {
            let reason = format!("the answer has {} bytes, at most {BODY_BYTES_MAX} are taken", self.bytes());
            return Said::Fail(v1::FailMessage { reason, retry_after_ms: 0, body: None });
        }
        match self {
            Self::Complete { summary, body } => {
                Said::Complete(v1::CompleteMessage { summary: cut(summary, TEXT_MAX), body })
            }
            Self::Fail { reason, retry_after, body } => Said::Fail(v1::FailMessage {
                body,
                reason: cut(reason, TEXT_MAX),
                retry_after_ms: retry_after
                    .map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            }),
            Self::Reject { reason, body } => {
                Said::Reject(v1::RejectMessage { reason: cut(reason, TEXT_MAX), body })
            }
            Self::Ask(mut requests) => {
                for request in &mut requests {
                    let subject = cut(std::mem::take(&mut request.subject), PROGRESS_TEXT_MAX);
                    request.subject =
                        subject.replace(|letter| char::is_control(letter) || is_break(letter), " ");
                }
                Said::Ask(v1::AskOthers { requests })
            }
        }
    }
}

/// A text as the channel takes it: so long, and without control characters, for one of them would undo the whole verdict.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    let is_bad = |letter: char| letter.is_ascii_control() && !matches!(letter, '\n' | '\r' | '\t');
    if text.contains(is_bad) {
        text = text.replace(is_bad, " ");
    }
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
    text
}

/// Ends a line although it is no control character.
fn is_break(letter: char) -> bool {
    matches!(letter, '\u{2028}' | '\u{2029}')
}

/// What a handler has besides the message.
#[derive(Debug, Clone)]
pub struct Work {
    pub(crate) progress: mpsc::Sender<String>,
    pub(crate) cancelled: CancellationToken,
}

impl Work {
    /// Of nobody: for tests of handlers.
    pub fn detached() -> Self {
        Self { progress: mpsc::channel(1).0, cancelled: CancellationToken::new() }
    }

    /// Tells whoever asked how it gets on. The channel takes 32 reports a message; one that finds no room is left out.
    pub fn progress(&self, text: impl Into<String>) {
        let _full = self.progress.try_send(cut(text.into(), PROGRESS_TEXT_MAX));
    }

    /// The message is this handler's no longer, or the connector ends: what it would say counts for nothing.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

/// What a connector is: one message in, one verdict out. Dropped when the message is no longer its own.
pub trait Handler: Send + Sync + 'static {
    fn handle(&self, message: Message, work: Work) -> impl Future<Output = Verdict> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::verdict::Said;

    #[test]
    fn what_the_channel_would_refuse_is_said_as_a_failure() {
        let said = Verdict::complete("big", vec![0_u8; BODY_BYTES_MAX + 1]).said();
        assert!(matches!(&said, Said::Fail(fail) if fail.reason.contains("65537")), "{said:?}");
        let Said::Reject(reject) = Verdict::reject("я".repeat(3_000)).said() else { panic!("a rejection") };
        assert_eq!(reject.reason.chars().count(), TEXT_MAX);
        let Said::Fail(fail) = Verdict::fail("a\u{1b}[31m\nb\0").said() else { panic!("a failure") };
        assert_eq!(fail.reason, "a [31m\nb ", "what a terminal would show, without what steers it");
        let body = Some(Bytes::from_static(b"<h1>503</h1>"));
        let later = Verdict::Fail {
            reason: String::new(),
            retry_after: Some(Duration::from_secs(3)),
            body: body.clone(),
        };
        assert_eq!(later.bytes(), 12);
        let Said::Fail(fail) = later.said() else { panic!("a failure") };
        assert_eq!((fail.retry_after_ms, fail.body), (3_000, body));
        let other =
            v1::OtherRequest { subject: "две\r\nстроки\u{2028}".into(), ..Default::default() };
        let Said::Ask(ask) = Verdict::Ask(vec![other]).said() else { panic!("it asks") };
        assert_eq!(ask.requests[0].subject, "две  строки ", "the channel takes one line");
    }
}
