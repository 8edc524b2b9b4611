//! One caller at the public interface: an identity's certificate, and the calls the scene makes with it.
//!
//! Invariant: what changes something is entered in the ledger exactly when success was answered. Failures are not
//! handled here: the client library has repeated, under the same request id, whatever can be repeated.

use super::fixtures;
use super::ledger::{Ledger, TicketEntry};
use super::prepare::DevFile;
use anyhow::{Context, Result};
use okno_client::{BoardWatch, Call, CallError, CallOptions, Client, Settings, TlsFiles, v1 as proto};
use proto::{advance_case_request::Step, attach_request::Message as Up, attach_response::Message as Down};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Longer than any interruption the scene causes; a call that takes longer ends the scene with an error.
const CALL_WITHIN: Duration = Duration::from_secs(40);
const PAGE: u32 = 500;
const SERVICES_PAGE: u32 = 200;

pub struct Desk {
    client: Client,
}

impl Desk {
    /// Calls any node of the cluster, and another when one does not answer.
    pub fn anywhere(file: &DevFile, kind: &str, id: &str) -> Result<Self> {
        Self::connect(file, kind, id, |_| true)
    }

    /// Calls one node only.
    pub fn at(file: &DevFile, node: u64, kind: &str, id: &str) -> Result<Self> {
        Self::connect(file, kind, id, |entry| entry == node)
    }

    fn connect(file: &DevFile, kind: &str, id: &str, chosen: impl Fn(u64) -> bool) -> Result<Self> {
        let identity = file.identity(kind, id)?;
        let tls = TlsFiles {
            ca: file.clients_authority()?.certificate.clone(),
            cert: identity.certificate.clone(),
            key: identity.key.clone(),
        };
        let nodes = file.nodes.iter().filter(|node| chosen(node.id));
        let endpoints = nodes.map(|node| node.clients.to_string()).collect();
        let mut settings = Settings::new(endpoints, tls);
        settings.cluster.clone_from(&file.cluster);
        settings.deadline = CALL_WITHIN;
        // Callers spread over the nodes by their names, the same in every run.
        settings.start = id.bytes().map(usize::from).sum();
        let client = Client::new(settings).with_context(|| format!("setting up the calls of {kind}/{id}"))?;
        Ok(Self { client })
    }

    /// For whoever speaks with the cluster by more than calls.
    pub fn into_client(self) -> Client {
        self.client
    }

    async fn read<C: Call>(&self, request: C) -> Result<C::Response, CallError> {
        Ok(self.client.call(request).await?.response)
    }

    /// A call that changes something: entered as acknowledged, with the index it took effect at.
    async fn write<C: Call>(&self, ledger: &Ledger, request: C) -> Result<C::Response, CallError> {
        let begun = Instant::now();
        let response = self.client.call(request).await?.response;
        ledger.acknowledged(begun, C::hints(&response).applied_index);
        Ok(response)
    }

    // ---- Cases ----

    pub async fn open_case(
        &self,
        ledger: &Ledger,
        office: &str,
        service: &str,
        applicant: proto::Applicant,
        ticket: Option<&proto::Ticket>,
    ) -> Result<String, CallError> {
        let request = proto::OpenCaseRequest {
            office: office.into(),
            service: service.into(),
            applicants: vec![applicant],
            ticket: ticket.map(reference),
            ..proto::OpenCaseRequest::default()
        };
        let response = self.write(ledger, request).await?;
        ledger.case_opened(&response.case_id, office);
        Ok(response.case_id)
    }

    pub async fn add_document(
        &self,
        ledger: &Ledger,
        case: &str,
        kind: &str,
        document_reference: &str,
    ) -> Result<u32, CallError> {
        let request = proto::AddDocumentRequest {
            case_id: case.into(),
            kind: kind.into(),
            form: proto::DocumentForm::Original.into(),
            sheets: 2,
            reference: document_reference.into(),
            ..proto::AddDocumentRequest::default()
        };
        let response = self.write(ledger, request).await?;
        ledger.document_added(case, document_reference, response.document_number);
        Ok(response.document_number)
    }

    pub async fn advance(
        &self,
        ledger: &Ledger,
        case: &str,
        step: Step,
    ) -> Result<proto::AdvanceCaseResponse, CallError> {
        let name = step_name(&step);
        let request = proto::AdvanceCaseRequest {
            case_id: case.into(),
            step: Some(step),
            ..proto::AdvanceCaseRequest::default()
        };
        let response = self.write(ledger, request).await?;
        ledger.step_taken(case, response.step_number, name);
        Ok(response)
    }

    pub async fn get_case(&self, case: &str) -> Result<proto::Case, CallError> {
        let response = self.read(proto::GetCaseRequest { read: None, case_id: case.into() }).await?;
        Ok(response.case.unwrap_or_default())
    }

    /// From the called node's own store.
    pub async fn get_case_local(&self, case: &str) -> Result<(proto::ReadMeta, proto::Case), CallError> {
        let response = self.read(proto::GetCaseRequest { read: local(), case_id: case.into() }).await?;
        Ok((response.meta.unwrap_or_default(), response.case.unwrap_or_default()))
    }

    // ---- The queue ----

    pub async fn take_ticket(
        &self,
        ledger: &Ledger,
        office: &str,
        service: &str,
    ) -> Result<proto::Ticket, CallError> {
        let request = proto::TakeTicketRequest {
            office: office.into(),
            purpose: proto::VisitPurpose::Apply.into(),
            service: service.into(),
            ..proto::TakeTicketRequest::default()
        };
        let ticket = self.write(ledger, request).await?.ticket.unwrap_or_default();
        ledger.ticket(&ticket.office, &ticket.day, &ticket.number, TicketEntry::Taken);
        Ok(ticket)
    }

    pub async fn call_next(
        &self,
        ledger: &Ledger,
        office: &str,
        window: &str,
    ) -> Result<proto::Ticket, CallError> {
        let request = proto::CallNextRequest {
            office: office.into(),
            window: window.into(),
            ..proto::CallNextRequest::default()
        };
        let ticket = self.write(ledger, request).await?.ticket.unwrap_or_default();
        ledger.ticket(&ticket.office, &ticket.day, &ticket.number, TicketEntry::Called);
        Ok(ticket)
    }

    pub async fn begin_service(
        &self,
        ledger: &Ledger,
        ticket: &proto::Ticket,
        window: &str,
    ) -> Result<(), CallError> {
        let request = proto::BeginServiceRequest {
            office: ticket.office.clone(),
            ticket: Some(reference(ticket)),
            window: window.into(),
            ..proto::BeginServiceRequest::default()
        };
        self.write(ledger, request).await?;
        ledger.ticket(&ticket.office, &ticket.day, &ticket.number, TicketEntry::Begun);
        Ok(())
    }

    pub async fn finish_service(
        &self,
        ledger: &Ledger,
        ticket: &proto::Ticket,
        window: &str,
    ) -> Result<(), CallError> {
        let request = proto::FinishServiceRequest {
            office: ticket.office.clone(),
            ticket: Some(reference(ticket)),
            window: window.into(),
            ..proto::FinishServiceRequest::default()
        };
        self.write(ledger, request).await?;
        ledger.ticket(&ticket.office, &ticket.day, &ticket.number, TicketEntry::Finished);
        Ok(())
    }

    /// Finishes what an earlier run in the same directory left at a window: it holds one called ticket at a time.
    pub async fn clear_window(&self, office: &str, window: &str, ledger: &Ledger) -> Result<(), CallError> {
        let states = [proto::TicketState::Called, proto::TicketState::InService];
        let mut page_token = String::new();
        loop {
            let request = proto::ListTicketsRequest {
                read: None,
                office: office.into(),
                states: states.iter().map(|state| i32::from(*state)).collect(),
                page_size: PAGE,
                page_token,
            };
            let page = self.read(request).await?;
            for ticket in page.tickets.iter().filter(|ticket| ticket.window == window) {
                if ticket.state() == proto::TicketState::Called {
                    self.begin_service(ledger, ticket, window).await?;
                }
                self.finish_service(ledger, ticket, window).await?;
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            page_token = page.next_page_token;
        }
    }

    /// All tickets of an office from the called node's own store, each with where it was read.
    pub async fn list_tickets_local(
        &self,
        office: &str,
    ) -> Result<Vec<(proto::ReadMeta, proto::Ticket)>, CallError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListTicketsRequest {
                read: local(),
                office: office.into(),
                states: Vec::new(),
                page_size: PAGE,
                page_token,
            };
            let page = self.read(request).await?;
            let meta = page.meta.unwrap_or_default();
            all.extend(page.tickets.into_iter().map(|ticket| (meta.clone(), ticket)));
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }

    // ---- The hall ----

    pub fn board(&self, office: &str) -> BoardWatch {
        let request =
            proto::WatchBoardRequest { office: office.into(), ..proto::WatchBoardRequest::default() };
        BoardWatch::new(self.client.clone(), request)
    }

    /// A window as it is.
    pub async fn window(&self, office: &str, window: &str) -> Result<Option<proto::Desk>, CallError> {
        let request = proto::ListDesksRequest { read: None, office: office.into(), window: window.into() };
        Ok(self.read(request).await?.desks.into_iter().next())
    }

    pub async fn put_queue_settings(&self, settings: proto::QueueSettings) -> Result<(), CallError> {
        self.read(proto::PutQueueSettingsRequest { meta: None, settings: Some(settings) }).await?;
        Ok(())
    }

    /// Attaches a workstation and keeps its lease up, until the stream ends or whoever waits for it gives up.
    pub async fn attach(&self, workstation: &str) -> Result<()> {
        let (up, outbound) = mpsc::channel(4);
        let message = |message| proto::AttachRequest { message: Some(message) };
        let hello = proto::AttachHello { workstation: workstation.into(), ..proto::AttachHello::default() };
        up.send(message(Up::Hello(hello))).await.context("attaching")?;
        let mut down = self.client.attach(None, ReceiverStream::new(outbound)).await.context("attaching")?;
        let mut sequence = 0;
        while let Some(response) = down.message().await.context("keeping a lease up")? {
            let Some(Down::Lease(lease)) = response.message else { continue };
            tokio::time::sleep(Duration::from_millis(lease.heartbeat_interval_ms.into())).await;
            sequence += 1;
            up.send(message(Up::Heartbeat(proto::Heartbeat { sequence })))
                .await
                .context("keeping a lease up")?;
        }
        Ok(())
    }

    // ---- Channels ----

    /// Returns the version of the channel's settings.
    pub async fn install_module(&self, path: &str, text: String) -> Result<u32, CallError> {
        let request = proto::InstallModuleRequest { meta: None, path: path.into(), text, dry_run: false };
        Ok(self.read(request).await?.version)
    }

    pub async fn channel(&self, channel: &str) -> Result<proto::ChannelFigures, CallError> {
        let request = proto::ShowChannelRequest { channel: channel.into(), read: None };
        Ok(self.read(request).await?.figures.unwrap_or_default())
    }

    pub async fn ask(
        &self,
        ledger: &Ledger,
        case: &str,
        code: &str,
        subject: &str,
        body: &[u8],
    ) -> Result<(), CallError> {
        let body = proto::AskBody { subject: subject.into(), key: String::new(), body: body.to_vec().into() };
        let request = proto::AskChannelsRequest {
            meta: None,
            case_id: case.into(),
            code: code.into(),
            bodies: vec![body],
        };
        self.write(ledger, request).await?;
        Ok(())
    }

    pub async fn exchanges(&self, case: &str) -> Result<Vec<proto::CaseExchange>, CallError> {
        let request = proto::ListExchangesRequest { case_id: case.into(), read: None };
        Ok(self.read(request).await?.exchanges)
    }

    /// A message as it was sent or received.
    pub async fn message_body(&self, case: &str, body: proto::BodyReference) -> Result<Vec<u8>, CallError> {
        let request = proto::GetMessageBodyRequest { case_id: case.into(), body: Some(body), read: None };
        Ok(self.read(request).await?.body.to_vec())
    }

    // ---- Catalogue and directory ----

    pub async fn load_catalogue(&self) -> Result<proto::LoadCatalogueResponse, CallError> {
        let files = okno_ops::embedded::catalogue_files();
        self.read(proto::LoadCatalogueRequest { meta: None, files }).await
    }

    pub async fn list_services(&self) -> Result<Vec<proto::Service>, CallError> {
        let request =
            proto::ListServicesRequest { page_size: SERVICES_PAGE, ..proto::ListServicesRequest::default() };
        Ok(self.read(request).await?.services)
    }

    /// Offices, windows and people of a development cluster.
    pub async fn load_directory(&self) -> Result<(), CallError> {
        for office in fixtures::offices() {
            self.read(proto::PutOfficeRequest { meta: None, office: Some(office) }).await?;
        }
        for window in fixtures::windows() {
            self.read(proto::PutWindowRequest { meta: None, window: Some(window) }).await?;
        }
        for person in fixtures::people() {
            self.read(proto::PutPersonRequest { meta: None, person: Some(person) }).await?;
        }
        Ok(())
    }

    // ---- The cluster ----

    pub async fn status(&self, within: Duration) -> Result<proto::GetStatusResponse, CallError> {
        let options = CallOptions { deadline: Some(within), once: true, ..CallOptions::default() };
        Ok(self.client.call_with(proto::GetStatusRequest {}, options).await?.response)
    }

    /// Returns the index at which every member digests its rows.
    pub async fn place_marker(&self) -> Result<u64, CallError> {
        Ok(self.read(proto::PlaceMarkerRequest { meta: None }).await?.marker_index)
    }

    pub async fn digests(&self) -> Result<Vec<proto::MemberDigest>, CallError> {
        Ok(self.read(proto::GetDigestsRequest {}).await?.members)
    }
}

fn local() -> Option<proto::ReadOptions> {
    Some(proto::ReadOptions { consistency: proto::Consistency::Local.into(), resume_token: String::new() })
}

fn reference(ticket: &proto::Ticket) -> proto::TicketRef {
    proto::TicketRef { day: ticket.day.clone(), number: ticket.number.clone() }
}

/// A step's stable name, as the case records it.
fn step_name(step: &Step) -> &'static str {
    match step {
        Step::Accept(_) => "accept",
        Step::RequestInteragency(_) => "request-interagency",
        Step::InteragencyAnswered(_) => "interagency-answered",
        Step::SendToAuthority(_) => "send-to-authority",
        Step::Suspend(_) => "suspend",
        Step::Resume(_) => "resume",
        Step::ReceiveResult(_) => "receive-result",
        Step::ReceiveRefusal(_) => "receive-refusal",
        Step::MakeReady(_) => "make-ready",
        Step::Issue(_) => "issue",
        Step::Withdraw(_) => "withdraw",
        Step::MarkUnclaimed(_) => "mark-unclaimed",
        Step::Archive(_) => "archive",
    }
}
