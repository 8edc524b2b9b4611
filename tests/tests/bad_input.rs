//! What bad input gets: a clear error, and nothing lost or half done.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the failure of the test that calls them"
)]

use okno_client::{CallError, v1 as proto};
use okno_tests::cluster::{Cluster, okno};
use okno_tests::desk::{self, Desk};
use okno_tests::people;
use proto::advance_case_request::Step;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// Refusing to start takes no election: reading two files and a folder.
const REFUSES_WITHIN: Duration = Duration::from_secs(20);

fn assert_refused(error: &CallError, code: Code, reason: &str) {
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!((error.problem().code, error.reason()), (code, reason), "{error}");
    assert!(!error.problem().message.is_empty(), "a refusal says in words what is wrong");
}

#[tokio::test]
async fn wrong_requests_are_refused_by_name_and_change_nothing() {
    let cluster = Cluster::start(3).await;
    let officer = cluster.officer();
    let before = officer.call(list_office(0, "")).await.unwrap().cases.len();

    // A СНИЛС whose check digits are wrong.
    let mut person = people::person(1);
    person.snils = "112-233-445 96".into();
    let mut open = desk::open(people::QUIET_OFFICE, 1);
    open.applicants = vec![proto::Applicant { kind: Some(proto::applicant::Kind::Person(person)) }];
    let error = officer.call(open).await.unwrap_err();
    assert_refused(&error, Code::InvalidArgument, "APPLICANT_INVALID");
    let named =
        error.problem().details.keys().chain(error.problem().violations.iter().map(|(field, _)| field));
    assert!(named.clone().any(|field| field.contains("snils")), "the field is named: {:?}", error.problem());

    // A service nobody knows; an office nobody knows; no applicant at all.
    let mut open = desk::open(people::QUIET_OFFICE, 1);
    open.service = "нет.такой".into();
    assert_refused(&officer.call(open).await.unwrap_err(), Code::FailedPrecondition, "SERVICE_UNKNOWN");
    let mut open = desk::open(people::QUIET_OFFICE, 1);
    open.applicants.clear();
    let error = officer.call(open).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!(error.problem().code, Code::InvalidArgument);

    // Steps that are impossible where the case is: the possible ones are named.
    let case = officer.open(2).await.unwrap();
    let error = officer.step(&case, Step::Issue(proto::IssueStep::default())).await.unwrap_err();
    assert_refused(&error, Code::FailedPrecondition, "CASE_STEP_IMPOSSIBLE");
    let error = officer
        .call(proto::AdvanceCaseRequest { case_id: case.clone(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(error.problem().code, Code::InvalidArgument, "a step must be named: {error}");
    let unknown = uuid::Uuid::now_v7().to_string();
    assert_refused(&officer.add(&unknown, "х").await.unwrap_err(), Code::NotFound, "CASE_UNKNOWN");
    let error = officer.add("не номер", "х").await.unwrap_err();
    assert!(matches!(error.problem().code, Code::InvalidArgument | Code::NotFound), "{error}");

    // Request ids: none, malformed, of another version, of tomorrow.
    for (id, what) in [("не номер", "malformed"), ("0191e0a0-0000-4000-8000-000000000000", "version 4")]
    {
        let mut add = desk::document(&case, "х");
        add.meta = Some(proto::RequestMeta { request_id: id.into(), attempt: 1, workstation: String::new() });
        let error = officer.call(add).await.unwrap_err();
        assert!(matches!(error, CallError::Refused(_)), "{what}: {error}");
        assert_eq!(error.problem().code, Code::InvalidArgument, "{what}: {error}");
    }
    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(24 * 3600);
    let since = tomorrow.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let ahead = uuid::Uuid::new_v7(uuid::Timestamp::from_unix(
        uuid::NoContext,
        since.as_secs(),
        since.subsec_nanos(),
    ));
    let mut add = desk::document(&case, "х");
    add.meta = desk::meta(ahead, 1);
    let error = officer.call(add).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!(error.reason(), "REQUEST_ID_AHEAD");

    // Nothing of all this is there.
    let found = officer.case(&case).await.unwrap();
    assert_eq!((found.documents.len(), found.steps.len()), (0, 0));
    assert_eq!(officer.call(list_office(0, "")).await.unwrap().cases.len(), before + 1);
    cluster.assert_alike().await;
}

fn list_office(page_size: u32, page_token: &str) -> proto::ListCasesRequest {
    proto::ListCasesRequest {
        read: None,
        filter: Some(proto::CaseFilter {
            by: Some(proto::case_filter::By::Office(proto::case_filter::OfficeFilter {
                office: people::QUIET_OFFICE.into(),
                state: proto::CaseState::Unspecified.into(),
            })),
        }),
        page_size,
        page_token: page_token.into(),
    }
}

#[tokio::test]
async fn a_year_without_a_calendar_is_refused_and_not_guessed() {
    let cluster = Cluster::start_empty(1).await;
    // Everything but the calendars of this year and later ones.
    let shipped = okno_tests::cluster::shipped_catalogue();
    let without: Vec<_> = shipped
        .iter()
        .filter(|file| !file.path.starts_with("calendars/") || file.path.ends_with("2025.toml"))
        .cloned()
        .collect();
    cluster.fill_with(&without).await;
    let officer = cluster.officer();
    let calendar = |year| proto::GetCalendarRequest { read: None, year, region: String::new() };
    officer.call(calendar(2025)).await.unwrap();
    let error = officer.call(calendar(2026)).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!(error.reason(), "CALENDAR_YEAR_MISSING");

    // A term that needs the missing year: the acceptance is refused, and the case stays a draft.
    let case = officer.open(1).await.unwrap();
    let error = officer.step(&case, Step::Accept(proto::AcceptStep {})).await.unwrap_err();
    assert_refused(&error, Code::FailedPrecondition, "CALENDAR_YEAR_MISSING");
    assert_eq!(officer.case(&case).await.unwrap().state(), proto::CaseState::Draft);
    // With the calendars loaded the same step succeeds.
    cluster.admin().load_catalogue(&shipped).await.unwrap();
    officer.step(&case, Step::Accept(proto::AcceptStep {})).await.unwrap();
}

#[tokio::test]
async fn a_wrong_catalogue_is_refused_as_a_whole() {
    let cluster = Cluster::start(1).await;
    let admin = cluster.admin();
    let services = async || admin.call(proto::ListServicesRequest::default()).await.unwrap();
    let before = services().await;
    let mut files = okno_tests::cluster::shipped_catalogue();
    let file = files.iter_mut().find(|file| file.path.starts_with("services/fns-inn")).unwrap();
    file.text = file.text.replace("kind = ", "knid = ");
    let error = admin.load_catalogue(&files).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    let told = format!("{error} {:?}", error.problem());
    assert!(told.contains("fns-inn.toml") && told.contains("knid"), "file and key are named: {told}");
    let after = services().await;
    assert_eq!(after.catalogue_version, before.catalogue_version);
    assert_eq!(after.services, before.services);
}

#[tokio::test]
async fn page_tokens_are_good_for_their_own_list_only() {
    let cluster = Cluster::start(1).await;
    let officer = cluster.officer();
    for visitor in 0..4 {
        officer.open(visitor).await.unwrap();
    }
    let first = officer.call(list_office(2, "")).await.unwrap();
    assert!(!first.next_page_token.is_empty());
    officer.call(list_office(2, &first.next_page_token)).await.unwrap();

    let mut other = list_office(2, &first.next_page_token);
    other.filter = Some(proto::CaseFilter { by: Some(proto::case_filter::By::Applicant(people::snils(1))) });
    assert_refused(&officer.call(other).await.unwrap_err(), Code::InvalidArgument, "PAGE_TOKEN_STALE");
    let mut history =
        proto::GetCaseHistoryRequest { case_id: first.cases[0].case_id.clone(), ..Default::default() };
    history.page_token.clone_from(&first.next_page_token);
    assert_refused(&officer.call(history).await.unwrap_err(), Code::InvalidArgument, "PAGE_TOKEN_STALE");
    let mut bent = first.next_page_token.clone();
    bent.pop();
    assert_refused(
        &officer.call(list_office(2, &bent)).await.unwrap_err(),
        Code::InvalidArgument,
        "PAGE_TOKEN_STALE",
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_next_one_is_not() {
    let cluster = Cluster::start(1).await;
    let officer = cluster.officer();
    let case = officer.open(1).await.unwrap();

    // Beyond the bound of a message: turned away before anything looks into it. The client library would not even
    // send it, so a bare connection does.
    let channel =
        desk::channel(&cluster.file, cluster.identity("operator", people::OFFICER), cluster.entry(1));
    let mut bare = proto::case_service_client::CaseServiceClient::new(channel)
        .max_encoding_message_size(usize::MAX)
        .max_decoding_message_size(usize::MAX);
    let mut huge = desk::document(&case, "велик");
    huge.meta = desk::meta(uuid::Uuid::now_v7(), 1);
    huge.note = "я".repeat(600_000);
    let status = bare.add_document(huge).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument),
        "{status}"
    );

    // Within it, but longer than the field may be: refused by name.
    let mut long = desk::document(&case, "длинно");
    long.note = "я".repeat(100_000);
    let error = officer.call(long).await.unwrap_err();
    assert!(matches!(error, CallError::Refused(_)), "{error}");
    assert_eq!(error.problem().code, Code::InvalidArgument);

    // The same connection works on.
    let mut fine = desk::document(&case, "впору");
    fine.meta = desk::meta(uuid::Uuid::now_v7(), 1);
    bare.add_document(fine).await.unwrap();
    assert_eq!(officer.case(&case).await.unwrap().documents.len(), 1);
}

/// Runs `okno check-config` on a node's settings with one change; returns what it says.
fn check_config(cluster: &Cluster, change: impl Fn(&str) -> String) -> String {
    let good = std::fs::read_to_string(&cluster.entry(1).settings).unwrap();
    let path = cluster.scratch().join("changed.toml");
    std::fs::write(&path, change(&good)).unwrap();
    let output = okno(&["check-config", "--config", path.to_str().unwrap()]);
    assert!(!output.status.success(), "it was accepted: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn malformed_settings_are_told_with_line_key_and_what_was_expected() {
    let cluster = Cluster::prepare(1);
    let line_of = |text: &str, key: &str| text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let good = std::fs::read_to_string(&cluster.entry(1).settings).unwrap();

    let told = check_config(&cluster, |good| good.replace("worker_threads = 1", "worker_threads = \"many\""));
    let line = line_of(&good, "worker_threads");
    assert!(told.contains(&format!("changed.toml:{line}")) && told.contains("worker_threads"), "{told}");
    assert!(told.contains("expected"), "{told}");

    let told = check_config(&cluster, |good| good.replace("worker_threads = 1", "worker_treads = 1"));
    assert!(told.contains(&format!("changed.toml:{line}")) && told.contains("worker_treads"), "{told}");
    assert!(told.contains("expected"), "{told}");

    let told = check_config(&cluster, |good| good.replace("worker_threads = 1", "worker_threads = 0"));
    assert!(told.contains(&format!("changed.toml:{line}")) && told.contains("worker_threads"), "{told}");

    let told = check_config(&cluster, |good| good.replace("[node]", "[node"));
    assert!(told.contains("changed.toml:"), "{told}");

    // A path that leads nowhere is told by its key when the node starts.
    let (status, told) = {
        let settings = cluster.entry(1).settings.clone();
        let text = good.replace("server.pem", "nowhere.pem");
        std::fs::write(&settings, text).unwrap();
        let refused = cluster.start_refused(1, REFUSES_WITHIN);
        std::fs::write(&settings, &good).unwrap();
        refused
    };
    assert!(!status.success() && told.contains("nowhere.pem"), "{told}");
}

/// Moves a directory by copying it whole.
fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_data_directory_of_somebody_else_is_never_served() {
    let mut cluster = Cluster::start(3).await;
    let case = cluster.officer().open(1).await.unwrap();
    let follower = cluster.follower().await;
    let other = cluster.ids().into_iter().find(|id| *id != follower).unwrap();
    cluster.terminate(follower).await;
    let data = cluster.entry(follower).data.clone();
    let own = cluster.scratch().join("own");
    std::fs::rename(&data, &own).unwrap();

    // Of another node.
    cluster.terminate(other).await;
    copy(&cluster.entry(other).data, &data);
    let (status, told) = cluster.start_refused(follower, REFUSES_WITHIN);
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("belongs to node {other}")), "{told}");
    std::fs::remove_dir_all(&data).unwrap();
    cluster.start_node(other);

    // Empty, under an id the others know: it never joins by itself.
    std::fs::create_dir(&data).unwrap();
    let (status, told) = cluster.start_refused(follower, REFUSES_WITHIN);
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("has no identity") && told.contains("okno init"), "what to do is said: {told}");
    std::fs::remove_dir(&data).unwrap();

    // Of another cluster: the settings say which one this is.
    let settings = cluster.entry(follower).settings.clone();
    let good = std::fs::read_to_string(&settings).unwrap();
    let foreign = good.replace(&cluster.file.cluster_id.to_string(), &uuid::Uuid::new_v4().to_string());
    assert_ne!(foreign, good);
    std::fs::rename(&own, &data).unwrap();
    std::fs::write(&settings, foreign).unwrap();
    let (status, told) = cluster.start_refused(follower, REFUSES_WITHIN);
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("belongs to cluster {}", cluster.file.cluster_id)), "{told}");
    std::fs::write(&settings, &good).unwrap();

    // Made anew under the same id: another incarnation, which the others turn away.
    std::fs::rename(&data, &own).unwrap();
    let output = okno(&init_arguments(&cluster, follower).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.start_node(follower);
    // It closes itself and says why; the others serve on.
    let status =
        okno_tests::eventually("the new incarnation is closed", Duration::from_secs(30), async || {
            let status = cluster.status(follower).await.map_err(|error| error.to_string())?;
            if status.phase() == proto::NodePhase::Quarantined {
                Ok(status)
            } else {
                Err(format!("{:?}", status.phase()))
            }
        })
        .await;
    assert!(status.reason.contains("incarnation") && !status.remedy.is_empty(), "{status:?}");
    cluster.officer().add(&case, "без него").await.unwrap();
    let at_new = Desk::connect(
        &cluster.file,
        cluster.identity("operator", people::OFFICER),
        [cluster.entry(follower)].into_iter(),
    );
    assert!(at_new.once(proto::GetCaseRequest { read: desk::local(), case_id: case.clone() }).await.is_err());
    cluster.kill(follower);

    // With its own directory it is one of them again.
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&own, &data).unwrap();
    cluster.start_node(follower);
    cluster.wait_ready().await;
    cluster.officer().add(&case, "снова вместе").await.unwrap();
    cluster.assert_alike().await;
}

/// The arguments `okno init` takes for a node of this cluster.
fn init_arguments(cluster: &Cluster, node: u64) -> Vec<String> {
    let members: Vec<String> =
        cluster.file.nodes.iter().map(|entry| format!("{}={}", entry.id, entry.peers)).collect();
    let settings = cluster.entry(node).settings.to_string_lossy().into_owned();
    vec!["init".into(), "--config".into(), settings, "--members".into(), members.join(",")]
}

#[tokio::test]
async fn init_refuses_a_directory_that_is_not_empty() {
    let cluster = Cluster::prepare(1);
    let output = okno(&init_arguments(&cluster, 1).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(&*cluster.entry(1).data.to_string_lossy()), "{told}");
}
