//! A node that follows sends calls to the leader with the caller's identity, and tells its caller what came back.

use crate::{
    node::Node,
    probe::{Probe, script},
    world::{World, admin, applied, probe, request_at, settings, start},
};
use bytes::Bytes;
use okno_cluster::{ForwardError, ForwardHandler, NodeId};
use okno_domain::entity::Principal;
use okno_runtime::{CallResult, Forwarder};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A wire to the leader that can lose what it carries.
struct Wire {
    leader: Arc<dyn ForwardHandler>,
    /// So many calls do not leave.
    unsent: AtomicUsize,
    /// Of so many calls the answer is lost.
    unanswered: AtomicUsize,
}

fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Forwarder for Wire {
    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        _: Instant,
    ) -> futures::future::BoxFuture<'static, Result<Bytes, ForwardError>> {
        assert_eq!(to, 1);
        let lost = take(&self.unanswered);
        if take(&self.unsent) {
            return Box::pin(async { Err(ForwardError::NotSent) });
        }
        let answer = self.leader.handle(2, payload);
        Box::pin(async move {
            let answer = answer.await;
            if lost { Err(ForwardError::Unknown) } else { Ok(answer) }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_reach_the_leader() {
    let leader = World::new();
    let log = Node::start();
    log.follow(1);
    let wire = Arc::new(Wire {
        leader: leader.runtime.forward_handler(),
        unsent: AtomicUsize::new(0),
        unanswered: AtomicUsize::new(0),
    });
    let forwarder: Arc<dyn Forwarder> = Arc::clone(&wire) as _;
    let follower = start(&log, settings(2), Arc::clone(&log), forwarder);

    let call = leader.call_as(&admin(), &probe("-f"), script("put a 1"));
    let done = follower.gateway.call(call.clone()).await;
    assert!(matches!(done, CallResult::Done { .. }), "{done:?}");
    assert_eq!(leader.runtime.gateway.call(call).await, done, "the same request, whichever way it came");

    // Lost on the way out: tried again, done once.
    wire.unsent.store(2, Ordering::SeqCst);
    let call = leader.call_as(&admin(), &probe("-f"), script("put b 1"));
    assert!(matches!(follower.gateway.call(call).await, CallResult::Done { .. }));
    // Lost on the way back: tried again with a larger attempt number, found in the request memory.
    wire.unanswered.store(1, Ordering::SeqCst);
    let call = leader.call_as(&admin(), &probe("-f"), script("put c 1"));
    assert!(matches!(follower.gateway.call(call).await, CallResult::Done { .. }));
    let state = applied::<Probe>(&leader.log.reader, "probe-f");
    assert_eq!((state.parts.len(), state.events()), (3, 3));

    // The caller's identity goes along: the leader refuses a board.
    let board = Principal { kind: "board".into(), id: "b".into() };
    let refused = follower.gateway.call(leader.call_as(&board, &probe("-f"), script("put d 1"))).await;
    assert!(
        matches!(&refused, CallResult::Refused(refusal) if refusal.reason == "PROBE_DENIED"),
        "{refused:?}"
    );

    // Never anything but unknown after an answer was lost and no later one came.
    wire.unanswered.store(usize::MAX, Ordering::SeqCst);
    let mut call =
        leader.call_with(&admin(), &probe("-f"), script("put e 1"), request_at(crate::node::START_MS, 99));
    call.deadline = Instant::now() + Duration::from_secs(2);
    let unknown = follower.gateway.call(call).await;
    assert_eq!(unknown, CallResult::Unknown { reason: "FORWARD_LOST".into() });
    assert_eq!(applied::<Probe>(&leader.log.reader, "probe-f").parts.len(), 4);

    let figures = follower.gateway.figures();
    assert!(figures.forwarded >= 6 && figures.local == 0, "{figures:?}");
    // A forward that comes to a follower goes no further.
    let answer = follower.forward_handler().handle(1, Bytes::from_static(b"\x02garbage")).await;
    assert!(!answer.is_empty());
    follower.shutdown().await;
    leader.stop().await;
}

/// The first leader takes calls and never answers; the next one answers.
struct Hangs {
    next: Arc<dyn ForwardHandler>,
    asked: tokio::sync::mpsc::UnboundedSender<NodeId>,
}

impl Forwarder for Hangs {
    fn forward(
        &self,
        to: NodeId,
        payload: Bytes,
        _: Instant,
    ) -> futures::future::BoxFuture<'static, Result<Bytes, ForwardError>> {
        self.asked.send(to).expect("the test listens");
        if to == 1 {
            return Box::pin(std::future::pending());
        }
        let answer = self.next.handle(2, payload);
        Box::pin(async move { Ok(answer.await) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_not_waited_for_once_another_leads() {
    let next = World::new();
    let log = Node::start();
    log.follow(1);
    let (asked, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let wire = Arc::new(Hangs { next: next.runtime.forward_handler(), asked });
    let forwarder: Arc<dyn Forwarder> = wire;
    let follower = start(&log, settings(2), Arc::clone(&log), forwarder);

    let mut call = next.call_as(&admin(), &probe("-h"), script("put a 1"));
    // Nothing but the change of leader can end the wait while the test runs.
    call.deadline = Instant::now() + Duration::from_secs(3_600);
    let gateway = follower.gateway.clone();
    let waiting = tokio::spawn(async move { gateway.call(call).await });
    assert_eq!(seen.recv().await, Some(1));
    log.follow(3);
    let done = waiting.await.expect("no panic");
    assert!(matches!(done, CallResult::Done { .. }), "{done:?}");
    assert_eq!(seen.recv().await, Some(3));
    follower.shutdown().await;
    next.stop().await;
}
