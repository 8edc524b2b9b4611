//! `okno.v1.WorkstationService`: an attached workstation is a lease, kept up by heartbeats, and learns the
//! cluster's notices (R-R1). Leases live in this node's memory on its monotonic clock.

use super::{desk::Desk, notices::Words, watch::stopping};
use crate::{
    failure::{Failure, Language},
    front::CallContext,
    identity::Kind,
};
use futures::Stream;
use okno_domain::entity::RefusalClass;
use okno_proto::v1::{
    self, attach_request::Message as Up, attach_response::Message as Down,
    workstation_service_server::WorkstationService,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, broadcast::error::RecvError, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// Responses on their way to one workstation; one that does not take them for a lease is lost anyway.
const QUEUE_MAX: usize = 64;
/// How long hello may take.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How often leases that ran out are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// The leases of this node.
///
/// Invariants: a workstation has one lease; a lease outlives its stream until it runs out, and is the same again
/// when the workstation is back in time; the newest stream of a workstation holds it.
#[derive(Debug)]
pub struct Leases {
    lease: Duration,
    max: usize,
    held: Mutex<HashMap<String, Held>>,
    /// Told when a workstation attaches or detaches, so that whoever rules learns it at once.
    changed: Notify,
}

#[derive(Debug, Clone)]
struct Held {
    id: Uuid,
    expires: Instant,
    /// Cancelled when a newer stream takes the lease over.
    stream: CancellationToken,
}

impl Leases {
    pub fn new(lease: Duration, max: usize) -> Self {
        Self { lease, max, held: Mutex::default(), changed: Notify::new() }
    }

    pub fn count(&self) -> usize {
        self.held.lock().len()
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The workstations that hold a lease here, and for how long still; by name.
    pub fn standing(&self, now: Instant) -> BTreeMap<String, Duration> {
        let held = self.held.lock();
        let standing = held.iter().filter(|(_, held)| held.expires > now);
        standing.map(|(name, held)| (name.clone(), held.expires - now)).collect()
    }

    /// Until a workstation attaches or detaches.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes or takes over a workstation's lease; `None` when there are too many.
    fn take(&self, workstation: &str, now: Instant) -> Option<Held> {
        let mut held = self.held.lock();
        let before = held.get(workstation).filter(|before| before.expires > now).cloned();
        if before.is_none() && held.len() >= self.max {
            return None;
        }
        let id = match &before {
            Some(before) => {
                before.stream.cancel();
                before.id
            }
            None => Uuid::new_v4(),
        };
        let lease = Held { id, expires: now + self.lease, stream: CancellationToken::new() };
        held.insert(workstation.to_owned(), lease.clone());
        self.changed.notify_one();
        Some(lease)
    }

    /// Renews the lease; false when it has run out.
    fn renew(&self, workstation: &str, id: Uuid, now: Instant) -> bool {
        match self.held.lock().get_mut(workstation) {
            Some(held) if held.id == id && held.expires > now => {
                held.expires = now + self.lease;
                true
            }
            _ => false,
        }
    }

    fn release(&self, workstation: &str, id: Uuid) {
        let mut held = self.held.lock();
        if held.get(workstation).is_some_and(|held| held.id == id) {
            held.remove(workstation);
            self.changed.notify_one();
        }
    }

    /// Removes what has run out, and names it.
    fn sweep(&self, now: Instant) -> Vec<String> {
        let mut held = self.held.lock();
        let mut lost: Vec<String> =
            held.iter().filter(|(_, held)| held.expires <= now).map(|(name, _)| name.clone()).collect();
        lost.sort();
        for name in &lost {
            if let Some(held) = held.remove(name) {
                held.stream.cancel();
            }
        }
        lost
    }
}

/// Looks for lost workstations until the node stops.
pub async fn sweep(desk: Arc<Desk>) {
    let mut look = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = desk.stop.cancelled() => return,
            _ = look.tick() => {}
        }
        for name in desk.leases.sweep(Instant::now()) {
            tracing::info!(workstation = name, "a workstation is lost");
            desk.notices.tell(&Words {
                severity: v1::Severity::Info,
                kind: "WORKSTATION_LOST",
                russian: format!("Рабочее место {name} не отвечает"),
                english: format!("workstation {name} does not answer"),
            });
        }
    }
}

pub struct Workstations(pub Arc<Desk>);

type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::AttachResponse, Status>> + Send>>;

#[tonic::async_trait]
impl WorkstationService for Workstations {
    type AttachStream = AttachStream;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let handler = |desk: Arc<Desk>, context: CallContext, mut up: Streaming<v1::AttachRequest>| async move {
            let hello = hello_of(&mut up).await?;
            check_hello(&desk, &context, &hello).await?;
            let lease = desk.leases.take(&hello.workstation, Instant::now());
            let lease =
                lease.ok_or_else(|| Failure::exhausted("WORKSTATIONS_FULL", "too many workstations"))?;
            let (down, received) = mpsc::channel(QUEUE_MAX);
            let attached =
                Attached { desk, language: context.language, workstation: hello.workstation, lease, down };
            tokio::spawn(attached.run(up));
            Ok(Box::pin(ReceiverStream::new(received)) as AttachStream)
        };
        self.0.handle(request, handler).await
    }
}

async fn hello_of(up: &mut Streaming<v1::AttachRequest>) -> Result<v1::AttachHello, Failure> {
    let first = tokio::time::timeout(HELLO_WITHIN, up.message()).await;
    match first {
        Ok(Ok(Some(v1::AttachRequest { message: Some(Up::Hello(hello)) }))) => Ok(hello),
        _ => Err(Failure::field(
            "hello",
            "ожидается первым сообщением",
            "expected as the first message, within 5 s",
        )),
    }
}

async fn check_hello(desk: &Desk, context: &CallContext, hello: &v1::AttachHello) -> Result<(), Failure> {
    let name = &hello.workstation;
    let form_ok = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
    if name.is_empty() || name.len() > 64 || !form_ok {
        return Err(Failure::field(
            "hello.workstation",
            "ожидается от 1 до 64 латинских букв, цифр и знаков . _ : -",
            "expected 1 to 64 of letters, digits and . _ : -",
        ));
    }
    let caller = context.caller();
    let foreign = |russian: &str, english: &str| {
        desk.record_denial(context, "WORKSTATION_FOREIGN");
        Err(Failure::refused(RefusalClass::PermissionDenied, "WORKSTATION_FOREIGN", russian, english))
    };
    if caller.kind == Kind::Workstation && caller.id.as_ref() != name {
        return foreign("Сертификат другого рабочего места", "the certificate is another workstation's");
    }
    if caller.kind == Kind::Operator {
        // An officer sits down at workstations of the own offices; taking over another's would end its stream.
        let own = || {
            let world = desk.query.world();
            match (world.directory.window_of(name), world.directory.person(&caller.id)) {
                (Some(window), Some(person)) => person.offices.contains(&window.office),
                _ => false,
            }
        };
        if !own() {
            // An office that was given just now may not have applied here.
            desk.read_point(context, None).await?;
        }
        if !own() {
            return foreign(
                "Рабочее место не относится к вашим офисам",
                "the workstation does not belong to an office of yours",
            );
        }
    }
    Ok(())
}

/// One attached workstation.
struct Attached {
    desk: Arc<Desk>,
    language: Language,
    workstation: String,
    lease: Held,
    down: mpsc::Sender<Result<v1::AttachResponse, Status>>,
}

impl Attached {
    async fn run(self, mut up: Streaming<v1::AttachRequest>) {
        let (standing, mut notices) = self.desk.notices.subscribe();
        if !self.send(Down::Lease(self.lease_message(0))).await || !self.send_all(standing).await {
            return;
        }
        loop {
            tokio::select! {
                // First, so that what a stream says after another has taken its place touches nothing.
                biased;
                () = self.lease.stream.cancelled() => return self.end(&lost()).await,
                () = self.desk.stop.cancelled() => return self.end(&stopping()).await,
                message = up.message() => match message.ok().flatten().and_then(|request| request.message) {
                    Some(Up::Heartbeat(heartbeat)) => {
                        if !self.desk.leases.renew(&self.workstation, self.lease.id, Instant::now()) {
                            return self.end(&lost()).await;
                        }
                        if !self.send(Down::Lease(self.lease_message(heartbeat.sequence))).await {
                            return;
                        }
                    }
                    Some(Up::Detach(_)) => {
                        self.desk.leases.release(&self.workstation, self.lease.id);
                        return;
                    }
                    Some(Up::Hello(_)) => {
                        let again = Failure::field("hello", "только первым сообщением", "expected once, first");
                        return self.end(&again).await;
                    }
                    // The stream broke: the lease runs out by itself unless the workstation is back before.
                    None => return,
                },
                notice = notices.recv() => {
                    let sent = match notice {
                        Ok(notice) => self.send(Down::Notice(notice)).await,
                        Err(RecvError::Lagged(_)) => {
                            let (standing, fresh) = self.desk.notices.subscribe();
                            notices = fresh;
                            self.send_all(standing).await
                        }
                        Err(RecvError::Closed) => false,
                    };
                    if !sent {
                        return;
                    }
                }
            }
        }
    }

    fn lease_message(&self, sequence: u64) -> v1::Lease {
        let lease = self.desk.leases.lease;
        v1::Lease {
            lease_id: self.lease.id.to_string(),
            expires_at: Some((SystemTime::now() + lease).into()),
            heartbeat_interval_ms: u32::try_from(lease.as_millis() / 3).unwrap_or(u32::MAX),
            sequence,
            served_by: self.desk.node_id,
            leader: self.desk.leader().unwrap_or_default(),
        }
    }

    async fn send_all(&self, notices: Vec<v1::Notice>) -> bool {
        for notice in notices {
            if !self.send(Down::Notice(notice)).await {
                return false;
            }
        }
        true
    }

    /// False when the workstation is gone or takes nothing for a whole lease.
    async fn send(&self, message: Down) -> bool {
        let response = Ok(v1::AttachResponse { message: Some(message) });
        self.down.send_timeout(response, self.desk.leases.lease).await.is_ok()
    }

    async fn end(&self, failure: &Failure) {
        let status = Err(failure.status(self.language));
        // It may be gone already.
        let _ = self.down.send_timeout(status, Duration::from_secs(1)).await;
    }
}

fn lost() -> Failure {
    Failure::not_applied(
        "LEASE_LOST",
        Duration::from_millis(100),
        "the lease has run out or another stream of this workstation holds it: attach again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_one_per_workstation_and_runs_out() {
        let lease = Duration::from_secs(10);
        let leases = Leases::new(lease, 2);
        let start = Instant::now();
        let first = leases.take("w1", start).expect("room");
        assert!(leases.renew("w1", first.id, start + Duration::from_secs(9)));
        // Back in time: the same lease, and the older stream is told.
        let second = leases.take("w1", start + Duration::from_secs(18)).expect("room");
        assert_eq!(second.id, first.id);
        assert!(first.stream.is_cancelled() && !second.stream.is_cancelled());
        assert!(leases.take("w2", start).is_some());
        assert!(leases.take("w3", start).is_none(), "bounded");
        assert_eq!(leases.sweep(start + lease), ["w2"]);
        assert!(leases.sweep(start + lease).is_empty());
        // Too late: another lease.
        let late = start + Duration::from_secs(60);
        assert!(!leases.renew("w1", first.id, late));
        let third = leases.take("w1", late).expect("room");
        assert_ne!(third.id, first.id);
        leases.release("w1", first.id);
        assert_eq!(leases.count(), 1, "only the holder releases");
        leases.release("w1", third.id);
        assert_eq!(leases.count(), 0);
    }
}
