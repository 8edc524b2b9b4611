//! Writes into the replicated journal how the whole cluster is supplied, whenever that changes (R-R4): mains lost at some
//! nodes, a battery low, mains back everywhere. The leader does it, from what every member says about itself.
//!
//! What was last written is read from the journal itself, so that a new leader goes on where the last one ended, and a note
//! whose outcome nobody knows is written again only if it is not there. A node that is not heard of counts as it was last
//! written: one that left for want of power has not got mains back.
//!
//! Below the feature level that has notes nothing is written; each node's own journal has its power all the same.

use okno_cluster::{
    ClusterHandle,
    api::{Proposer, Role},
};
use okno_ops::power::Kind;
use okno_runtime::{
    call::Answer,
    query::Query,
    runtime::Own,
    sys::{PowerNote, PowerState},
};
use okno_storage::level;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Between two looks; members say how they are several times a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What a member said longer ago is not how it is.
const HEARD_WITHIN_MS: u64 = 3_000;
/// After a note that was not taken.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What the keeper works with.
pub struct Parts {
    pub cluster: Arc<ClusterHandle>,
    pub query: Query,
    pub own: Own,
    pub stop: CancellationToken,
}

/// What one member says of its supply.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// `None`: it is on mains.
    state: Option<PowerState>,
    russian: String,
    english: String,
}

/// The note to be written, if things changed. `said` are those that were heard of.
fn changed(before: &PowerNote, members: &BTreeSet<u64>, said: &BTreeMap<u64, Said>) -> Option<PowerNote> {
    let mut now = PowerNote::default();
    let (mut russian, mut english) = (String::new(), String::new());
    for node in members {
        let heard = said.get(node);
        let state = match heard {
            Some(said) => said.state,
            None => before.short.get(node).copied(),
        };
        let Some(state) = state else { continue };
        now.short.insert(*node, state);
        let (of_it, of_it_english) = match state {
            PowerState::OnBattery => ("работает от батареи", "on battery"),
            PowerState::Failing => ("батарея на исходе", "battery low, it leaves"),
        };
        let parted = if russian.is_empty() { "" } else { "; " };
        // A string takes whatever is written to it.
        let _ = write!(russian, "{parted}сервер {node}: {of_it}");
        let _ = write!(english, "{parted}node {node}: {of_it_english}");
        match heard {
            None => {
                russian.push_str(" (нет связи)");
                english.push_str(" (not heard of)");
            }
            Some(Said { russian: why, english: why_english, .. }) if !why_english.is_empty() => {
                let _ = write!(russian, " ({why})");
                let _ = write!(english, " ({why_english})");
            }
            Some(_) => {}
        }
    }
    if now.short == before.short {
        return None;
    }
    (now.russian, now.english) = if now.short.is_empty() {
        ("Электропитание восстановлено на всех серверах".to_owned(), "mains is back at every node".to_owned())
    } else {
        (format!("Электропитание: {russian}"), format!("power: {english}"))
    };
    Some(now)
}

impl Parts {
    /// Who belongs to the cluster, and what those say that were heard of.
    fn look(&self) -> (BTreeSet<u64>, BTreeMap<u64, Said>) {
        let members = self.cluster.members().current.iter().map(|member| member.node_id).collect();
        let alarms = self.cluster.alarms();
        let fresh = alarms.into_iter().filter(|member| member.heard_ms_ago <= HEARD_WITHIN_MS);
        let said = fresh.map(|member| {
            let of = |kind: Kind| member.alarms.iter().find(|alarm| alarm.kind == kind.name());
            let (state, alarm) = match (of(Kind::PowerFailing), of(Kind::OnBattery)) {
                (Some(alarm), _) => (Some(PowerState::Failing), Some(alarm)),
                (None, Some(alarm)) => (Some(PowerState::OnBattery), Some(alarm)),
                (None, None) => (None, None),
            };
            let (russian, english) =
                alarm.map(|alarm| (alarm.text_ru.clone(), alarm.text_en.clone())).unwrap_or_default();
            (member.node, Said { state, russian, english })
        });
        (members, said.collect())
    }

    /// Writes what changed. `Err`: it was not taken, and why.
    async fn write(&self) -> Result<(), String> {
        let leads = matches!(self.cluster.role().role, Role::Leader { ready: true });
        if !leads || self.cluster.level() < level::NOTES {
            return Ok(());
        }
        let (members, said) = self.look();
        // A leader that is ready has applied whatever others wrote.
        let before = match self.query.power_note() {
            Ok(before) => before.unwrap_or_default(),
            Err(error) => return Err(format!("the journal cannot be read: {error}")),
        };
        let Some(note) = changed(&before, &members, &said) else { return Ok(()) };
        let op = note.op().ok_or("it is larger than a commit")?;
        match self.own.ask(op).await {
            Ok(Answer::Done { index, .. }) => {
                tracing::info!(index, text = note.english, "the journal has the cluster's power");
                Ok(())
            }
            Ok(other) => Err(format!("{other:?}")),
            Err(_) => Err("the node is going down".to_owned()),
        }
    }
}

/// Runs until the node stops.
pub async fn keep(parts: Parts) {
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match parts.write().await {
            Ok(()) => LOOK_EVERY,
            Err(reason) => {
                tracing::warn!(reason, "a note on the cluster's power was not written");
                AGAIN_AFTER
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(state: Option<PowerState>) -> Said {
        let words = if state.is_some() { "ups1" } else { "" };
        Said { state, russian: words.into(), english: words.into() }
    }

    fn said(all: &[(u64, Option<PowerState>)]) -> BTreeMap<u64, Said> {
        all.iter().map(|(node, state)| (*node, on(*state))).collect()
    }

    #[test]
    fn changes_are_written_once_and_silence_changes_nothing() {
        use PowerState::{Failing, OnBattery};
        let members: BTreeSet<u64> = [1, 2, 3].into();
        let well = PowerNote::default();
        let all = said(&[(1, None), (2, None), (3, None)]);
        assert_eq!(changed(&well, &members, &all), None);

        let cut = said(&[(1, None), (2, Some(OnBattery)), (3, Some(OnBattery))]);
        let lost = changed(&well, &members, &cut).expect("mains was lost");
        assert_eq!(lost.short, [(2, OnBattery), (3, OnBattery)].into());
        assert_eq!(lost.english, "power: node 2: on battery (ups1); node 3: on battery (ups1)");
        assert!(lost.russian.contains("сервер 2: работает от батареи"));
        assert_eq!(changed(&lost, &members, &cut), None, "it is written");

        let low = changed(&lost, &members, &said(&[(1, None), (2, Some(OnBattery)), (3, Some(Failing))]))
            .expect("a battery is low");
        assert_eq!(low.short, [(2, OnBattery), (3, Failing)].into());

        // The third is gone; nobody knows that it has mains.
        let back = changed(&low, &members, &said(&[(1, None), (2, None)])).expect("the second is on mains");
        assert_eq!(back.short, [(3, Failing)].into());
        assert_eq!(back.english, "power: node 3: battery low, it leaves (not heard of)");
        let all_back = changed(&back, &members, &all).expect("all are on mains");
        assert_eq!(all_back.english, "mains is back at every node");
        assert!(all_back.short.is_empty());

        // Taken out of the cluster: no business of ours any more.
        assert!(
            changed(&back, &[1, 2].into(), &said(&[(1, None), (2, None)])).expect("over").short.is_empty()
        );
    }
}
