//! The retry driver against scripted nodes behind mutual TLS: which class a call ends in (rule 1), and that every
//! attempt carries the same request id, under a number that grows with what ended unknown.

mod support;

use okno_client::{CallError, CallOptions, CaseWatch, Class, Route, TlsFiles, new_request_id, v1};
use std::time::{Duration, Instant};
use support::{Node, Pki, Step, break_key, client, client_with, dead_address, expired, later, status};
use tonic::Code;

fn write() -> v1::AddDocumentRequest {
    v1::AddDocumentRequest { case_id: "c".to_owned(), ..Default::default() }
}

fn assert_class(result: Result<impl std::fmt::Debug, CallError>, class: Class, reason: &str) -> CallError {
    let error = result.expect_err("the call must fail");
    assert_eq!((error.class(), error.reason()), (class, reason), "{error}");
    error
}

/// All attempts have one valid id and these numbers, in any order.
fn assert_attempts(nodes: &[&Node], numbers: &[u32]) {
    let seen: Vec<_> = nodes.iter().flat_map(|node| node.seen()).collect();
    let mut attempts: Vec<u32> = seen.iter().map(|s| s.attempt).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, numbers);
    assert!(seen.iter().all(|s| s.request_id == seen[0].request_id), "{seen:?}");
    let id = uuid::Uuid::parse_str(&seen[0].request_id).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
}

#[tokio::test]
async fn a_refusal_ends_the_call_with_its_facts() {
    let pki = Pki::new();
    let node =
        Node::start(&pki, 1, 1, vec![Step::Fail(status(Code::InvalidArgument, "SHEETS_INVALID"))]).await;
    let error =
        assert_class(client(&pki, &[&node.address]).call(write()).await, Class::Refused, "SHEETS_INVALID");
    let problem = error.problem();
    assert_eq!(problem.violations, [("sheets".to_owned(), "1 to 10000".to_owned())]);
    assert_eq!(problem.details["step"], "accept");
    assert_eq!(problem.message, "текст");
    assert_eq!(problem.attempts, 1);
    assert!(problem.request_id.is_some());
    assert_attempts(&[&node], &[1]);
}

#[tokio::test]
async fn not_applied_and_unknown_are_retried_with_the_same_id() {
    let pki = Pki::new();
    let script = vec![
        Step::Fail(status(Code::Unavailable, "NO_LEADER")),
        Step::Fail(status(Code::ResourceExhausted, "OVERLOADED")),
        Step::Fail(status(Code::Aborted, "OUTCOME_UNKNOWN")),
        Step::Done,
    ];
    let node = Node::start(&pki, 1, 1, script).await;
    let answer = client(&pki, &[&node.address]).call(write()).await.expect("succeeds in the end");
    assert_eq!((answer.attempts, answer.response.document_number), (4, 1));
    // What was not applied is asked again as if for the first time: nothing of it is on its way.
    assert_attempts(&[&node], &[1, 1, 1, 2]);
}

#[tokio::test]
async fn not_applied_to_the_end_is_not_applied() {
    let pki = Pki::new();
    // Two attempts within the deadline and none at its end, where one could be cut off and leave the outcome unknown.
    let script = (0..500).map(|_| Step::Fail(later("NO_LEADER", Duration::from_secs(1)))).collect();
    let node = Node::start(&pki, 1, 1, script).await;
    let client = client_with(&pki, &[&node.address], |s| s.deadline = Duration::from_millis(1_900));
    let error = assert_class(client.call(write()).await, Class::NotApplied, "NO_LEADER");
    assert_eq!(error.problem().attempts, 2);
    assert_attempts(&[&node], &[1, 1]);
}

#[tokio::test]
async fn once_unknown_a_later_not_applied_stays_unknown() {
    let pki = Pki::new();
    let mut script = vec![Step::Fail(status(Code::Aborted, "OUTCOME_UNKNOWN"))];
    script.extend((0..500).map(|_| Step::Fail(status(Code::Unavailable, "NO_LEADER"))));
    let node = Node::start(&pki, 1, 1, script).await;
    let client = client_with(&pki, &[&node.address], |s| s.deadline = Duration::from_millis(500));
    let error = assert_class(client.call(write()).await, Class::Unknown, "OUTCOME_UNKNOWN");
    assert!(error.problem().attempts > 1);
}

#[tokio::test]
async fn a_refusal_settles_what_was_unknown_but_a_denial_at_the_door_does_not() {
    let pki = Pki::new();
    let unknown = || Step::Fail(status(Code::Aborted, "OUTCOME_UNKNOWN"));
    let script = vec![
        unknown(),
        Step::Fail(status(Code::FailedPrecondition, "CASE_STEP_IMPOSSIBLE")),
        unknown(),
        Step::Fail(status(Code::PermissionDenied, "METHOD_DENIED")),
        unknown(),
        Step::Fail(tonic::Status::unimplemented("an older node")),
    ];
    let node = Node::start(&pki, 1, 1, script).await;
    let client = client(&pki, &[&node.address]);
    assert_class(client.call(write()).await, Class::Refused, "CASE_STEP_IMPOSSIBLE");
    assert_class(client.call(write()).await, Class::Unknown, "OUTCOME_UNKNOWN");
    assert_class(client.call(write()).await, Class::Unknown, "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn an_id_out_of_the_window_is_not_asked_for_again() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, vec![Step::Fail(expired())]).await;
    let error =
        assert_class(client(&pki, &[&node.address]).call(write()).await, Class::Unknown, "OUTCOME_UNKNOWN");
    assert_eq!(error.problem().attempts, 1);
}

#[tokio::test]
async fn an_earlier_call_goes_on_where_it_ended() {
    let pki = Pki::new();
    let script = vec![Step::Fail(status(Code::Unavailable, "NO_LEADER")), Step::Done];
    let node = Node::start(&pki, 1, 1, script).await;
    let client = client(&pki, &[&node.address]);
    let mut request = write();
    request.meta = Some(v1::RequestMeta {
        request_id: new_request_id().to_string(),
        attempt: 3,
        workstation: String::new(),
    });
    let options = CallOptions { once: true, ..CallOptions::default() };
    // Its first attempts ended unknown, so "not applied" now says nothing about them.
    assert_class(client.call_with(request.clone(), options).await, Class::Unknown, "NO_LEADER");
    assert_eq!(node.seen()[0].attempt, 3);
    client.call(request).await.expect("the next one succeeds");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let pki = Pki::new();
    let node = Node::start(&pki, 2, 2, Vec::new()).await;
    let dead = dead_address().await;
    // An attempt that waited for it would wait longer than the call.
    let both = client_with(&pki, &[&dead, &node.address], |s| s.attempt_timeout = 2 * s.deadline);
    let answer = both.call(write()).await.expect("the second one answers");
    assert_eq!((answer.endpoint, answer.attempts), (1, 2));
    // The request never left for the dead one: a refusal now would be final.
    assert_attempts(&[&node], &[1]);
    // And remembered: the next call goes to the living one at once.
    assert_eq!(both.call(write()).await.expect("answers").attempts, 1);
    let alone = client_with(&pki, &[&dead], |s| s.deadline = Duration::from_millis(300));
    assert_class(alone.call(write()).await, Class::NotApplied, "UNREACHABLE");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_write_leaves_it_unknown() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, vec![Step::Cut, Step::Cut]).await;
    let other = Node::start(&pki, 2, 2, Vec::new()).await;
    let alone = client(&pki, &[&node.address]);
    let options = CallOptions { once: true, ..CallOptions::default() };
    let error = alone.call_with(write(), options).await.expect_err("the connection is cut");
    assert_eq!(error.class(), Class::Unknown, "{error}");
    let answer =
        client(&pki, &[&node.address, &other.address]).call(write()).await.expect("taken up elsewhere");
    assert_eq!((answer.endpoint, answer.attempts), (1, 2));
    assert_eq!(node.seen()[1].request_id, other.seen()[0].request_id);
    assert_eq!(other.seen()[0].attempt, 2);
}

#[tokio::test]
async fn a_node_that_hangs_is_left_after_the_attempts_time() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, vec![Step::Hang]).await;
    let other = Node::start(&pki, 2, 2, Vec::new()).await;
    let client = client_with(&pki, &[&node.address, &other.address], |s| {
        s.attempt_timeout = Duration::from_millis(500);
    });
    let began = Instant::now();
    let answer = client.call(write()).await.expect("taken up elsewhere");
    assert_eq!(answer.endpoint, 1);
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_attempts(&[&node, &other], &[1, 2]);
}

/// How long a closed node wants to be left alone is no reason to wait where others serve.
#[tokio::test]
async fn a_node_that_closed_itself_is_left_at_once() {
    let pki = Pki::new();
    let patience = Duration::from_secs(60);
    for reason in ["NODE_QUARANTINED", "NODE_NOT_READY", "NODE_CLOSED"] {
        let closed = Node::start(&pki, 1, 1, vec![Step::Fail(later(reason, patience))]).await;
        let other = Node::start(&pki, 2, 2, Vec::new()).await;
        let client = client_with(&pki, &[&closed.address, &other.address], |s| {
            s.deadline = Duration::from_millis(1_500);
        });
        let answer = client.call(write()).await.expect("the other serves");
        assert_eq!((answer.endpoint, answer.attempts), (1, 2), "{reason}");
        assert_attempts(&[&closed, &other], &[1, 1]);
    }
    // Where all are closed the pause counts: nobody is asked again before the deadline.
    let script = || (0..50).map(|_| Step::Fail(later("NODE_NOT_READY", patience))).collect();
    let nodes = [Node::start(&pki, 1, 1, script()).await, Node::start(&pki, 2, 2, script()).await];
    let client = client_with(&pki, &[&nodes[0].address, &nodes[1].address], |s| {
        s.deadline = Duration::from_millis(1_500);
    });
    let error = assert_class(client.call(write()).await, Class::NotApplied, "NODE_NOT_READY");
    assert_eq!(error.problem().attempts, 2);
}

#[tokio::test]
async fn the_leader_hint_is_followed() {
    let pki = Pki::new();
    let first = Node::start(&pki, 1, 3, vec![Step::Fail(status(Code::Unavailable, "NOT_LEADER"))]).await;
    let second = Node::start(&pki, 2, 3, Vec::new()).await;
    let third = Node::start(&pki, 3, 3, Vec::new()).await;
    let nodes = [first.address.as_str(), &second.address, &third.address];
    let spread = client(&pki, &nodes);
    assert_eq!(spread.find_leader().await, Some(2));
    let answer = spread.call(write()).await.expect("the leader answers");
    assert_eq!((answer.endpoint, answer.attempts), (2, 2));
    assert!(second.seen().is_empty());
    let direct = client_with(&pki, &nodes, |s| s.route = Route::Leader);
    direct.find_leader().await;
    assert_eq!(direct.call(write()).await.expect("the leader answers").endpoint, 2);
}

#[tokio::test]
async fn reads_are_never_unknown() {
    let pki = Pki::new();
    let script = vec![Step::Cut, Step::Fail(tonic::Status::internal("panicked")), Step::Done];
    let node = Node::start(&pki, 1, 1, script).await;
    let client = client(&pki, &[&node.address]);
    let answer = client.call(v1::GetCaseRequest::default()).await.expect("repeated until it succeeds");
    assert_eq!(answer.attempts, 3);
    let hanging = Node::start(&pki, 1, 1, vec![Step::Hang]).await;
    let once = CallOptions { once: true, ..CallOptions::default() };
    let impatient =
        client_with(&pki, &[&hanging.address], |s| s.attempt_timeout = Duration::from_millis(500));
    let error = impatient.call_with(v1::GetCaseRequest::default(), once).await;
    assert_eq!(error.expect_err("no answer").class(), Class::NotApplied);
}

#[tokio::test]
async fn an_oversized_message_never_leaves() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, Vec::new()).await;
    let mut request = write();
    request.note = "x".repeat(okno_client::MAX_MESSAGE);
    assert_class(client(&pki, &[&node.address]).call(request).await, Class::Refused, "MESSAGE_TOO_LARGE");
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn strangers_are_not_talked_to() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, Vec::new()).await;
    let short = Duration::from_secs(2);
    let foreign = client_with(&pki, &[&node.address], |s| {
        s.cluster = "another".to_owned();
        s.deadline = short;
    });
    let error = assert_class(foreign.call(write()).await, Class::NotApplied, "UNREACHABLE");
    assert!(error.to_string().contains("belongs to cluster sample, expected another"), "{error}");
    // Another authority signed the node's certificate.
    let other = Pki::new();
    let distrusting = client_with(&pki, &[&node.address], |s| {
        s.tls = TlsFiles { ca: other.files().ca, ..pki.files() };
        s.deadline = short;
    });
    assert_class(distrusting.call(write()).await, Class::NotApplied, "UNREACHABLE");
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn certificates_are_read_again_and_half_written_ones_ignored() {
    let pki = Pki::new();
    let node = Node::start(&pki, 1, 1, vec![Step::Cut]).await;
    let client = client(&pki, &[&node.address]);
    break_key(pki.dir.path());
    let answer = client.call(write()).await.expect("the last good certificate is used");
    assert_eq!(answer.attempts, 2);
    let broken =
        okno_client::Client::new(okno_client::Settings::new(vec![node.address.clone()], pki.files()));
    let error = broken.expect_err("no key").to_string();
    assert!(error.contains("key.pem") && error.contains("private key in PEM"), "{error}");
}

#[tokio::test]
async fn a_watch_goes_on_at_another_node_behind_what_was_seen() {
    let pki = Pki::new();
    let first = Node::start(&pki, 1, 1, Vec::new()).await;
    let second = Node::start(&pki, 2, 1, Vec::new()).await;
    let client = client(&pki, &[&first.address, &second.address]);
    let mut watch = CaseWatch::new(client, v1::WatchCasesRequest::default());
    for expected in ["/1.1", "/1.2"] {
        watch.next().await.expect("changes");
        assert_eq!(watch.resume_token(), expected);
    }
    first.cut();
    let response = watch.next().await.expect("taken up elsewhere");
    assert_eq!((response.served_by, watch.resume_token()), (2, "/1.2/2.1"));
    assert_eq!(second.seen()[0].resume_token, "/1.2");
}

#[tokio::test]
async fn a_refused_watch_ends() {
    let pki = Pki::new();
    let node =
        Node::start(&pki, 1, 1, vec![Step::Fail(status(Code::InvalidArgument, "RESUME_TOKEN_STALE"))]).await;
    let mut watch = CaseWatch::new(client(&pki, &[&node.address]), v1::WatchCasesRequest::default());
    for _ in 0..2 {
        watch.next().await.expect("changes");
    }
    assert_class(watch.next().await, Class::Refused, "RESUME_TOKEN_STALE");
}
