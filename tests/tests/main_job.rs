//! The main job on three real nodes: a visitor is served from the ticket to the archive (R-C1, R-C2, R-Q1, R-Q4, R-Q6).

use okno_client::{CaseWatch, v1 as proto};
use okno_tests::cluster::Cluster;
use okno_tests::desk::{self, Desk};
use okno_tests::{eventually, people};
use proto::CaseState as State;
use proto::advance_case_request::Step;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// The steps from the first document to the archive, each with the state it leads to.
fn whole_way(interagency: u32) -> Vec<(Step, State)> {
    vec![
        (Step::RequestInteragency(request_interagency()), State::Interagency),
        (
            Step::InteragencyAnswered(proto::InteragencyAnsweredStep {
                number: interagency,
                answer: "да".into(),
            }),
            State::Accepted,
        ),
        (
            Step::SendToAuthority(proto::SendToAuthorityStep { register_number: "Р-1".into() }),
            State::AtAuthority,
        ),
        (
            Step::Suspend(proto::SuspendStep { reason: "registrar".into(), term: ten_days() }),
            State::Suspended,
        ),
        (Step::Resume(proto::ResumeStep { note: "устранено".into() }), State::AtAuthority),
        (
            Step::ReceiveResult(proto::ReceiveResultStep { reference: "№ 7".into(), note: String::new() }),
            State::ResultReceived,
        ),
        (Step::MakeReady(proto::MakeReadyStep { note: String::new() }), State::ReadyForIssue),
        (
            Step::Issue(proto::IssueStep { received_by: "Посетителев".into(), paper_copy: false }),
            State::Issued,
        ),
        (Step::Archive(proto::ArchiveStep {}), State::Archived),
    ]
}

fn request_interagency() -> proto::RequestInteragencyStep {
    proto::RequestInteragencyStep { authority: "fns".into(), subject: "сведения".into() }
}

fn ten_days() -> Option<proto::Term> {
    Some(proto::Term { days: 10, kind: proto::DayKind::Working.into() })
}

async fn wait_linked(officer: &Desk, case: &str) {
    eventually("ticket and case know each other", SOON, async || {
        let found = officer.case(case).await.map_err(|error| error.to_string())?;
        if found.ticket_link == "linked" { Ok(()) } else { Err(found.ticket_link) }
    })
    .await;
}

#[tokio::test]
async fn a_visitor_is_served_from_the_ticket_to_the_archive() {
    let cluster = Cluster::start(3).await;
    let kiosk = cluster.desk("kiosk", "hall-tikhaya");
    let officer = cluster.officer();

    // The ticket, and its way to the window.
    let ticket = kiosk.take_ticket(people::QUIET_OFFICE, people::SERVICE).await.unwrap();
    assert_eq!(ticket.number, "Н001", "letter of the service's group and three digits");
    assert_eq!(ticket.state(), proto::TicketState::Waiting);
    let called = officer.call_next(people::QUIET_OFFICE, "3").await.unwrap();
    assert_eq!((called.number.as_str(), called.window.as_str()), ("Н001", "3"));
    assert_eq!(officer.begin(&called, "3").await.unwrap().state(), proto::TicketState::InService);

    // The case, opened from it.
    let mut request = desk::open(people::QUIET_OFFICE, 1);
    request.ticket = Some(desk::reference(&called));
    let opened = officer.call(request).await.unwrap();
    let case = opened.case_id.clone();
    assert_eq!(opened.state(), State::Draft);
    wait_linked(&officer, &case).await;
    let tickets = officer.tickets(people::QUIET_OFFICE).await.unwrap();
    assert_eq!(tickets.len(), 1);
    assert_eq!(tickets[0].case_ids, std::slice::from_ref(&case), "the ticket knows its case");

    // Documents, acceptance, the deadline.
    for (number, kind) in (1..).zip(["application", "passport", "title"]) {
        let mut request = desk::document(&case, &format!("д-{number}"));
        request.kind = kind.into();
        assert_eq!(officer.call(request).await.unwrap().document_number, number);
    }
    let accepted = officer.step(&case, Step::Accept(proto::AcceptStep {})).await.unwrap();
    assert_eq!(accepted.state(), State::Accepted);
    let deadline = accepted.deadline.expect("acceptance starts the term");
    assert!(deadline.date.len() == 10 && deadline.date.as_str() > "2025-01-01", "{deadline:?}");
    assert_eq!(officer.finish(&called, "3").await.unwrap().state(), proto::TicketState::Finished);

    // The rest of the way, step by step.
    for (step, state) in whole_way(1) {
        let answer =
            officer.step(&case, step.clone()).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert_eq!(answer.state(), state, "{step:?}");
    }

    // Every step is there: who, where and when.
    let found = officer.case(&case).await.unwrap();
    assert_eq!(found.state(), State::Archived);
    let names: Vec<&str> = found.steps.iter().map(|step| step.step.as_str()).collect();
    let expected = [
        "accept",
        "request-interagency",
        "interagency-answered",
        "send-to-authority",
        "suspend",
        "resume",
        "receive-result",
        "make-ready",
        "issue",
        "archive",
    ];
    assert_eq!(names, expected);
    for step in &found.steps {
        let actor = step.actor.as_ref().expect("who");
        assert_eq!((actor.kind.as_str(), actor.id.as_str()), ("operator", people::OFFICER));
        assert!(step.time.is_some(), "when");
    }
    assert_eq!(found.documents.len(), 3);
    assert_eq!(found.received_by, "Посетителев");

    // The history tells the same, oldest first, in pages.
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request =
            proto::GetCaseHistoryRequest { read: None, case_id: case.clone(), page_size: 4, page_token };
        let page = officer.call(request).await.unwrap();
        assert!(page.events.len() <= 4);
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    // Opened, three documents, ten steps, and the queue's answer.
    assert_eq!(events.len(), 15, "{events:#?}");
    assert!(events.windows(2).all(|pair| (pair[0].index, pair[0].number) < (pair[1].index, pair[1].number)));

    // Each node has it in its own store, and all rows are alike.
    let index = events.last().unwrap().index;
    for node in cluster.ids() {
        cluster.wait_applied(node, index).await;
        let (meta, own) = cluster.desk_at(node, "auditor", "revizor").case_local(&case).await.unwrap();
        assert_eq!(meta.served_by, node);
        assert_eq!(own, found, "node {node}");
    }
    cluster.assert_alike().await;
}

#[tokio::test]
async fn cases_are_listed_watched_and_denied_to_strangers() {
    let cluster = Cluster::start(3).await;
    let officer = cluster.officer();
    let mut watch = CaseWatch::new(
        officer.client.clone(),
        proto::WatchCasesRequest {
            office: people::QUIET_OFFICE.into(),
            ..proto::WatchCasesRequest::default()
        },
    );
    // The first sign of life: from here on the watch sees everything.
    watch.next().await.unwrap();

    let mut cases = Vec::new();
    for visitor in 0..5 {
        cases.push(officer.open(visitor).await.unwrap());
    }
    officer
        .step(&cases[4], Step::Withdraw(proto::WithdrawStep { reason: "передумал".into() }))
        .await
        .unwrap();

    // The watch tells of each, in order.
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let update = tokio::time::timeout(SOON, watch.next()).await.expect("changes arrive").unwrap();
        if let Some(proto::watch_cases_response::Change::Changed(changed)) = update.change {
            seen.push((changed.case_id.clone(), changed.state()));
        }
    }
    let mut expected: Vec<(String, State)> = cases.iter().map(|case| (case.clone(), State::Draft)).collect();
    expected.push((cases[4].clone(), State::Withdrawn));
    assert_eq!(seen, expected);

    // By office, in pages; by state; by applicant.
    let list = async |filter: proto::CaseFilter, page_size: u32| {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request =
                proto::ListCasesRequest { read: None, filter: Some(filter.clone()), page_size, page_token };
            let page = officer.call(request).await.unwrap();
            assert!(page.cases.len() <= page_size as usize);
            all.extend(page.cases.into_iter().map(|case| case.case_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let by_office = |state: State| proto::CaseFilter {
        by: Some(proto::case_filter::By::Office(proto::case_filter::OfficeFilter {
            office: people::QUIET_OFFICE.into(),
            state: state.into(),
        })),
    };
    assert_eq!(sorted(list(by_office(State::Unspecified), 2).await), sorted(cases.clone()));
    assert_eq!(list(by_office(State::Withdrawn), 2).await, [cases[4].clone()]);
    let by_applicant = proto::CaseFilter { by: Some(proto::case_filter::By::Applicant(people::snils(3))) };
    assert_eq!(list(by_applicant, 10).await, [cases[3].clone()]);

    // Another office's officer is told nothing of them but that they are not his.
    let stranger = cluster.desk("operator", &people::writer(0));
    let error = stranger.add(&cases[0], "чужое").await.unwrap_err();
    assert_eq!((error.reason(), error.problem().code), ("OFFICE_FOREIGN", tonic::Code::PermissionDenied));
    // A kiosk opens no cases: its kind is not let in at all.
    let kiosk = cluster.desk("kiosk", "hall-tikhaya");
    let error = kiosk.open(9).await.unwrap_err();
    assert_eq!(error.problem().code, tonic::Code::PermissionDenied);
}
