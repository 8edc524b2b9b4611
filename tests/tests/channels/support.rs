//! A cluster with a channel, cases that ask it, and connectors of every kind: good ones, and ones that speak the wire
//! themselves.

use okno_client::v1 as proto;
use okno_connectors::{Handler, Message, Setup, Verdict, Work};
pub use okno_tests::channel::{
    CHANNEL, CONNECTORS, Policy, Raw, SOON, acknowledge, answer_to, complete, install, module, name, pull,
    pulled, reason, request, say_too_much, settle,
};
use okno_tests::{
    channel,
    cluster::{Cluster, Pair},
    desk::Desk,
    eventually,
    plan::Plan,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A cluster of three with the channel installed.
pub struct World {
    pub cluster: Cluster,
    pub officer: Desk,
    visitors: Mutex<u32>,
}

impl World {
    pub async fn start(policy: &Policy) -> Self {
        Self::start_with(policy, async |_| {}).await
    }

    /// With something done to the cluster before it starts.
    pub async fn start_with(policy: &Policy, before: impl AsyncFnOnce(&Cluster)) -> Self {
        let mut cluster = Cluster::prepare_as(&Plan::of(3).setting(
            "channels",
            "heartbeat",
            format!("{}ms", channel::HEARTBEAT_MS),
        ));
        before(&cluster).await;
        cluster.start_all();
        cluster.wait_ready().await;
        cluster.fill().await;
        let admin = cluster.admin();
        admin.call(proto::RaiseLevelRequest::default()).await.expect("every member knows the level");
        let installed = admin.call(install(&module(policy))).await.expect("the module is installed");
        assert_eq!((installed.channel.as_str(), installed.version), (CHANNEL, 1));
        let officer = cluster.officer();
        Self { cluster, officer, visitors: Mutex::new(0) }
    }

    /// A certificate of kind connector.
    pub fn certificate(&self, id: &str) -> Pair {
        channel::certificate(&self.cluster, id)
    }

    pub fn connector(&self, id: &str) -> Desk {
        channel::connector(&self.cluster, id)
    }

    /// A connector that calls one node only.
    pub fn connector_at(&self, node: u64, id: &str) -> Desk {
        channel::connector_at(&self.cluster, node, id)
    }

    /// An accepted case that has asked, with a body of its own.
    pub async fn case_that_asks(&self, code: &str) -> (String, Vec<u8>) {
        let visitor = {
            let mut visitors = self.visitors.lock().expect("a number");
            *visitors += 1;
            *visitors
        };
        channel::case_that_asks(&self.officer, visitor, code).await.expect("the channel is asked")
    }

    pub async fn exchanges(&self, case: &str) -> proto::ListExchangesResponse {
        channel::exchanges(&self.officer, case).await.expect("its exchanges")
    }

    /// Waits until the only request of a case has ended, and how.
    pub async fn ended(&self, case: &str, how: &str) -> proto::CaseExchange {
        eventually(&format!("the request of {case} is {how}"), SOON, async || {
            let exchange = self.exchanges(case).await.exchanges.swap_remove(0);
            if exchange.state == how { Ok(exchange) } else { Err(exchange.state) }
        })
        .await
    }

    pub async fn show(&self) -> proto::ShowChannelResponse {
        let request = proto::ShowChannelRequest { channel: CHANNEL.into(), read: None };
        self.cluster.admin().call(request).await.expect("the channel")
    }

    pub async fn figures(&self) -> proto::ChannelFigures {
        self.show().await.figures.expect("figures")
    }

    /// Waits until the channel has so many messages that are not dead.
    pub async fn waiting(&self, count: u32) {
        eventually(&format!("{count} messages in the backlog"), SOON, async || {
            let figures = self.figures().await;
            if figures.live == count { Ok(()) } else { Err(figures) }
        })
        .await;
    }
}

// ---- a connector on the SDK ----

/// How the good connector works.
type Does = Arc<dyn Fn(&Message) -> (Duration, Verdict) + Send + Sync>;

struct Worker {
    does: Does,
    seen: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Handler for Worker {
    async fn handle(&self, message: Message, _work: Work) -> Verdict {
        *self.seen.lock().expect("counts").entry(message.id.clone()).or_insert(0) += 1;
        let (takes, verdict) = (self.does)(&message);
        tokio::time::sleep(takes).await;
        verdict
    }
}

/// A running connector on the SDK.
pub struct Good {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Message id → times it was handed to the handler.
    pub seen: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Good {
    pub fn start(
        desk: &Desk,
        instance: &str,
        does: impl Fn(&Message) -> (Duration, Verdict) + Send + Sync + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let seen: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
        let mut setup = Setup::new(CHANNEL, "test");
        setup.instance = instance.to_owned();
        let worker = Worker { does: Arc::new(does), seen: seen.clone() };
        let task = tokio::spawn(okno_connectors::run(desk.client.clone(), setup, worker, stop.clone()));
        Self { stop, task, seen }
    }

    pub fn seen(&self) -> BTreeMap<String, u32> {
        self.seen.lock().expect("counts").clone()
    }

    /// Told to end, and waited for.
    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("it ends in time").expect("it does not panic");
    }
}

pub fn echo(message: &Message) -> (Duration, Verdict) {
    (Duration::ZERO, Verdict::complete("готово", answer_to(&message.body)))
}

/// Waits for many at once.
pub async fn all<T>(waited: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::future::join_all(waited).await
}
