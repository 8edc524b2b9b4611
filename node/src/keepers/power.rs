//! Watches the machine's power supplies and does what `okno_ops::power` decides (R-R4): alarms, leadership to a node that
//! is on mains, and, when the battery will not last, the way out — intake stops, what was begun is ended, the process
//! leaves with code 0, and the machine may be switched off.
//!
//! A node that left so says so in a file beside its data. Started again while the machine was not (`systemd` does), it
//! waits with its data closed until mains has been seen; after a new start of the machine power has come back,
//! and it only keeps away from a battery that is low.
//!
//! The connections to `upsd`, and the logins on them, last as long as the process: the primary waits for them before it
//! cuts the power.

use super::pulse;
use crate::{
    observability::{
        alarms::{Alarm, Alarms},
        security::{Event, EventKind, SecurityLog},
    },
    settings::{PowerSection, Settings},
};
use anyhow::{Context, Result, anyhow};
use okno_cluster::{
    ClusterHandle, NodeId,
    api::{Proposer, Role},
};
use okno_ops::power::{
    Action, Condition, Kind, Login, Polled, PowerWatch, Rules, Source, UpsAddress, Words, poll,
};
use okno_runtime::intake::{Intake, Level, Reason};
use parking_lot::Mutex;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Words of supplies that wait for the watch: one turn of every supply that settings allow, twice.
const QUEUE_MAX: usize = 2 * SUPPLIES_MAX;
/// Supplies of one machine.
pub const SUPPLIES_MAX: usize = 16;
/// Time goes on for the watch this often, whatever supplies say.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// At a start every supply is asked once; those that do not answer meanwhile count as silent.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(5);
/// A hand-over that did not come about is tried again after this.
const HAND_OVER_EVERY: Duration = Duration::from_secs(30);
/// The command that switches the machine off says at once whether it can.
const SHUTDOWN_COMMAND_WITHIN: Duration = Duration::from_secs(10);
/// What the node's journal calls the decision to leave; refusals from then on have the same reason.
const POWER_FAILING: &str = "POWER_FAILING";
/// The file beside the data.
const LEFT_FILE: &str = "power-left.json";

/// What the file says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Left {
    /// Which start of the machine it was.
    boot_id: String,
    reason: String,
    /// Milliseconds since 1970.
    since_ms: u64,
}

/// Connections to the supplies, and what is made of their words.
pub struct Power {
    rules: Rules,
    finish_within: Duration,
    words: mpsc::Receiver<Polled>,
    watch: Arc<Mutex<PowerWatch>>,
    began: Instant,
}

/// What the keeper acts on.
pub struct Parts {
    pub cluster: Arc<ClusterHandle>,
    pub alarms: Arc<Alarms>,
    pub intake: Arc<Intake>,
    pub security: SecurityLog,
    pub data_dir: std::path::PathBuf,
    /// Cancelled when the node must go down.
    pub leave: CancellationToken,
    pub stop: CancellationToken,
}

/// Reads the policy's figures from the settings; they were checked when they were loaded.
fn rules(settings: &Settings) -> Rules {
    let PowerSection {
        needs, battery_max, runtime_min, charge_min, confirm, lost_after, steady, ups, ..
    } = &settings.power;
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Rules {
        node: settings.node.id,
        sources: ups.iter().map(|ups| Source { name: ups.name.clone(), supplies: ups.supplies }).collect(),
        needs: *needs,
        battery_max_ms: ms(battery_max),
        runtime_min_s: u32::try_from(runtime_min.as_secs()).unwrap_or(u32::MAX),
        charge_min: *charge_min,
        confirm_ms: ms(confirm),
        lost_after_ms: ms(lost_after),
        steady_ms: ms(steady),
    }
}

impl Power {
    /// Begins to ask; `None`: the settings name no supply. Must be called within a tokio runtime.
    pub fn start(settings: &Settings) -> Result<Option<Self>> {
        let power = &settings.power;
        if power.ups.is_empty() {
            return Ok(None);
        }
        let (tell, words) = mpsc::channel(QUEUE_MAX);
        for (place, ups) in power.ups.iter().enumerate() {
            let address: UpsAddress =
                ups.name.parse().map_err(|detail: String| anyhow!("power.ups: {detail}"))?;
            let login = match &ups.password_file {
                Some(file) => {
                    let text = std::fs::read_to_string(file)
                        .with_context(|| format!("power.ups: password_file {}", file.display()))?;
                    Some(Login {
                        user: ups.user.clone(),
                        password: text.trim_end_matches(['\r', '\n']).to_owned(),
                    })
                }
                None => None,
            };
            tokio::spawn(poll(place, address, login, power.poll_every, tell.clone()));
        }
        let rules = rules(settings);
        let watch = Arc::new(Mutex::new(PowerWatch::new(rules.clone(), 0)));
        let began = Instant::now();
        Ok(Some(Self { rules, finish_within: power.finish_within, words, watch, began }))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until the node may open its data. See the module.
    pub async fn wait(&mut self, data_dir: &Path) -> Result<()> {
        let left = read_left(data_dir);
        let same_start = left.as_ref().is_some_and(|left| left.boot_id == boot_id());
        let mut told = None;
        loop {
            if let Ok(Some((place, heard))) = tokio::time::timeout(LOOK_EVERY, self.words.recv()).await {
                let _before_the_start = self.watch.lock().heard(place, heard, self.now_ms());
            }
            let (all, blocked) = {
                let watch = self.watch.lock();
                (watch.all_asked(), watch.start_blocked(same_start, self.now_ms()))
            };
            if !all && self.began.elapsed() < FIRST_WORD_WITHIN {
                continue;
            }
            let Some(words) = blocked else { break };
            pulse::extend();
            if told.as_ref() != Some(&words) {
                tracing::warn!(reason = words.english, "the start waits");
                pulse::tell(&[NotifyState::Status(&words.english)]);
                told = Some(words);
            }
        }
        if left.is_some() {
            std::fs::remove_file(data_dir.join(LEFT_FILE)).context("removing the mark of a power cut")?;
            tracing::info!("power is back: the node starts");
        }
        // What was seen before the start decides nothing after it: the watch begins anew.
        *self.watch.lock() = PowerWatch::new(self.rules.clone(), self.now_ms());
        Ok(())
    }

    /// Figures for metrics.
    pub fn figures(&self) -> impl Fn() -> Vec<(&'static str, f64)> + Send + Sync + use<> {
        let (watch, began) = (Arc::clone(&self.watch), self.began);
        move || {
            let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let figures = watch.lock().figures(now_ms);
            let mut found = vec![
                ("supplies", figures.sources as f64),
                ("supplies_on_battery", figures.sources_on_battery as f64),
                ("supplies_lost", figures.sources_lost as f64),
                ("on_battery", f64::from(u8::from(figures.on_battery))),
                ("on_battery_seconds", figures.on_battery_ms as f64 / 1_000.0),
                ("failing", f64::from(u8::from(figures.failing))),
            ];
            found.extend(figures.charge_min.map(|percent| ("battery_charge_percent", f64::from(percent))));
            found.extend(figures.runtime_min_s.map(|left| ("battery_runtime_seconds", f64::from(left))));
            found
        }
    }

    /// Watches to the end of the process: see the module.
    pub async fn keep(mut self, parts: Parts) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut standing = BTreeMap::new();
        let mut tried: Option<Instant> = None;
        loop {
            let heard = tokio::select! {
                Some(heard) = self.words.recv() => Some(heard),
                _ = look.tick() => None,
            };
            let now_ms = self.now_ms();
            let (actions, on_battery) = {
                let mut watch = self.watch.lock();
                let actions = match heard {
                    Some((place, heard)) => watch.heard(place, heard, now_ms),
                    None => watch.tick(now_ms),
                };
                (actions, watch.on_battery())
            };
            if parts.stop.is_cancelled() {
                continue;
            }
            for action in actions {
                parts.act(action, &mut standing, self.finish_within);
            }
            if on_battery
                && tried.is_none_or(|at| at.elapsed() >= HAND_OVER_EVERY)
                && let Some(to) = parts.on_mains()
            {
                tried = Some(Instant::now());
                tracing::warn!(to, "on battery: leadership goes to a node on mains");
                let cluster = parts.cluster.clone();
                tokio::spawn(async move {
                    if let Err(error) = cluster.transfer_leader(Some(to)).await {
                        tracing::warn!(%error, "leadership was not handed over");
                    }
                });
            }
        }
    }
}

/// Conditions that stand, by kind and supply: an alarm holds those of one kind.
type Standing = BTreeMap<Kind, BTreeMap<Option<String>, Words>>;

impl Parts {
    fn act(&self, action: Action, standing: &mut Standing, finish_within: Duration) {
        match action {
            Action::Raise(Condition { kind, ups, words }) => {
                self.record(kind.name(), &words.english);
                standing.entry(kind).or_default().insert(ups, words);
                self.show(kind, standing);
            }
            Action::Clear(Condition { kind, ups, words }) => {
                self.record(kind.name(), &words.english);
                if let Some(of_kind) = standing.get_mut(&kind) {
                    of_kind.remove(&ups);
                }
                self.show(kind, standing);
            }
            Action::Leave(words) => self.leave(&words, finish_within),
        }
    }

    fn show(&self, kind: Kind, standing: &Standing) {
        let join = |of: fn(&Words) -> &str| {
            let words = standing.get(&kind).into_iter().flat_map(BTreeMap::values);
            words.map(of).collect::<Vec<_>>().join("; ")
        };
        let english = join(|words| &words.english);
        if english.is_empty() {
            self.alarms.clear(kind.name());
        } else {
            self.alarms.raise(Alarm::new(kind.name(), english).russian(join(|words| &words.russian)));
        }
    }

    /// The node's own journal of what happened to its power; it is there without a quorum too.
    fn record(&self, kind: &str, text: &str) {
        tracing::warn!(kind, text, "power");
        let event = Event {
            kind: EventKind::Power,
            principal: format!("node/{}", self.cluster.node_id()),
            remote: String::new(),
            method: kind.to_owned(),
            subject: text.to_owned(),
        };
        // That the log cannot be written has an alarm of its own; power does not wait for it.
        let _ = self.security.record(event);
    }

    /// The point of no return.
    fn leave(&self, why: &Words, finish_within: Duration) {
        let detail = format!("the node leaves for want of power: {}", why.english);
        self.intake.set(Reason::Power, Level::Completions, &detail);
        self.record(POWER_FAILING, &why.english);
        if let Err(error) = write_left(&self.data_dir, &why.english) {
            // Without it systemd starts the node anew, and it leaves again: no harm beyond the noise.
            tracing::error!(%error, "the mark of a power cut cannot be written");
        }
        let leave = self.leave.clone();
        tokio::spawn(async move {
            // Officers end what they are at, and other nodes hear of it.
            tokio::time::sleep(finish_within).await;
            leave.cancel();
        });
    }

    /// If this node leads: a voter that answers and says nothing of running on battery.
    fn on_mains(&self) -> Option<NodeId> {
        if !matches!(self.cluster.role().role, Role::Leader { ready: true }) {
            return None;
        }
        let status = self.cluster.status();
        let short = [Kind::OnBattery.name(), Kind::PowerFailing.name()];
        let dark: Vec<NodeId> = self
            .cluster
            .alarms()
            .into_iter()
            .filter(|said| said.alarms.iter().any(|alarm| short.contains(&alarm.kind.as_str())))
            .map(|said| said.node)
            .collect();
        let fit = status.members.iter().filter(|member| {
            member.id != status.node_id
                && !member.learner
                && member.connected
                && !member.quarantined
                && !dark.contains(&member.id)
        });
        // The one that has applied most takes over soonest.
        fit.max_by_key(|member| (member.match_index, member.id)).map(|member| member.id)
    }
}

/// Runs the command that switches the machine off; after everything is on the disk.
pub async fn switch_off(command: &[String]) {
    let Some((program, arguments)) = command.split_first() else { return };
    tracing::warn!(?command, "switching the machine off");
    let run =
        tokio::process::Command::new(program).args(arguments).stdin(std::process::Stdio::null()).status();
    match tokio::time::timeout(SHUTDOWN_COMMAND_WITHIN, run).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::error!(%status, "the command that switches the machine off failed"),
        Ok(Err(error)) => tracing::error!(%error, "the command that switches the machine off cannot be run"),
        Err(_) => tracing::warn!("the command that switches the machine off goes on without us"),
    }
}

/// Names this start of the machine. Where it cannot be told all starts count as one: the node then waits to see mains.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// A file that cannot be read counts as one of this start: waiting for mains does no harm.
fn read_left(data_dir: &Path) -> Option<Left> {
    let text = match std::fs::read_to_string(data_dir.join(LEFT_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(_) => String::new(),
    };
    Some(serde_json::from_str(&text).unwrap_or_else(|_| Left {
        boot_id: boot_id(),
        reason: "unreadable".into(),
        since_ms: 0,
    }))
}

fn write_left(data_dir: &Path, reason: &str) -> Result<()> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let left = Left {
        boot_id: boot_id(),
        reason: reason.to_owned(),
        since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    };
    let mut file = File::create(data_dir.join(LEFT_FILE))?;
    file.write_all(&serde_json::to_vec(&left)?)?;
    file.sync_all()?;
    File::open(data_dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_power_cut_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read_left(folder.path()).is_none());
        write_left(folder.path(), "the battery is low").expect("written");
        let left = read_left(folder.path()).expect("there");
        assert_eq!((left.boot_id.as_str(), left.reason.as_str()), (boot_id().as_str(), "the battery is low"));
        std::fs::write(folder.path().join(LEFT_FILE), b"\xff{").expect("spoilt");
        assert_eq!(read_left(folder.path()).expect("counts").boot_id, boot_id());
    }
}
