//! `oknoctl status`, `transfer-leader`, `digest`, `notices`, `entity` and `level`.

use super::{
    Failure, Session,
    output::{self, Format, facts, moment, plain, table},
};
use clap::{Args, Subcommand};
use futures::future::join_all;
use okno_client::{
    CallOptions,
    v1::{
        EntityRef, GetDigestsRequest, GetStatusRequest, GetStatusResponse, MemberRole, NodePhase,
        PlaceMarkerRequest, RaiseLevelRequest, ReleaseEntityRequest, ShowEntityRequest,
        TransferLeaderRequest, TransferLeaderResponse, watch_notices_response,
    },
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a hand-over may take to be seen by the endpoints; it is bounded by two elections.
const TRANSFER_SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How long members may take to digest their rows at a marker: a gigabyte takes seconds.
const DIGEST_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at something that is about to change.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct TransferArgs {
    /// Node that shall lead; whoever is furthest unless given
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

#[derive(Debug, Args)]
pub struct DigestArgs {
    /// Make every member digest its rows now, and wait until all have
    #[arg(long)]
    place_marker: bool,
}

#[derive(Debug, Args)]
pub struct NoticesArgs {
    /// End after so many notices
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum EntityCommand {
    /// Show what is known about an entity
    Show {
        /// Kind and id, e.g. case/0198…
        #[arg(value_parser = entity_ref)]
        entity: EntityRef,
    },
    /// End an entity's quarantine
    Release {
        #[arg(value_parser = entity_ref)]
        entity: EntityRef,
    },
}

#[derive(Debug, Subcommand)]
pub enum LevelCommand {
    /// The level, and what each member's program understands
    Show,
    /// Raise the level: no older program can take part any more, and there is no way back
    Raise {
        /// Level to raise to; the highest the leader knows unless given
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        to: Option<u32>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

fn entity_ref(text: &str) -> Result<EntityRef, String> {
    match text.split_once('/') {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {
            Ok(EntityRef { kind: kind.to_owned(), id: id.to_owned() })
        }
        _ => Err("expected KIND/ID, e.g. case/0198c0de-…, queue/center or directory/region".to_owned()),
    }
}

/// Asks every endpoint; fails only when none answers.
pub async fn status(session: &Session) -> Result<(), Failure> {
    let endpoints: Vec<String> = session.client.endpoints().map(str::to_owned).collect();
    let wanted: Vec<usize> = match session.endpoint() {
        Some(endpoint) => vec![endpoint],
        None => (0..endpoints.len()).collect(),
    };
    let answers = join_all(wanted.iter().map(|endpoint| {
        let options = CallOptions { endpoint: Some(*endpoint), once: true, ..CallOptions::default() };
        session.client.call_with(GetStatusRequest {}, options)
    }))
    .await;
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    let mut first_error = None;
    let mut answered = 0;
    for (endpoint, answer) in wanted.iter().map(|index| &endpoints[*index]).zip(answers) {
        match answer {
            Ok(answer) => {
                answered += 1;
                rows.push(status_row(endpoint, &answer.response));
                nodes.push(json!({"endpoint": endpoint, "status": output::to_json(&answer.response)}));
            }
            Err(error) => {
                let mut row = [const { String::new() }; 9];
                row[0].clone_from(endpoint);
                row[2] = error.reason().to_owned();
                rows.push(row);
                nodes.push(json!({"endpoint": endpoint, "error": output::error_json(&error)["error"]}));
                first_error.get_or_insert(error);
            }
        }
    }
    match session.format {
        Format::Json => output::line(&format!("{:#}", json!({"nodes": nodes}))),
        Format::Table => output::line(&table(
            ["ENDPOINT", "NODE", "PHASE", "ROLE", "LEADER", "TERM", "APPLIED", "COMMIT", "REASON"],
            rows,
        )),
    }
    match first_error {
        Some(error) if answered == 0 => Err(error.into()),
        _ => Ok(()),
    }
}

fn status_row(endpoint: &str, status: &GetStatusResponse) -> [String; 9] {
    let mut reason = status.reason.clone();
    if status.phase() == NodePhase::Quarantined {
        reason.push_str(&format!(" — {}", status.remedy));
    }
    [
        endpoint.to_owned(),
        status.node_id.to_string(),
        plain(status.phase().as_str_name(), "NODE_PHASE_"),
        plain(status.role().as_str_name(), "MEMBER_ROLE_"),
        node(status.leader),
        status.term.to_string(),
        status.applied_index.to_string(),
        status.commit_index.to_string(),
        reason,
    ]
}

fn node(id: u64) -> String {
    if id == 0 { "-".to_owned() } else { id.to_string() }
}

/// Hands over, then looks for itself whether the node leads. Where it leads already, that is what was asked for: a
/// repeated command succeeds.
pub async fn transfer_leader(session: &Session, args: TransferArgs) -> Result<(), Failure> {
    session.client.find_leader().await;
    let response = match args.to.filter(|to| session.client.leader() == Some(*to)) {
        Some(leader) => TransferLeaderResponse { leader, ..TransferLeaderResponse::default() },
        None => {
            let to = args.to.unwrap_or_default();
            session.call(TransferLeaderRequest { meta: session.meta(), to }).await?
        }
    };
    let expected = args.to.unwrap_or(response.leader);
    let give_up = Instant::now() + TRANSFER_SEEN_WITHIN;
    let term = loop {
        session.client.find_leader().await;
        // The new leader itself must say so, not only its neighbours.
        if session.client.leader() == Some(expected)
            && let Some(term) = leading_term(session, expected).await
        {
            break term.unwrap_or(response.term);
        }
        if Instant::now() >= give_up {
            return Err(Failure::Broken(format!(
                "node {expected} should lead, but {} is seen to lead",
                session.client.leader().map_or_else(|| "nobody".to_owned(), |id| format!("node {id}"))
            )));
        }
        tokio::time::sleep(POLL).await;
    };
    let response = TransferLeaderResponse { leader: expected, term, served_by: response.served_by };
    output::print(session.format, &response, |r| format!("node {} leads in term {}", r.leader, r.term));
    Ok(())
}

/// The term in which a node says that it leads itself; `Some(None)` when it is not among the endpoints: then its
/// neighbours' word stands.
async fn leading_term(session: &Session, node: u64) -> Option<Option<u64>> {
    let Some(endpoint) = session.client.endpoint_of(node) else { return Some(None) };
    let options = CallOptions { endpoint: Some(endpoint), once: true, ..CallOptions::default() };
    let status = session.client.call_with(GetStatusRequest {}, options).await.ok()?.response;
    (status.role() == MemberRole::Leader).then_some(Some(status.term))
}

pub async fn digest(session: &Session, args: DigestArgs) -> Result<(), Failure> {
    let marker = if args.place_marker {
        session.call(PlaceMarkerRequest { meta: session.meta() }).await?.marker_index
    } else {
        0
    };
    let give_up = Instant::now() + DIGEST_WITHIN;
    let response = loop {
        let response = session.call(GetDigestsRequest {}).await?;
        if response.members.iter().all(|member| member.marker_index >= marker) {
            break response;
        }
        if Instant::now() >= give_up {
            let late: Vec<_> = response
                .members
                .iter()
                .filter(|m| m.marker_index < marker)
                .map(|m| m.node_id.to_string())
                .collect();
            return Err(Failure::Broken(format!(
                "no digest at index {marker} yet from node {}",
                late.join(", ")
            )));
        }
        tokio::time::sleep(POLL).await;
    };
    output::print(session.format, &response, |r| {
        let rows = r.members.iter().map(|m| {
            [
                m.node_id.to_string(),
                m.chain_index.to_string(),
                m.chain.clone(),
                m.marker_index.to_string(),
                m.digest.clone(),
            ]
        });
        table(["NODE", "CHAIN AT", "CHAIN", "ROWS AT", "DIGEST"], rows)
    });
    // Equal indexes must have equal hashes (rule 15); different indexes cannot be compared.
    let mut chains: BTreeMap<u64, &str> = BTreeMap::new();
    let mut digests: BTreeMap<u64, &str> = BTreeMap::new();
    for member in &response.members {
        let chain = chains.entry(member.chain_index).or_insert(&member.chain);
        let digest = digests.entry(member.marker_index).or_insert(&member.digest);
        if *chain != member.chain || *digest != member.digest {
            return Err(Failure::Broken(format!(
                "node {} differs from the others at the same index",
                member.node_id
            )));
        }
    }
    Ok(())
}

pub async fn notices(session: &Session, args: NoticesArgs) -> Result<(), Failure> {
    let mut stream = session.client.watch_notices(session.endpoint()).await?;
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(Failure::Broken("the node closed the stream".to_owned())),
            Err(status) => return Err(Failure::Broken(format!("the stream broke: {}", status.message()))),
        };
        seen += u64::from(matches!(response.update, Some(watch_notices_response::Update::Notice(_))));
        output::print_line(session.format, &response, |r| match &r.update {
            Some(watch_notices_response::Update::Notice(notice)) => Some(format!(
                "{} {} {} {}",
                moment(notice.time.as_ref()),
                plain(notice.severity().as_str_name(), "SEVERITY_"),
                notice.kind,
                notice.text_ru
            )),
            _ => None,
        });
    }
    Ok(())
}

pub async fn entity(session: &Session, command: EntityCommand) -> Result<(), Failure> {
    match command {
        EntityCommand::Show { entity } => {
            let response =
                session.call(ShowEntityRequest { read: session.read(), entity: Some(entity) }).await?;
            output::print(session.format, &response, |r| {
                let entity = r.entity.clone().unwrap_or_default();
                let quarantine = if r.quarantined {
                    format!("{} since {}", r.quarantine_reason, moment(r.quarantined_at.as_ref()))
                } else {
                    String::new()
                };
                facts([
                    ("entity", format!("{}/{}", entity.kind, entity.id)),
                    ("exists", r.exists.to_string()),
                    ("last commit", format!("{}.{}", r.head_term, r.head_counter)),
                    ("parts", r.parts.join(" ")),
                    ("QUARANTINED", quarantine),
                    ("parked messages", r.parked_messages.to_string()),
                    ("state", r.state.clone()),
                    ("read from", format!("node {}", r.meta.as_ref().map_or(0, |m| m.served_by))),
                ])
            });
        }
        EntityCommand::Release { entity } => {
            let name = format!("{}/{}", entity.kind, entity.id);
            let response =
                session.call(ReleaseEntityRequest { meta: session.meta(), entity: Some(entity) }).await?;
            output::print(session.format, &response, |_| format!("{name} is released"));
        }
    }
    Ok(())
}

pub async fn level(session: &Session, command: LevelCommand) -> Result<(), Failure> {
    match command {
        LevelCommand::Show => {
            let response = session.call(GetStatusRequest {}).await?;
            output::print(session.format, &response, |r| {
                let rows = r.members.iter().map(|m| {
                    let level =
                        if m.feature_level == 0 { "-".to_owned() } else { m.feature_level.to_string() };
                    [m.node_id.to_string(), level]
                });
                format!(
                    "level {}\n{}\nas node {} knows it",
                    r.level,
                    table(["NODE", "UNDERSTANDS"], rows),
                    r.node_id
                )
            });
        }
        LevelCommand::Raise { to, dry_run } => {
            session.client.find_leader().await;
            let request = RaiseLevelRequest { meta: session.meta(), to: to.unwrap_or_default(), dry_run };
            let response = session.call(request).await?;
            output::print(session.format, &response, |r| {
                if r.to <= r.from {
                    format!("the level is {} already", r.from)
                } else if dry_run {
                    format!(
                        "the level would be raised from {} to {}: every member understands it",
                        r.from, r.to
                    )
                } else {
                    format!("the level is raised from {} to {}", r.from, r.to)
                }
            });
        }
    }
    Ok(())
}
