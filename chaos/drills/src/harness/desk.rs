//! One caller's calls, short to write in a test. Failures come back as the client library's [`CallError`].

use crate::harness::cluster::{DevFile, NodeEntry, Pair};
use crate::harness::people;
use okno_client::{Answer, Call, CallError, CallOptions, Client, Connector, Settings, TlsFiles, v1 as proto};
use proto::advance_case_request::Step;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// Longer than any interruption a test causes on purpose.
const CALL_WITHIN: Duration = Duration::from_secs(40);
const STATUS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Desk {
    pub client: Client,
}

impl Desk {
    pub fn connect<'a>(file: &DevFile, pair: &Pair, nodes: impl Iterator<Item = &'a NodeEntry>) -> Self {
        let mut settings =
            Settings::new(nodes.map(|node| node.clients.to_string()).collect(), tls(file, pair));
        settings.cluster.clone_from(&file.cluster);
        settings.deadline = CALL_WITHIN;
        // Texts are compared by their English form: the source of tests is English.
        settings.language = Some("en".into());
        Self { client: Client::new(settings).expect("certificates of a development cluster are readable") }
    }

    /// Until it succeeds, is refused, or its deadline passes.
    pub async fn call<C: Call>(&self, request: C) -> Result<C::Response, CallError> {
        Ok(self.client.call(request).await?.response)
    }

    /// One attempt and no more.
    pub async fn once<C: Call>(&self, request: C) -> Result<C::Response, CallError> {
        let options = CallOptions { once: true, ..CallOptions::default() };
        Ok(self.client.call_with(request, options).await?.response)
    }

    /// With the number of attempts it took.
    pub async fn answer<C: Call>(&self, request: C) -> Result<Answer<C::Response>, CallError> {
        self.client.call(request).await
    }

    pub async fn status(&self) -> Result<proto::GetStatusResponse, CallError> {
        let options = CallOptions { deadline: Some(STATUS_WITHIN), once: true, ..CallOptions::default() };
        Ok(self.client.call_with(proto::GetStatusRequest {}, options).await?.response)
    }

    pub async fn load_catalogue(
        &self,
        files: &[proto::CatalogueFile],
    ) -> Result<proto::LoadCatalogueResponse, CallError> {
        self.call(proto::LoadCatalogueRequest { meta: None, files: files.to_vec() }).await
    }

    /// Opens a case in the quiet office.
    pub async fn open(&self, visitor: u32) -> Result<String, CallError> {
        Ok(self.call(open(people::QUIET_OFFICE, visitor)).await?.case_id)
    }

    pub async fn add(&self, case: &str, reference: &str) -> Result<u32, CallError> {
        Ok(self.call(document(case, reference)).await?.document_number)
    }

    pub async fn step(&self, case: &str, step: Step) -> Result<proto::AdvanceCaseResponse, CallError> {
        self.call(advance(case, step)).await
    }

    /// Linearizable.
    pub async fn case(&self, case: &str) -> Result<proto::Case, CallError> {
        let response = self.call(proto::GetCaseRequest { read: None, case_id: case.into() }).await?;
        Ok(response.case.expect("a case was found"))
    }

    /// From the called node's own store, with where it was read.
    pub async fn case_local(&self, case: &str) -> Result<(proto::ReadMeta, proto::Case), CallError> {
        let response = self.call(proto::GetCaseRequest { read: local(), case_id: case.into() }).await?;
        Ok((
            response.meta.expect("a read says where it was served"),
            response.case.expect("a case was found"),
        ))
    }

    pub async fn take_ticket(&self, office: &str, service: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::TakeTicketRequest {
            office: office.into(),
            purpose: proto::VisitPurpose::Apply.into(),
            service: service.into(),
            ..proto::TakeTicketRequest::default()
        };
        Ok(self.call(request).await?.ticket.expect("a ticket"))
    }

    pub async fn call_next(&self, office: &str, window: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::CallNextRequest {
            office: office.into(),
            window: window.into(),
            ..proto::CallNextRequest::default()
        };
        Ok(self.call(request).await?.ticket.expect("a ticket"))
    }

    pub async fn begin(&self, ticket: &proto::Ticket, window: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::BeginServiceRequest {
            office: ticket.office.clone(),
            ticket: Some(reference(ticket)),
            window: window.into(),
            ..proto::BeginServiceRequest::default()
        };
        Ok(self.call(request).await?.ticket.expect("a ticket"))
    }

    pub async fn finish(&self, ticket: &proto::Ticket, window: &str) -> Result<proto::Ticket, CallError> {
        let request = proto::FinishServiceRequest {
            office: ticket.office.clone(),
            ticket: Some(reference(ticket)),
            window: window.into(),
            ..proto::FinishServiceRequest::default()
        };
        Ok(self.call(request).await?.ticket.expect("a ticket"))
    }

    pub async fn tickets(&self, office: &str) -> Result<Vec<proto::Ticket>, CallError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListTicketsRequest {
                office: office.into(),
                page_size: 500,
                page_token,
                ..proto::ListTicketsRequest::default()
            };
            let page = self.call(request).await?;
            all.extend(page.tickets);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }
}

pub fn tls(file: &DevFile, pair: &Pair) -> TlsFiles {
    TlsFiles {
        ca: file.authorities["clients"].certificate.clone(),
        cert: pair.certificate.clone(),
        key: pair.key.clone(),
    }
}

/// A bare connection to one node: for what the client library would not send.
pub fn channel(file: &DevFile, pair: &Pair, node: &NodeEntry) -> Channel {
    channel_to(file, tls(file, pair), node.clients)
}

/// As [`channel`], to any listener, with any certificates.
pub fn channel_to(file: &DevFile, files: TlsFiles, address: std::net::SocketAddr) -> Channel {
    let connector = Connector::new(&address.to_string(), Arc::new(files), &file.cluster)
        .expect("certificates of a development cluster are readable");
    // TLS is the connector's: with the scheme https tonic would want to add its own.
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_with_connector_lazy(connector)
}

pub fn local() -> Option<proto::ReadOptions> {
    Some(proto::ReadOptions { consistency: proto::Consistency::Local.into(), resume_token: String::new() })
}

pub fn reference(ticket: &proto::Ticket) -> proto::TicketRef {
    proto::TicketRef { day: ticket.day.clone(), number: ticket.number.clone() }
}

/// A request id of one's own, for calls that are repeated on purpose.
pub fn meta(request_id: uuid::Uuid, attempt: u32) -> Option<proto::RequestMeta> {
    Some(proto::RequestMeta { request_id: request_id.to_string(), attempt, workstation: String::new() })
}

pub fn open(office: &str, visitor: u32) -> proto::OpenCaseRequest {
    proto::OpenCaseRequest {
        office: office.into(),
        service: people::SERVICE.into(),
        applicants: vec![people::visitor(visitor)],
        ..proto::OpenCaseRequest::default()
    }
}

pub fn document(case: &str, document_reference: &str) -> proto::AddDocumentRequest {
    proto::AddDocumentRequest {
        case_id: case.into(),
        kind: "other".into(),
        form: proto::DocumentForm::Copy.into(),
        sheets: 1,
        reference: document_reference.into(),
        ..proto::AddDocumentRequest::default()
    }
}

pub fn advance(case: &str, step: Step) -> proto::AdvanceCaseRequest {
    proto::AdvanceCaseRequest {
        case_id: case.into(),
        step: Some(step),
        ..proto::AdvanceCaseRequest::default()
    }
}
