//! Plays scripts. The transcripts under `scripts/members/` are reviewed by people; set `UPDATE_GOLDENFILES=1` to write
//! them anew.

use crate::world::{World, add};
use goldenscript::{Command, Runner};
use okno_cluster::{api::Role, core::event::Event};
use okno_storage::members::MemberChange;
use std::error::Error;

impl Runner for World {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut id = || -> Result<u64, Box<dyn Error>> { args.next_pos().ok_or("which node?")?.parse() };
        match command.name.as_str() {
            // nodes COUNT: founders
            "nodes" => {
                let count = id()?;
                self.found(count);
            }
            // join NODE: a machine without data, made to join
            "join" => {
                let node = id()?;
                self.join(node);
            }
            // elect NODE: only its clock runs, until it leads or 40 ticks are over
            "elect" => {
                let id = id()?;
                for _ in 0..40 {
                    self.tick(Some(id));
                    let role = self.live(id).map(|live| live.driver.role().role);
                    if matches!(role, Some(Role::Leader { ready: true })) {
                        break;
                    }
                }
            }
            // tick [TIMES] [node=N]
            "tick" => {
                let times = args.next_pos().map_or(Ok(1), |a| a.parse::<u64>())?;
                let only = args.lookup_parse("node")?;
                for _ in 0..times {
                    self.tick(only);
                }
            }
            // propose NODE [TIMES]: commits, without what they say
            "propose" => {
                let node = id()?;
                let times = args.next_pos().map_or(Ok(1), |a| a.parse::<u64>())?;
                let before = std::mem::take(&mut self.out);
                for _ in 0..times {
                    self.propose(node);
                    self.deliver();
                }
                let said = std::mem::replace(&mut self.out, before);
                let others = said.lines().filter(|line| !line.contains(": applied at"));
                let others: Vec<String> = others.map(str::to_owned).collect();
                for line in others {
                    self.say(format_args!("{line}"));
                }
            }
            // add|promote|remove NODE ID [dry=true] [after=TIMES]: asks NODE for a change, in the turn of so many proposals
            "add" | "promote" | "remove" => {
                let (node, node_id) = (id()?, id()?);
                let dry = args.lookup_parse("dry")?.unwrap_or(false);
                let change = match command.name.as_str() {
                    "add" => add(node_id),
                    "promote" => MemberChange::Promote { node_id },
                    _ => MemberChange::Remove { node_id },
                };
                let after = args.lookup_parse("after")?.unwrap_or(0);
                self.change(node, change, dry, after);
            }
            "deliver" => self.deliver(),
            // transfer NODE to=N
            "transfer" => {
                let node = id()?;
                let to = args.lookup_parse("to")?;
                self.feed(node, vec![Event::Transfer { ticket: 1, to }]);
                self.deliver();
            }
            // keep TAIL: the log is cut to so many entries with every tick
            "keep" => self.tail = Some(id()?),
            // unheard true|false: the word that a copy was installed is lost
            "unheard" => self.unheard = args.next_pos().ok_or("true or false?")?.parse()?,
            // ends NODE: its process ends right after the next install
            "ends" => {
                let node = id()?;
                self.ends_after_install.insert(node);
            }
            // cut A: nothing passes to or from A
            "cut" => {
                let a = id()?;
                let others: Vec<u64> = self.nodes.keys().copied().filter(|n| *n != a).collect();
                for b in others {
                    self.cuts.extend([(a, b), (b, a)]);
                }
            }
            // block A B: nothing passes from A to B
            "block" => {
                let way = (id()?, id()?);
                self.cuts.insert(way);
            }
            // hush A B: what only says how far is committed does not pass from A to B
            "hush" => {
                let way = (id()?, id()?);
                self.hushed.insert(way);
            }
            "heal" => {
                self.cuts.clear();
                self.hushed.clear();
            }
            // lag NODE: it applies nothing until it starts again
            "lag" => {
                let node = id()?;
                self.nodes.get_mut(&node).ok_or("no such node")?.lags = true;
            }
            "slow" => {
                let node = id()?;
                self.nodes.get_mut(&node).ok_or("no such node")?.slow = true;
            }
            "flush" => {
                let node = id()?;
                self.flush(node);
                self.deliver();
            }
            "crash" => {
                let node = id()?;
                self.crash(node);
            }
            "start" => {
                let node = id()?;
                self.start(node);
            }
            "status" => {
                let status = self.status();
                self.out.push_str(&status);
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_rest()?;
        Ok(std::mem::take(&mut self.out))
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            let file = format!("{}/tests/scripts/members/{}", env!("CARGO_MANIFEST_DIR"), stringify!($name));
            goldenscript::run(&mut World::default(), file).expect("transcript");
        }
    )*};
}

scripts!(
    grow,
    one_at_a_time,
    quorum,
    removed_leader,
    new_leader,
    cut_off,
    left_behind,
    last_two,
    last_two_led_by_who_goes,
    led_by_who_goes,
    learner_promotion,
    judged_by_its_log,
    copies,
    copy_in_vain,
);
