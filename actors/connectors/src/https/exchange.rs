//! One request to a service and its response, bounded in time and size.
//!
//! A connection serves one request: on one that is kept, a service that answers twice would give its second answer to the next
//! message. TLS sessions are resumed, so that a new connection costs little.

use super::{retry_after, settings::Service};
use crate::message::Message;
use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// Headers of a response, and their size.
const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The port of a URL without one.
const PORT: u16 = 443;

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: Bytes,
}

/// Why there is none. The texts stand in journals: no addresses, no contents.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("no connection: {0}")]
    Connect(String),
    #[error("no connection within {0:?}")]
    ConnectTime(Duration),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("no answer within {0:?}")]
    Time(Duration),
    #[error("the answer broke off or is none: {0}")]
    Broken(String),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("the answer is to another message")]
    OtherMessage,
    #[error("the request cannot be made: {0}")]
    Request(String),
}

/// Asks one service.
pub struct Exchange {
    service: Service,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Exchange {
    pub fn new(service: Service) -> Result<Self> {
        let host = service.url.host().context("service.url has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            ServerName::try_from(host.clone()).context("service.url: the host is no name or address")?;
        let port = service.url.port_u16().unwrap_or(PORT);
        let tls = TlsConnector::from(Arc::new(config(&service)?));
        Ok(Self { service, host, port, name, tls })
    }

    /// Sends the message and waits for the whole answer.
    pub async fn post(&self, message: &Message) -> Result<Answer, Fault> {
        let connect = self.service.connect;
        let stream = timeout(connect, self.connect()).await.map_err(|_| Fault::ConnectTime(connect))??;
        let within = self.service.answer;
        timeout(within, self.exchange(stream, message)).await.map_err(|_| Fault::Time(within))?
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Fault> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|error| Fault::Connect(error.kind().to_string()))?;
        tcp.set_nodelay(true).map_err(|error| Fault::Connect(error.kind().to_string()))?;
        self.tls.connect(self.name.clone(), tcp).await.map_err(|error| Fault::Tls(error.to_string()))
    }

    async fn exchange(
        &self,
        stream: tokio_rustls::client::TlsStream<TcpStream>,
        message: &Message,
    ) -> Result<Answer, Fault> {
        let request = self.request(message)?;
        let broken = |error: hyper::Error| Fault::Broken(error.to_string());
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends with the exchange: dropping the guard ends the connection, however far it is.
        let _driven = Driven(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let echoed = head.headers.get(IDEMPOTENCY_KEY);
        if echoed.is_some_and(|key| key.as_bytes() != message.id.as_bytes()) {
            return Err(Fault::OtherMessage);
        }
        let body = self.whole(body).await?;
        let retry_after = retry_after(head.headers.get(header::RETRY_AFTER));
        Ok(Answer { status: head.status, retry_after, body: body.into() })
    }

    /// The body to its end, which must come where the head said it would.
    async fn whole(&self, mut body: hyper::body::Incoming) -> Result<Vec<u8>, Fault> {
        let most = self.service.answer_bytes_max;
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Fault::Broken(error.to_string()))?;
            let Ok(piece) = frame.into_data() else { continue };
            if whole.len() + piece.len() > most {
                return Err(Fault::TooLarge(most));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    fn request(&self, message: &Message) -> Result<Request<Full<Bytes>>, Fault> {
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| Fault::Request("a header cannot carry it".into()))
        };
        let authority = self.service.url.authority().map_or("", |authority| authority.as_str());
        let path = self.service.url.path_and_query().map_or("/", |path| path.as_str());
        Request::post(path)
            .header(header::HOST, value(authority)?)
            .header(header::CONTENT_TYPE, self.service.content_type.clone())
            .header(header::CONNECTION, HeaderValue::from_static("close"))
            .header(IDEMPOTENCY_KEY, value(&message.id)?)
            .header("okno-kind", value(&encoded(&message.kind))?)
            .header("okno-key", value(&encoded(&message.key))?)
            .header("okno-delivery", HeaderValue::from(message.delivery))
            .body(Full::new(message.body.clone()))
            .map_err(|error| Fault::Request(error.to_string()))
    }
}

/// A word of a process or an officer as a header carries it: whatever is not visible ASCII, and '%', percent-encoded.
fn encoded(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte == b' ' || (byte.is_ascii_graphic() && byte != b'%') {
            value.push(char::from(byte));
        } else {
            value.push_str(&format!("%{byte:02X}"));
        }
    }
    value
}

/// The header by which a service knows a message again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A task that ends with its owner.
struct Driven(tokio::task::AbortHandle);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn config(service: &Service) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&service.ca)? {
        roots.add(certificate).with_context(|| service.ca.display().to_string())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots);
    let mut config = match &service.own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let own = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| anyhow!("{}: expected a private key in PEM: {error}", key.display()))?;
            builder.with_client_auth_cert(certificates(chain)?, own)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| anyhow!("{}: expected certificates in PEM: {error}", path.display()))?;
    if found.is_empty() {
        return Err(anyhow!("{}: holds no certificate in PEM", path.display()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn a_header_carries_any_key() {
        assert_eq!(encoded("42:01 a"), "42:01 a");
        assert_eq!(encoded("дом\n100%"), "%D0%B4%D0%BE%D0%BC%0A100%25");
    }
}
