//! What a run is made of: seed, length, and which kinds of faults may happen in it.

use okno_storage::planted::Mutant;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $id:literal;)+) => {
        /// A kind of fault. The name is what reports and the command line say.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $id)] $name,)+
        }

        impl Kind {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)+
                }
            }

            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($id => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Raft messages and gossip are lost, up to 30 %.
    Loss "loss";
    /// Raft messages arrive twice, up to 50 %.
    Duplicate "duplicate";
    /// Raft messages overtake each other.
    Reorder "reorder";
    /// Links between nodes are slow, with jitter.
    Delay "delay";
    /// One direction between two nodes is cut.
    OneWayCut "one-way-cut";
    /// Two nodes cannot reach each other; both reach the others.
    PartialCut "partial-cut";
    /// One node is cut off from all others.
    Isolate "isolate";
    /// Links are cut one after the other and healed one after the other.
    Swizzle "swizzle";
    /// Connections between nodes break: what is in flight is gone.
    Reset "reset";
    /// A raft message of long ago arrives again.
    Stale "stale";
    /// A client and a node cannot reach each other.
    ClientCut "client-cut";
    /// Connections of clients break.
    ClientReset "client-reset";
    /// A process is killed and started again; what it wrote stays in the operating system.
    Crash "crash";
    /// A machine loses power: what was not synced may be gone.
    PowerLoss "power-loss";
    /// All machines lose power at once.
    PowerLossAll "power-loss-all";
    /// The power goes while an identity slot is written.
    TornIdentity "torn-identity";
    /// A process is told to stop, hands leadership over, and is started again.
    Stop "stop";
    /// Appends take up to a second and more.
    SlowDisk "slow-disk";
    /// An fsync fails.
    FailedFsync "failed-fsync";
    /// An append does not return for a while, or not before the watchdog.
    HungDisk "hung-disk";
    /// A byte of a stored value is flipped on one node.
    Rot "rot";
    /// A node's data are removed and `okno init` is run again: the id is the same, the incarnation is not.
    Wipe "wipe";
    /// A byte of one identity slot is flipped.
    IdentityRot "identity-rot";
    /// A node's clock is off by seconds to hours.
    ClockSkew "clock-skew";
    /// A node's clocks, wall and monotonic, run fast or slow.
    ClockDrift "clock-drift";
    /// A node's clock jumps.
    ClockJump "clock-jump";
    /// A node's clock jumps to and fro.
    ClockStrobe "clock-strobe";
    /// All clocks jump forward by hours or days, as after a long stop: deadlines come due.
    ClocksTogether "clocks-together";
    /// A process stands still; messages pile up.
    Pause "pause";
    /// Somebody asks for leadership to be handed over.
    Transfer "transfer";
    /// An entity panics.
    Panic "panic";
    /// The actor of an entity is gone without a word.
    ActorDies "actor-dies";
    /// Apply is held back.
    SlowApply "slow-apply";
    /// Threads get no processor: turns, decisions and notices are late.
    Starve "starve";
    /// What applied reaches courier and scanner too fast: they must read storage again.
    MissedFeed "missed-feed";
    /// All members digest their rows at a marker.
    Marker "marker";
    /// The log is kept short from now on: who is away for a moment is sent a copy of the database.
    CutLog "cut-log";
    /// A machine joins the cluster as a learner and becomes a voter by itself.
    Join "join";
    /// A member is taken out.
    Leave "leave";
    /// A member's machine is lost; another one joins under a new id, and the lost one is taken out.
    Replace "replace";
    /// A member is away for so long that the log it lacks is cut.
    Away "away";
    /// A member needs a copy, and having installed it, at once another one.
    TwoCopies "two-copies";
    /// The receiver of a copy ends while it is on its way.
    CutCopy "cut-copy";
    /// The end comes while a copy is installed, before `identity` names it.
    InstallUnnamed "install-unnamed";
    /// The end comes in the one write of `identity` that names an installed copy.
    InstallTorn "install-torn";
    /// The end comes right after `identity` has named an installed copy.
    InstallNamed "install-named";
    /// All members but one are given up, and the survivor is made a cluster of its own; others join it.
    Recover "recover";
    /// An entity under load is closed by quarantine and released at once: commits between the two are fenced, and what
    /// was decided on them must be too.
    CloseAndOpen "close-and-open";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// Steps before the faults end, by default.
pub const STEPS: u64 = 3_000;

/// One run. Everything else about it is drawn from the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub seed: u64,
    /// Events handed to cores before the faults end.
    pub steps: u64,
    /// Kinds of faults that may happen; the seed chooses among them.
    pub kinds: BTreeSet<Kind>,
    /// Members; `None`: drawn, mostly three.
    pub nodes: Option<usize>,
    /// Clients; `None`: drawn.
    pub clients: Option<usize>,
    /// The planted fault. It holds for the whole process, so runs side by side must agree on it.
    pub mutant: Option<Mutant>,
    /// Write the trace a person can follow.
    pub trace: bool,
}

impl Config {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: STEPS,
            kinds: Kind::ALL.iter().copied().collect(),
            nodes: None,
            clients: None,
            mutant: None,
            trace: false,
        }
    }
}

/// One line: `seed=7 steps=3000 kinds=all nodes=3 clients=4`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} steps={}", self.seed, self.steps)?;
        if self.kinds.len() == Kind::ALL.len() {
            write!(f, " kinds=all")?;
        } else if self.kinds.is_empty() {
            write!(f, " kinds=none")?;
        } else {
            let names: Vec<&str> = self.kinds.iter().map(|kind| kind.id()).collect();
            write!(f, " kinds={}", names.join(","))?;
        }
        if let Some(nodes) = self.nodes {
            write!(f, " nodes={nodes}")?;
        }
        if let Some(clients) = self.clients {
            write!(f, " clients={clients}")?;
        }
        if let Some(mutant) = self.mutant {
            write!(f, " mutant={}", mutant.name())?;
        }
        Ok(())
    }
}

/// A line that is not a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(line: &str) -> Result<Self, ConfigError> {
        let mut config = Self::new(0);
        for word in line.split_whitespace() {
            let (key, value) =
                word.split_once('=').ok_or_else(|| ConfigError(format!("{word:?}: expected KEY=VALUE")))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| ConfigError(format!("{key}: expected a number, found {value:?}")))
            };
            let count = || number().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            match key {
                "seed" => config.seed = number()?,
                "steps" => config.steps = number()?,
                "nodes" => config.nodes = Some(count()?),
                "clients" => config.clients = Some(count()?),
                "kinds" => config.kinds = kinds_of(value)?,
                "mutant" => {
                    let found = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == value);
                    config.mutant =
                        Some(found.ok_or_else(|| ConfigError(format!("no planted fault {value:?}")))?);
                }
                _ => return Err(ConfigError(format!("unknown key {key:?}"))),
            }
        }
        Ok(config)
    }
}

/// `all`, `none`, or names separated by commas.
pub fn kinds_of(text: &str) -> Result<BTreeSet<Kind>, ConfigError> {
    match text {
        "all" => Ok(Kind::ALL.iter().copied().collect()),
        "none" => Ok(BTreeSet::new()),
        names => names
            .split(',')
            .map(|name| Kind::parse(name).ok_or_else(|| ConfigError(format!("no kind of fault {name:?}"))))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_a_run_and_back() {
        let mut config = Config::new(42);
        config.kinds = [Kind::Loss, Kind::Crash].into();
        config.nodes = Some(5);
        let line = config.to_string();
        assert_eq!(line, "seed=42 steps=3000 kinds=loss,crash nodes=5");
        assert_eq!(line.parse::<Config>(), Ok(config));
        assert_eq!("seed=1 kinds=none".parse::<Config>().expect("valid").kinds.len(), 0);
        assert!("seed=x".parse::<Config>().is_err());
        assert!("kinds=nothing".parse::<Config>().is_err());
    }
}
