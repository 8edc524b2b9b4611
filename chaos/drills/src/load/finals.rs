//! What each node's own store holds in the end, and the world the load worked in, in the checkers' words.

use crate::harness::cluster::Cluster;
use crate::harness::desk::Desk;
use crate::harness::{desk, people};
use crate::load::translate;
use futures::{StreamExt, TryStreamExt};
use okno_checks::history::{CaseSeen, Final, Link, Office, QueueSeen, Service, Setting};
use okno_client::{CallError, v1 as proto};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

/// Reads under way at a time.
const READS: usize = 16;
/// Cases on one page, at most what the interface gives.
const PAGE: u32 = 200;
/// Between cases and queues messages take two commits; a busy machine is given more.
const LINKS_WITHIN: Duration = Duration::from_secs(20);
/// Novokuznetsk is so far ahead of UTC, all year.
const OFFSET: Duration = Duration::from_secs(7 * 3600);
const DAY: u64 = 24 * 3600;

/// Reads all cases of the busy office and its queue from one node's own store, once no message between them is under
/// way any more.
pub async fn read(cluster: &Cluster, node: u64, index: u64) -> Result<Final, String> {
    let auditor = cluster.desk_at(node, "auditor", "revizor");
    let until = Instant::now() + LINKS_WITHIN;
    loop {
        let found =
            read_once(&auditor, node, index).await.map_err(|error| format!("node {node}: {error}"))?;
        let waits = |case: &CaseSeen| matches!(case.link, Some((_, Link::Pending)));
        if !found.cases.values().any(waits) || Instant::now() > until {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn read_once(auditor: &Desk, node: u64, index: u64) -> Result<Final, CallError> {
    let ids = list(auditor).await?;
    let cases = futures::stream::iter(ids)
        .map(|id| async move {
            let (meta, case) = auditor.case_local(&id).await?;
            assert!(
                meta.served_by == node && meta.applied_index >= index,
                "case {id} was read at {meta:?}, expected node {node} from index {index}"
            );
            Ok::<_, CallError>((id, case))
        })
        .buffer_unordered(READS)
        .try_collect::<Vec<_>>()
        .await?;
    let cases = cases.into_iter().filter_map(|(id, case)| Some((id, translate::case(&case)?))).collect();
    Ok(Final { node, cases, queues: queues(auditor).await? })
}

async fn list(auditor: &Desk) -> Result<Vec<String>, CallError> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let by = proto::case_filter::By::Office(proto::case_filter::OfficeFilter {
            office: people::BUSY_OFFICE.into(),
            state: proto::CaseState::Unspecified.into(),
        });
        let request = proto::ListCasesRequest {
            read: desk::local(),
            filter: Some(proto::CaseFilter { by: Some(by) }),
            page_size: PAGE,
            page_token,
        };
        let page = auditor.call(request).await?;
        ids.extend(page.cases.into_iter().map(|case| case.case_id));
        if page.next_page_token.is_empty() {
            return Ok(ids);
        }
        page_token = page.next_page_token;
    }
}

async fn queues(auditor: &Desk) -> Result<BTreeMap<String, QueueSeen>, CallError> {
    let mut tickets = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListTicketsRequest {
            read: desk::local(),
            office: people::BUSY_OFFICE.into(),
            page_size: 500,
            page_token,
            ..proto::ListTicketsRequest::default()
        };
        let page = auditor.call(request).await?;
        tickets.extend(page.tickets);
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    Ok(translate::queue(&tickets).map(|queue| (people::BUSY_OFFICE.to_owned(), queue)).into_iter().collect())
}

/// The office, its windows, its service and the dates of the drill. `began`: where the history's clock begins.
pub fn setting(began: Instant) -> Setting {
    let service = Service {
        active: true,
        letter: people::SERVICE_LETTER,
        suspensions: BTreeSet::from(people::SERVICE_SUSPENSIONS.map(str::to_owned)),
        storage: true,
    };
    let windows = people::windows().into_iter().filter(|window| window.office == people::BUSY_OFFICE);
    let office = Office {
        windows: windows.map(|window| (window.number, Vec::new())).collect(),
        categories: BTreeSet::new(),
        fairness_ms: okno_checks::history::fairness_default_ms(),
        calls_before_no_show: 1,
    };
    let now = SystemTime::now() + OFFSET - began.elapsed();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let today = seconds / DAY;
    let midnight_us = (DAY - seconds % DAY) * 1_000_000;
    Setting {
        services: BTreeMap::from([(people::SERVICE.to_owned(), service)]),
        offices: BTreeMap::from([(people::BUSY_OFFICE.to_owned(), office)]),
        // Clocks of nodes are a little apart from ours.
        days: vec![(0, date(today)), (midnight_us.saturating_sub(5_000_000), date(today + 1))],
        // Nobody here is put off, or goes on a break.
        clocks: Vec::new(),
        officers: BTreeMap::new(),
        links_may_wait: false,
    }
}

/// The civil date of a day since 1970 as the number yyyymmdd (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> u32 {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    u32::try_from(year * 10_000 + month * 100 + day).expect("a year of four digits")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_are_civil_dates() {
        assert_eq!([date(0), date(11_016), date(20_778)], [19_700_101, 20_000_229, 20_261_121]);
    }
}
