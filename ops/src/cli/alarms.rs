//! `oknoctl alarm list`: standing alarms of all nodes. Any node tells those of the others; every endpoint is asked all
//! the same, so that a node its neighbours do not hear is heard here.

use super::{
    Failure, Session, every,
    output::{self, Format, moment, plain, table},
};
use clap::Subcommand;
use okno_client::v1::{Alarm, ListAlarmsRequest, ListAlarmsResponse};
use std::collections::{BTreeMap, BTreeSet};

/// Where the package puts the pages.
const RUNBOOKS: &str = "/usr/share/doc/okno/runbooks";

#[derive(Debug, Subcommand)]
pub enum AlarmCommand {
    /// List what stands; nothing is acknowledged by hand, each clears by itself
    List,
}

pub async fn run(session: &Session, command: AlarmCommand) -> Result<(), Failure> {
    let AlarmCommand::List = command;
    let found = gather(session).await?;
    output::print(session.format, &found, |found| {
        let rows = found.alarms.iter().map(|alarm| {
            [
                alarm.node_id.to_string(),
                alarm.kind.clone(),
                plain(alarm.severity().as_str_name(), "SEVERITY_"),
                moment(alarm.since.as_ref()),
                alarm.reason.clone(),
                alarm.runbook.clone(),
            ]
        });
        if found.alarms.is_empty() {
            "no alarms".to_owned()
        } else {
            let alarms = table(["NODE", "ALARM", "SEVERITY", "SINCE", "REASON", "RUNBOOK"], rows);
            format!("{alarms}\nrunbooks: {RUNBOOKS}/<RUNBOOK>.md")
        }
    });
    if !found.unheard.is_empty() && session.format == Format::Table {
        let nodes: Vec<String> = found.unheard.iter().map(u64::to_string).collect();
        output::line(&format!("not heard of: node {}", nodes.join(", ")));
    }
    Ok(())
}

/// The alarms of all nodes; fails when no endpoint answers.
pub async fn gather(session: &Session) -> Result<ListAlarmsResponse, Failure> {
    let mut answers = Vec::new();
    let mut first_error = None;
    for said in every::ask(session, ListAlarmsRequest {}).await {
        match said.answer {
            Ok(answer) => answers.push(answer),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match (answers.is_empty(), first_error) {
        (true, Some(error)) => Err(error.into()),
        _ => Ok(merge(&answers)),
    }
}

/// One list of what several nodes say; of an alarm the node it stands on has the last word.
fn merge(answers: &[ListAlarmsResponse]) -> ListAlarmsResponse {
    let spoke: BTreeSet<u64> = answers.iter().map(|answer| answer.served_by).collect();
    let served_by = spoke.first().copied().unwrap_or_default();
    let mut heard: BTreeSet<u64> = spoke.clone();
    let mut unheard: BTreeSet<u64> = BTreeSet::new();
    let mut alarms: BTreeMap<(u64, String), Alarm> = BTreeMap::new();
    for answer in answers {
        unheard.extend(&answer.unheard);
        for alarm in &answer.alarms {
            let own = alarm.node_id == answer.served_by;
            if own || !spoke.contains(&alarm.node_id) {
                // Its last words may be old.
                if !answer.unheard.contains(&alarm.node_id) {
                    heard.insert(alarm.node_id);
                }
                alarms.insert((alarm.node_id, alarm.kind.clone()), alarm.clone());
            }
        }
    }
    ListAlarmsResponse {
        served_by,
        alarms: alarms.into_values().collect(),
        unheard: unheard.difference(&heard).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(node_id: u64, kind: &str, reason: &str) -> Alarm {
        Alarm { node_id, kind: kind.into(), reason: reason.into(), ..Alarm::default() }
    }

    #[test]
    fn the_node_itself_has_the_last_word() {
        let first = ListAlarmsResponse {
            served_by: 1,
            alarms: vec![alarm(1, "A", "own"), alarm(2, "B", "heard"), alarm(3, "C", "heard")],
            unheard: vec![4],
        };
        let second = ListAlarmsResponse {
            served_by: 2,
            alarms: vec![alarm(1, "A", "old"), alarm(2, "D", "own")],
            unheard: vec![1, 3],
        };
        let found = merge(&[first, second]);
        let list: Vec<(u64, &str, &str)> =
            found.alarms.iter().map(|a| (a.node_id, a.kind.as_str(), a.reason.as_str())).collect();
        assert_eq!(list, [(1, "A", "own"), (2, "D", "own"), (3, "C", "heard")]);
        assert_eq!(found.unheard, [4]);
    }

    #[test]
    fn last_words_of_a_node_that_is_gone_are_listed_and_it_is_not_heard() {
        let survivor = |served_by| ListAlarmsResponse {
            served_by,
            alarms: vec![alarm(1, "NO_LEADER", "old")],
            unheard: vec![1],
        };
        let found = merge(&[survivor(2), survivor(3)]);
        assert_eq!((found.alarms.len(), found.unheard), (1, vec![1]));
    }
}
