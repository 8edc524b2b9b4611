//! What every call passes before a service sees it: identity, access, phase, deadline, panics, figures.
//!
//! One layer with one future per call instead of a stack of them, because it stands on the hot path. Order: who
//! calls (the connection's certificate) → may this kind call this method → does the node serve now → the call
//! itself under its deadline, with panics caught. Denials go to the security log.

use crate::{
    access::{self, Listener, Rule},
    failure::{Failure, Language},
    identity::{Caller, IdentityError, Kind},
    observability::{
        metrics::MethodFigures,
        security::{Event, EventKind, SecurityLog},
        traces::{CallSpan, TRACEPARENT_MAX, Traces},
    },
    tls::ConnectionInfo,
};
use arc_swap::ArcSwap;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request, Response};
use okno_cluster::{NodePhase, PeerIdentity};
use okno_domain::entity::RefusalClass;
use okno_runtime::intake::{Intake, Shut};
use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tonic::body::Body;
use tower::Service;

/// A deadline further away is cut to this: it also bounds what waits in memory for it.
const DEADLINE_MAX: Duration = Duration::from_secs(600);
/// We answer this much before the deadline: tonic's own timer, which fires at it, would say CANCELLED.
const DEADLINE_LEAD: Duration = Duration::from_millis(3);

/// What a service knows about a call besides its message; in the request's extensions.
#[derive(Debug, Clone)]
pub struct CallContext {
    pub connection: Arc<ConnectionInfo>,
    pub rule: &'static Rule,
    pub deadline: Instant,
    pub language: Language,
    /// W3C trace context that what follows belongs to: the span's of this call, or what the caller sent.
    pub traceparent: Option<HeaderValue>,
}

impl CallContext {
    /// The identity; present, because calls without one do not get here.
    pub fn caller(&self) -> &Caller {
        self.connection.caller.as_ref().expect("the front refuses calls without an identity")
    }

    pub fn trace(&self) -> String {
        self.traceparent.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }
}

/// What all calls of a listener share.
pub struct FrontState {
    pub listener: Listener,
    pub deadline_default: Duration,
    pub message_bytes_max: u64,
    pub phase: tokio::sync::watch::Receiver<NodePhase>,
    pub security: SecurityLog,
    pub figures: MethodFigures,
    pub served_by: HeaderValue,
    /// Id of the leader, if one is known.
    pub leader: ArcSwap<Option<HeaderValue>>,
    /// What of the work is taken at the moment.
    pub intake: Arc<Intake>,
    pub traces: Arc<Traces>,
}

#[derive(Clone)]
pub struct FrontLayer(pub Arc<FrontState>);

impl<S> tower::Layer<S> for FrontLayer {
    type Service = Front<S>;
    fn layer(&self, inner: S) -> Front<S> {
        Front { state: self.0.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Front<S> {
    state: Arc<FrontState>,
    inner: S,
}

impl<S> Service<Request<Body>> for Front<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let language = Language::of_header(
            request.headers().get(http::header::ACCEPT_LANGUAGE).map(HeaderValue::as_bytes),
        );
        let started = Instant::now();
        let listener = self.state.listener;
        let place =
            access::find(request.uri().path()).filter(|place| access::RULES[*place].listener == listener);
        let (place, deadline, span) = match self.state.admit(&mut request, place, language) {
            Ok(admitted) => admitted,
            Err(failure) => {
                let response = self.state.finish(failure.status(language).into_http());
                if let Some(place) = place {
                    self.state.figures.observe(place, code_of(&response), started.elapsed());
                }
                return std::future::ready(Ok(response)).boxed();
            }
        };
        let rule = &access::RULES[place];
        let state = self.state.clone();
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        async move {
            let outcome = if rule.stream {
                Ok(call.await)
            } else {
                tokio::time::timeout_at((deadline - DEADLINE_LEAD).into(), call).await
            };
            let response = match outcome {
                Ok(Ok(Ok(response))) => state.translate(response, language),
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(_)) => {
                    tracing::error!(method = rule.method, "a call panicked");
                    Failure::Internal { detail: "panic".into() }.status(language).into_http()
                }
                Err(_) => Failure::DeadlineExceeded.status(language).into_http(),
            };
            let code = code_of(&response);
            state.figures.observe(place, code, started.elapsed());
            if let Some(span) = span {
                span.end(code);
            }
            Ok(state.finish(response))
        }
        .boxed()
    }
}

/// gRPC code of a response; answers with a body tell theirs in trailers, after success here.
fn code_of(response: &Response<Body>) -> u8 {
    let header = response.headers().get("grpc-status").and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl FrontState {
    /// Decides whether the call may go on; puts what services need into its extensions.
    fn admit(
        &self,
        request: &mut Request<Body>,
        place: Option<usize>,
        language: Language,
    ) -> Result<(usize, Instant, Option<CallSpan>), Failure> {
        let method = request.uri().path();
        let connection = request.extensions().get::<Arc<ConnectionInfo>>().cloned();
        let connection =
            connection.ok_or_else(|| Failure::Internal { detail: "no connection facts".into() })?;
        let Some(place) = place else {
            self.denied(&connection, method, "METHOD_UNKNOWN");
            return Err(Failure::refused(
                RefusalClass::PermissionDenied,
                "METHOD_UNKNOWN",
                "Такого метода нет",
                "there is no such method",
            ));
        };
        let rule = &access::RULES[place];
        let caller = match &connection.caller {
            Ok(caller) => caller,
            Err(error) => {
                self.denied(&connection, method, error.reason());
                return Err(Failure::Unauthenticated { reason: error.reason(), detail: error.to_string() });
            }
        };
        if !rule.kinds.contains(caller.kind) {
            let foreign = (self.listener == Listener::Peers) != (caller.kind == Kind::Peer);
            let reason = if foreign { "CERTIFICATE_WRONG_KIND" } else { "METHOD_NOT_ALLOWED" };
            self.denied(&connection, method, reason);
            return Err(Failure::refused(
                RefusalClass::PermissionDenied,
                reason,
                &format!("Сертификат вида {} не даёт права на этот вызов", caller.kind.name()),
                &format!("a certificate of kind {} may not call this", caller.kind.name()),
            ));
        }
        if !rule.always {
            self.serving()?;
        }
        if let Some(Shut { cause, detail }) =
            rule.work.class().and_then(|class| self.intake.refuses_here(class))
        {
            let pause = Duration::from_millis(cause.retry_after_ms());
            return Err(Failure::not_applied(cause.code(), pause, detail));
        }
        let deadline = Instant::now() + deadline_of(request.headers(), self.deadline_default);
        if self.listener == Listener::Peers {
            let identity = PeerIdentity {
                cluster: caller.cluster.to_string(),
                node_id: caller.node_id().unwrap_or_default(),
            };
            request.extensions_mut().insert(identity);
        }
        let sent = request.headers().get("traceparent").filter(|value| value.len() <= TRACEPARENT_MAX);
        // A stream's span would end with the stream, which may be days.
        let span = (!rule.stream).then(|| self.traces.call(rule.method, caller.kind.name(), sent)).flatten();
        let traceparent = match &span {
            Some(span) => HeaderValue::try_from(span.traceparent()).ok(),
            None => sent.cloned(),
        };
        request.extensions_mut().insert(CallContext { connection, rule, deadline, language, traceparent });
        Ok((place, deadline, span))
    }

    fn serving(&self) -> Result<(), Failure> {
        let pause = Duration::from_secs(1);
        match &*self.phase.borrow() {
            NodePhase::Serving => Ok(()),
            NodePhase::Quarantined { reason, .. } => {
                Err(Failure::not_applied("NODE_QUARANTINED", pause, reason.clone()))
            }
            other => {
                Err(Failure::not_applied("NODE_NOT_READY", pause, format!("the node is {}", other.name())))
            }
        }
    }

    fn denied(&self, connection: &ConnectionInfo, method: &str, reason: &str) {
        let principal = match &connection.caller {
            Ok(caller) => caller.to_string(),
            Err(IdentityError::Form { uri, .. }) => uri.clone(),
            Err(_) => String::new(),
        };
        let event = Event {
            kind: EventKind::Denied,
            principal,
            remote: connection.remote.to_string(),
            // A method is text of the caller's.
            method: method.chars().take(128).collect(),
            subject: reason.to_owned(),
        };
        // A denial stands whether or not it could be recorded; that it could not shows in health.
        let _ = self.security.record(event);
    }

    /// Gives tonic's own refusals (a message too large, or not to be decoded) our form.
    fn translate(&self, response: Response<Body>, language: Language) -> Response<Body> {
        let headers = response.headers();
        if headers.get("grpc-status").is_none() || headers.contains_key("grpc-status-details-bin") {
            return response;
        }
        let text = headers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let failure = match code_of(&response) {
            11 => Failure::refused(
                RefusalClass::InvalidArgument,
                "MESSAGE_TOO_LARGE",
                &format!("Сообщение больше допустимых {} байт", self.message_bytes_max),
                &format!("the message is larger than {} bytes", self.message_bytes_max),
            ),
            13 if text.contains("decode") => Failure::refused(
                RefusalClass::InvalidArgument,
                "MESSAGE_MALFORMED",
                "Сообщение не разбирается",
                "the message cannot be decoded",
            ),
            _ => return response,
        };
        failure.status(language).into_http()
    }

    /// Says in every response who answered and who leads.
    fn finish(&self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        headers.insert(okno_proto::metadata::SERVED_BY, self.served_by.clone());
        if let Some(leader) = self.leader.load().as_ref() {
            headers.insert(okno_proto::metadata::LEADER, leader.clone());
        }
        response
    }
}

/// The caller's `grpc-timeout`, cut to ours; the default when there is none or it is malformed.
fn deadline_of(headers: &HeaderMap, default: Duration) -> Duration {
    let parsed = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 {
            return None;
        }
        let amount: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(amount.saturating_mul(3_600)),
            "M" => Duration::from_secs(amount.saturating_mul(60)),
            "S" => Duration::from_secs(amount),
            "m" => Duration::from_millis(amount),
            "u" => Duration::from_micros(amount),
            "n" => Duration::from_nanos(amount),
            _ => return None,
        })
    });
    parsed.unwrap_or(default).clamp(DEADLINE_LEAD * 2, DEADLINE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_and_bounded() {
        let default = Duration::from_secs(15);
        let check = |text: Option<&str>, expected: Duration| {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert("grpc-timeout", HeaderValue::from_str(text).expect("ascii"));
            }
            assert_eq!(deadline_of(&headers, default), expected, "{text:?}");
        };
        check(None, default);
        check(Some("250m"), Duration::from_millis(250));
        check(Some("2S"), Duration::from_secs(2));
        check(Some("1H"), DEADLINE_MAX);
        check(Some("99999999H"), DEADLINE_MAX);
        check(Some("1n"), DEADLINE_LEAD * 2);
        check(Some("123456789S"), default);
        check(Some("S"), default);
        check(Some(""), default);
        check(Some("5x"), default);
    }
}
