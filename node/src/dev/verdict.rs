//! The end of the story: is everything that was acknowledged there, once, on every node?
//!
//! Each node is asked by itself and answers from its own store (`CONSISTENCY_LOCAL`, `served_by` checked). Only the
//! wait for a node that still applies is bounded; nothing else is waited for or forgiven.

use super::cluster::DevCluster;
use super::desk::Desk;
use super::ledger::{CaseEntry, Ledger, TicketEntry, TicketKey};
use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use okno_client::v1 as proto;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A node that was away catches up thousands of commits a second; this is far more than it may need.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
/// Digests of all rows are computed beside the work.
const DIGEST_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Reads under way at a time, per node.
const READS: usize = 16;
/// Faults listed before the rest is only counted.
const FAULTS_SHOWN: usize = 20;

/// What was found; an error says what is missing, doubled or different.
pub struct Verdict {
    pub cases: usize,
    pub documents: usize,
    pub steps: usize,
    pub tickets: usize,
    /// Index of the marker whose digests agree, and the digest.
    pub marker_index: u64,
    pub digest: String,
    /// An index at which all members had applied the same, and the hash chain there.
    pub chain_index: u64,
    pub chain: String,
}

/// Asks every node for everything in the ledger, then compares hash chains and digests.
pub async fn reach(cluster: &DevCluster, ledger: &Ledger) -> Result<Verdict> {
    let (cases, tickets) = (ledger.cases(), ledger.tickets());
    for node in cluster.node_ids() {
        let desk = cluster.desk_at(node, "auditor", "revizor")?;
        let from = cluster.wait_applied(node, ledger.index_highest(), CATCH_UP_WITHIN).await?;
        let mut faults = read_cases(&desk, node, from, &cases)
            .await
            .with_context(|| format!("reading cases of node {node}"))?;
        let offices = ledger.offices_with_tickets();
        faults.extend(
            read_tickets(&desk, node, from, &offices, &tickets)
                .await
                .with_context(|| format!("reading tickets of node {node}"))?,
        );
        if !faults.is_empty() {
            let shown = faults.iter().take(FAULTS_SHOWN).cloned().collect::<Vec<_>>().join("\n  ");
            bail!("node {node} does not hold what was acknowledged ({} faults):\n  {shown}", faults.len());
        }
    }
    let (marker_index, digest) = compare_digests(cluster).await?;
    let (chain_index, chain) = compare_chains(cluster).await?;
    Ok(Verdict {
        documents: cases.values().map(|entry| entry.documents.len()).sum(),
        steps: cases.values().map(|entry| entry.steps.len()).sum(),
        cases: cases.len(),
        tickets: tickets.len(),
        marker_index,
        digest,
        chain_index,
        chain,
    })
}

async fn read_cases(
    desk: &Desk,
    node: u64,
    from: u64,
    cases: &BTreeMap<String, CaseEntry>,
) -> Result<Vec<String>> {
    let faults: Vec<Vec<String>> = futures::stream::iter(cases)
        .map(|(id, entry)| async move {
            let (meta, case) = match desk.get_case_local(id).await {
                Ok(found) => found,
                Err(error) if error.problem().code == tonic::Code::NotFound => {
                    return Ok(vec![format!("case {id} is missing")]);
                }
                Err(error) => return Err(anyhow::Error::from(error)),
            };
            let mut faults = served_by(&meta, node, from);
            faults.extend(compare_case(id, entry, &case));
            Ok(faults)
        })
        .buffer_unordered(READS)
        .try_collect()
        .await?;
    Ok(faults.into_iter().flatten().collect())
}

fn served_by(meta: &proto::ReadMeta, node: u64, from: u64) -> Vec<String> {
    let mut faults = Vec::new();
    if meta.served_by != node {
        faults.push(format!("a read of node {node} was served by node {}", meta.served_by));
    }
    if meta.applied_index < from {
        faults.push(format!("node {node} went back from index {from} to {}", meta.applied_index));
    }
    faults
}

/// What is wrong with a case as read, by what was acknowledged about it.
fn compare_case(id: &str, entry: &CaseEntry, case: &proto::Case) -> Vec<String> {
    let mut faults = Vec::new();
    if case.office != entry.office {
        faults.push(format!("case {id} is of office {:?}, acknowledged for {:?}", case.office, entry.office));
    }
    let mut numbers: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for document in &case.documents {
        numbers.entry(&document.reference).or_default().push(document.number);
    }
    for (reference, found) in &numbers {
        if found.len() > 1 {
            faults.push(format!("case {id}: document {reference} is there {} times", found.len()));
        }
    }
    for (reference, number) in &entry.documents {
        match numbers.get(reference.as_str()) {
            None => faults.push(format!("case {id}: document {reference} is missing")),
            Some(found) if found.contains(number) => {}
            Some(found) => {
                faults.push(format!(
                    "case {id}: document {reference} has number {found:?}, acknowledged as {number}"
                ));
            }
        }
    }
    let steps: BTreeMap<u32, &str> =
        case.steps.iter().map(|record| (record.number, record.step.as_str())).collect();
    if steps.len() != case.steps.len() {
        faults.push(format!("case {id}: a step's number is there twice"));
    }
    for (number, name) in &entry.steps {
        match steps.get(number) {
            None => faults.push(format!("case {id}: step {number} ({name}) is missing")),
            Some(found) if found == name => {}
            Some(found) => {
                faults.push(format!("case {id}: step {number} is {found}, acknowledged as {name}"))
            }
        }
    }
    // Every client is the only one at its case and goes on only after an answer, so that no step is there that was
    // never acknowledged, but for a last one whose answer nobody waited for.
    if steps.len() > entry.steps.len() + 1 {
        faults.push(format!(
            "case {id}: {} steps are there, {} were acknowledged",
            steps.len(),
            entry.steps.len()
        ));
    }
    faults
}

async fn read_tickets(
    desk: &Desk,
    node: u64,
    from: u64,
    offices: &BTreeSet<String>,
    tickets: &BTreeMap<TicketKey, TicketEntry>,
) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut found: BTreeMap<TicketKey, proto::TicketState> = BTreeMap::new();
    for office in offices {
        for (meta, ticket) in desk.list_tickets_local(office).await? {
            faults.extend(served_by(&meta, node, from));
            let key = (ticket.office.clone(), ticket.day.clone(), ticket.number.clone());
            let name = format!("{}/{}/{}", key.0, key.1, key.2);
            if found.insert(key, ticket.state()).is_some() {
                faults.push(format!("ticket {name} is there twice"));
            }
        }
    }
    for (key, acknowledged) in tickets {
        let name = format!("{}/{}/{}", key.0, key.1, key.2);
        match found.get(key) {
            None => faults.push(format!("ticket {name} is missing")),
            Some(state) if progress(*state) < Some(*acknowledged) => {
                faults.push(format!("ticket {name} is {state:?}, acknowledged as {acknowledged:?}"));
            }
            Some(_) => {}
        }
    }
    Ok(faults)
}

fn progress(state: proto::TicketState) -> Option<TicketEntry> {
    match state {
        proto::TicketState::Unspecified => None,
        proto::TicketState::Waiting | proto::TicketState::PutOff => Some(TicketEntry::Taken),
        proto::TicketState::Called => Some(TicketEntry::Called),
        proto::TicketState::InService => Some(TicketEntry::Begun),
        proto::TicketState::Finished | proto::TicketState::Closed => Some(TicketEntry::Finished),
    }
}

/// Places a marker and waits until every member has digested all its rows there.
async fn compare_digests(cluster: &DevCluster) -> Result<(u64, String)> {
    let marker = cluster.admin().place_marker().await.context("placing a marker")?;
    let until = Instant::now() + DIGEST_WITHIN;
    loop {
        // Every node tells its own digest and the others' as it has heard them; its own is what counts.
        let mut own = BTreeMap::new();
        for node in cluster.node_ids() {
            let members =
                cluster.digests(node).await.with_context(|| format!("asking node {node} for digests"))?;
            own.extend(
                members
                    .into_iter()
                    .filter(|member| member.node_id == node && member.marker_index == marker)
                    .map(|member| (node, member.digest)),
            );
        }
        if own.len() == cluster.node_ids().len() {
            let distinct: BTreeSet<&String> = own.values().collect();
            let Some(digest) = distinct.first().filter(|_| distinct.len() == 1) else {
                bail!("digests of all rows at index {marker} differ: {own:?}");
            };
            return Ok((marker, (*digest).clone()));
        }
        if Instant::now() > until {
            bail!("only {} nodes had a digest at index {marker} after {DIGEST_WITHIN:?}", own.len());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for a moment at which all nodes have applied the same index, and compares the hash chain there.
async fn compare_chains(cluster: &DevCluster) -> Result<(u64, String)> {
    let until = Instant::now() + CATCH_UP_WITHIN;
    loop {
        let mut heads = BTreeMap::new();
        for node in cluster.node_ids() {
            let status =
                cluster.status(node).await.with_context(|| format!("asking node {node} for its status"))?;
            heads.insert(node, (status.applied_index, status.chain));
        }
        let indexes: BTreeSet<u64> = heads.values().map(|(index, _)| *index).collect();
        if let (Some(index), 1) = (indexes.first(), indexes.len()) {
            let chains: BTreeSet<&String> = heads.values().map(|(_, chain)| chain).collect();
            let Some(chain) = chains.first().filter(|_| chains.len() == 1) else {
                bail!("the hash chains at index {index} differ: {heads:?}");
            };
            return Ok((*index, (*chain).clone()));
        }
        if Instant::now() > until {
            bail!("the nodes never stood at the same index: {heads:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> (CaseEntry, proto::Case) {
        let entry = CaseEntry {
            office: "a".into(),
            documents: BTreeMap::from([("r-1".to_owned(), 1), ("r-2".to_owned(), 2)]),
            steps: BTreeMap::from([(1, "accept".to_owned())]),
        };
        let document = |number: u32| proto::Document {
            number,
            reference: format!("r-{number}"),
            ..proto::Document::default()
        };
        let step = proto::StepRecord { number: 1, step: "accept".into(), ..proto::StepRecord::default() };
        let case = proto::Case {
            office: "a".into(),
            documents: vec![document(1), document(2)],
            steps: vec![step],
            ..proto::Case::default()
        };
        (entry, case)
    }

    #[test]
    fn a_case_as_acknowledged_has_no_faults() {
        let (entry, case) = case();
        assert_eq!(compare_case("c", &entry, &case), Vec::<String>::new());
    }

    #[test]
    fn a_missing_document_is_a_fault() {
        let (entry, mut case) = case();
        case.documents.pop();
        assert_eq!(compare_case("c", &entry, &case), ["case c: document r-2 is missing"]);
    }

    #[test]
    fn a_document_recorded_twice_is_a_fault() {
        let (entry, mut case) = case();
        let mut again = case.documents[0].clone();
        again.number = 3;
        case.documents.push(again);
        assert_eq!(compare_case("c", &entry, &case), ["case c: document r-1 is there 2 times"]);
    }

    #[test]
    fn a_lost_or_changed_step_is_a_fault() {
        let (entry, mut case) = case();
        case.steps[0].step = "withdraw".into();
        assert_eq!(compare_case("c", &entry, &case), ["case c: step 1 is withdraw, acknowledged as accept"]);
        case.steps.clear();
        assert_eq!(compare_case("c", &entry, &case), ["case c: step 1 (accept) is missing"]);
    }

    #[test]
    fn a_read_of_another_nodes_store_is_a_fault() {
        let meta = proto::ReadMeta { served_by: 2, applied_index: 9, resume_token: String::new() };
        assert_eq!(served_by(&meta, 2, 9), Vec::<String>::new());
        assert_eq!(served_by(&meta, 1, 10).len(), 2);
    }
}
