//! What is lost between two nodes, by rules on the receiver's input.
//!
//! It is always the receiver that drops: a sender whose own output is dropped would be told so.
//!
//! Invariants: a rule is there as long as its value; what it caught is counted when it goes; rules carry a mark of
//! their own, so that two alike are two.

use super::lab;
use crate::tools;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happens to a packet of one node at another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// It vanishes.
    Drop,
    /// It vanishes with this probability.
    Lose(f64),
    /// It is answered by a reset of the connection.
    Reset,
}

/// A rule that stands as long as this value.
#[derive(Debug)]
#[must_use = "dropped at once, it ends at once"]
pub struct Rule {
    namespace: String,
    mark: String,
    specification: Vec<String>,
    removed: bool,
}

/// Marks are numbered over the whole program.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// What `from` sends to `to` meets a fault. The other direction goes on.
pub fn one_way(from: u64, to: u64, fault: Fault) -> Rule {
    let mark = format!("okno-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut specification = vec!["-s".to_owned(), lab::address(from).to_string()];
    let mut add = |words: &[&str]| specification.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-m", "comment", "--comment", &mark]);
    match fault {
        Fault::Drop => add(&["-j", "DROP"]),
        Fault::Lose(probability) => {
            let probability = format!("{probability:.4}");
            add(&["-m", "statistic", "--mode", "random", "--probability", &probability, "-j", "DROP"]);
        }
        Fault::Reset => add(&["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]),
    }
    let rule = Rule { namespace: lab::namespace(to), mark, specification, removed: false };
    let ruled = rule.iptables(&["-I", "INPUT"], &rule.specification);
    ruled.unwrap_or_else(|why| panic!("{why}"));
    rule
}

/// Both directions between two nodes.
pub fn between(a: u64, b: u64, fault: Fault) -> Vec<Rule> {
    vec![one_way(a, b, fault), one_way(b, a, fault)]
}

/// A node and every other.
pub fn around(node: u64, all: &[u64], fault: Fault) -> Vec<Rule> {
    all.iter().filter(|other| **other != node).flat_map(|other| between(node, *other, fault)).collect()
}

/// Removes rules; returns how many packets they caught.
pub fn heal(rules: Vec<Rule>) -> u64 {
    rules.into_iter().map(Rule::remove).sum()
}

impl Rule {
    /// Packets caught so far.
    pub fn caught(&self) -> u64 {
        let shown = self.iptables(&["-L", "INPUT", "-nvx"], &[]).unwrap_or_else(|why| panic!("{why}"));
        packets(&shown, &self.mark)
            .unwrap_or_else(|| panic!("the rule {} is gone from {}", self.mark, self.namespace))
    }

    /// Ends the fault; returns how many packets it caught.
    pub fn remove(mut self) -> u64 {
        let caught = self.caught();
        self.take_away().unwrap_or_else(|why| panic!("{why}"));
        caught
    }

    fn take_away(&mut self) -> Result<(), String> {
        if !std::mem::replace(&mut self.removed, true) {
            self.iptables(&["-D", "INPUT"], &self.specification)?;
        }
        Ok(())
    }

    fn iptables(&self, command: &[&str], rest: &[String]) -> Result<String, String> {
        let fixed = ["netns", "exec", &self.namespace, "iptables", "-w", "5"];
        let arguments = fixed.iter().chain(command).copied().chain(rest.iter().map(String::as_str));
        tools::attempt("ip", arguments)
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        // The namespace may be gone already, and the rule with it.
        let _ = self.take_away();
    }
}

/// The packet count of the rule that carries `mark`, from `iptables -L -nvx`.
fn packets(text: &str, mark: &str) -> Option<u64> {
    let carries = |line: &&str| line.split_whitespace().any(|word| word == mark);
    text.lines().find(carries)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_iptables_prints() {
        let text = "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)\n\
             pkts bytes target prot opt in out source destination\n\
             17 1020 DROP 0 -- * * 10.213.77.1 0.0.0.0/0 /* okno-12 */\n\
             4 200 DROP 0 -- * * 10.213.77.1 0.0.0.0/0 /* okno-1 */";
        assert_eq!(packets(text, "okno-1"), Some(4));
        assert_eq!(packets(text, "okno-12"), Some(17));
        assert_eq!(packets(text, "okno-3"), None);
    }
}
