//! A lean connection for load: HTTP/2 straight on TLS, without the buffer task and the layers of a tonic channel.
//!
//! Invariant: at most one connection is open or being opened; those who find it closed wait for one of them.

use http::{Uri, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use okno_client::{Call, Class, Connector, classify};
use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Mutex;
use tonic::{Request, body::Body, client::Grpc};
use tonic_prost::ProstCodec;

/// Responses in flight on one connection: a quarter of the clients of the largest run, a few kilobytes each.
const WINDOW: u32 = 4 * 1024 * 1024;

/// One HTTP/2 connection to an endpoint, opened again when it was lost.
pub struct Link {
    connector: Connector,
    origin: Uri,
    sender: RefCell<Option<SendRequest<Body>>>,
    opening: Mutex<()>,
}

impl Link {
    pub fn new(connector: Connector) -> Result<Self, http::uri::InvalidUri> {
        let origin = Uri::try_from(format!("https://{}", connector.address()))?;
        Ok(Self { connector, origin, sender: RefCell::new(None), opening: Mutex::new(()) })
    }

    pub fn address(&self) -> &str {
        self.connector.address()
    }

    pub async fn connect(&self) -> io::Result<()> {
        self.open().await.map(drop)
    }

    fn current(&self) -> Option<SendRequest<Body>> {
        self.sender.borrow().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    async fn open(&self) -> io::Result<SendRequest<Body>> {
        if let Some(sender) = self.current() {
            return Ok(sender);
        }
        let _turn = self.opening.lock().await;
        if let Some(sender) = self.current() {
            return Ok(sender);
        }
        let io = TokioIo::new(self.connector.connect().await?);
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        // Ends with the connection; what it ends with, the calls on it learn.
        tokio::spawn(async move { drop(connection.await) });
        *self.sender.borrow_mut() = Some(sender.clone());
        Ok(sender)
    }

    /// One attempt.
    pub async fn call<C: Call>(&self, request: C, timeout: Duration) -> Result<C::Response, Class> {
        let Ok(sender) = self.open().await else { return Err(Class::NotApplied) };
        let mut message = Request::new(request);
        message.set_timeout(timeout);
        let mut grpc = Grpc::with_origin(Sender(sender), self.origin.clone());
        let call = async {
            grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            grpc.unary(message, PathAndQuery::from_static(C::PATH), ProstCodec::<C, C::Response>::default())
                .await
        };
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let reading = classify(&status, C::EFFECT);
                tracing::debug!(
                    method = C::PATH,
                    reason = reading.problem.reason,
                    text = reading.problem.message,
                    "failed"
                );
                Err(reading.class)
            }
            Err(_) => Err(Class::Unknown),
        }
    }
}

/// hyper's sender as the service a gRPC client speaks through.
struct Sender(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
