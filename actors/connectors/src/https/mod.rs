//! The connector to HTTPS services: each message is one POST, its answer the body of the response.
//!
//! - [`settings`]: its file · `exchange`: one request and its response, bounded in time and size
//!
//! The request carries our message id as `Idempotency-Key`, its kind as `Okno-Kind`, its ordering key as `Okno-Key` and how many times
//! it was handed out as `Okno-Delivery`. A service that answers with an `Idempotency-Key` must answer with the same.
//!
//! | The service | Verdict |
//! |---|---|
//! | 2xx | complete; the body as it came |
//! | 408, 425, 429, 5xx | fail, not before its `Retry-After`; the body is kept |
//! | any other status | reject; the body is the reason's proof |
//! | no connection, a wrong certificate, silence, a broken or too large response | fail |

mod exchange;
pub mod settings;

use crate::message::{Handler, Message, Verdict, Work};
use bytes::Bytes;
use exchange::{Answer, Exchange};
use http::StatusCode;
use settings::Service;
use std::time::Duration;

/// A service may ask for patience, up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// See the module.
pub struct HttpsConnector {
    exchange: Exchange,
}

impl HttpsConnector {
    /// Reads certificates; says what is wrong with them.
    pub fn new(service: Service) -> anyhow::Result<Self> {
        Ok(Self { exchange: Exchange::new(service)? })
    }
}

impl Handler for HttpsConnector {
    async fn handle(&self, message: Message, _work: Work) -> Verdict {
        match self.exchange.post(&message).await {
            Ok(answer) => judge(answer),
            Err(fault) => {
                tracing::info!(message = message.id, %fault, "the service did not answer as it should");
                Verdict::fail(fault.to_string())
            }
        }
    }
}

/// What a response comes to.
fn judge(Answer { status, retry_after, body }: Answer) -> Verdict {
    let said = format!("HTTP {}, {} bytes", status.as_u16(), body.len());
    let some = |body: Bytes| (!body.is_empty()).then_some(body);
    match status {
        status if status.is_success() => Verdict::complete(said, body),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Fail { reason: said, retry_after, body: some(body) }
        }
        status if status.is_server_error() => Verdict::Fail { reason: said, retry_after, body: some(body) },
        _ => Verdict::Reject { reason: said, body: some(body) },
    }
}

/// Seconds of a `Retry-After`; a date is as good as none.
fn retry_after(value: Option<&http::HeaderValue>) -> Option<Duration> {
    let seconds: u64 = value?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_judged_as_documented() {
        let of = |status: u16| Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            retry_after: Some(Duration::from_secs(7)),
            body: b"x".as_slice().into(),
        };
        let kind = |status| match judge(of(status)) {
            Verdict::Complete { .. } => "complete",
            Verdict::Fail { retry_after: Some(_), .. } => "fail later",
            Verdict::Fail { .. } => "fail",
            Verdict::Reject { .. } => "reject",
            Verdict::Ask(_) => "ask",
        };
        for (status, expected) in [
            (200, "complete"),
            (204, "complete"),
            (302, "reject"),
            (400, "reject"),
            (404, "reject"),
            (408, "fail later"),
            (429, "fail later"),
            (500, "fail later"),
            (503, "fail later"),
        ] {
            assert_eq!(kind(status), expected, "{status}");
        }
        let header = |text: &str| http::HeaderValue::from_str(text).expect("plain");
        assert_eq!(retry_after(Some(&header("3"))), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(Some(&header("9999999999"))), Some(RETRY_AFTER_MAX));
        for none in ["", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(retry_after(Some(&header(none))), None, "{none}");
        }
    }
}
