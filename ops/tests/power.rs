//! Plays scripts on the power policy. The transcripts under `scripts/power/` are reviewed by people; set
//! `UPDATE_GOLDENFILES=1` to write them anew.

use goldenscript::{Command, Runner};
use okno_ops::power::{Action, Heard, PowerWatch, Reading, Rules, Silence, Source};
use std::{collections::BTreeMap, error::Error, fmt::Write as _};

/// The time the scripts play in, far from zero as in life.
const BEGAN_MS: u64 = 1_000_000;

struct Script {
    watch: PowerWatch,
    now_ms: u64,
}

fn rules(supplies: &[u32], needs: u32) -> Rules {
    Rules {
        node: 2,
        sources: supplies
            .iter()
            .zip('a'..)
            .map(|(supplies, name)| Source { name: name.to_string(), supplies: *supplies })
            .collect(),
        needs,
        battery_max_ms: 900_000,
        runtime_min_s: 120,
        charge_min: 10,
        confirm_ms: 3_000,
        lost_after_ms: 10_000,
        steady_ms: 30_000,
    }
}

impl Default for Script {
    fn default() -> Self {
        Self { watch: PowerWatch::new(rules(&[1], 1), BEGAN_MS), now_ms: BEGAN_MS }
    }
}

impl Script {
    fn show(&self, actions: Vec<Action>) -> String {
        let at = (self.now_ms - BEGAN_MS) / 1_000;
        let mut text = String::new();
        for action in actions {
            let _ = match action {
                Action::Raise(c) => writeln!(text, "{at} s: + {}: {}", c.kind.name(), c.words.english),
                Action::Clear(c) => writeln!(text, "{at} s: - {}: {}", c.kind.name(), c.words.english),
                Action::Leave(words) => writeln!(text, "{at} s: LEAVE: {}", words.english),
            };
        }
        text
    }
}

impl Runner for Script {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut out = String::new();
        match command.name.as_str() {
            // supplies N… [needs=M]: the machine begins anew with these supplies
            "supplies" => {
                let needs = args.lookup_parse("needs")?.unwrap_or(1);
                let worth: Vec<u32> =
                    args.rest_pos().iter().map(|arg| arg.parse()).collect::<Result<_, _>>()?;
                *self = Self { watch: PowerWatch::new(rules(&worth, needs), BEGAN_MS), now_ms: BEGAN_MS };
            }
            // says WORD… [ups=a] [charge=N] [runtime=N] [for=SECONDS]: each second, once unless told otherwise
            // silent stale|gone|unreachable [ups=a] [for=SECONDS]
            "says" | "silent" => {
                let ups: char = args.lookup_parse("ups")?.unwrap_or('a');
                let place = usize::try_from(u32::from(ups) - u32::from('a'))?;
                let seconds: u64 = args.lookup_parse("for")?.unwrap_or(1);
                let mut variables = BTreeMap::new();
                for (argument, name) in [("charge", "battery.charge"), ("runtime", "battery.runtime")] {
                    if let Some(value) = args.lookup_parse::<String>(argument)? {
                        variables.insert(name.to_owned(), value);
                    }
                }
                let words: Vec<String> = args.rest_pos().iter().map(|arg| arg.value.clone()).collect();
                let heard = if command.name == "says" {
                    variables.insert("ups.status".to_owned(), words.join(" "));
                    Heard::Reading(Reading::of(&variables))
                } else {
                    Heard::Silence(match words.first().map(String::as_str) {
                        Some("stale") => Silence::Stale,
                        Some("gone") => Silence::DriverGone,
                        _ => Silence::Unreachable("connection refused".into()),
                    })
                };
                for _ in 0..seconds {
                    let actions = self.watch.heard(place, heard.clone(), self.now_ms);
                    out.push_str(&self.show(actions));
                    self.now_ms += 1_000;
                }
            }
            // start [left]: may the node start now?
            "start" => {
                let left = args.next_pos().is_some();
                let blocked = self.watch.start_blocked(left, self.now_ms);
                out = blocked.map_or("may start\n".into(), |words| format!("{}\n", words.english));
            }
            "figures" => {
                let _ = writeln!(out, "{:?}", self.watch.figures(self.now_ms));
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_rest()?;
        Ok(out)
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            let file = format!("{}/tests/scripts/power/{}", env!("CARGO_MANIFEST_DIR"), stringify!($name));
            goldenscript::run(&mut Script::default(), file).expect("transcript");
        }
    )*};
}

scripts!(one_supply, two_supplies, flapping, lost, lies, start);
