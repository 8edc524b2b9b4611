//! One network namespace a node, joined by a bridge.
//!
//! The bridge's own address belongs to the drill: its clients reach every node whatever is cut between the nodes.
//!
//! Invariants: one laboratory at a time on a machine (names and addresses are fixed, and a cluster of drills holds the
//! machine's lock); what an earlier run left behind is removed first; namespaces, bridge and everything in them go
//! with the last guard, also when the drill is interrupted.

use crate::cleanup::{self, Guard};
use crate::tools;
use std::net::Ipv4Addr;

const BRIDGE: &str = "okno-br";
/// A private range that is unlikely to be in use here; one host number a node.
const NETWORK: [u8; 3] = [10, 213, 77];
const BRIDGE_HOST: u8 = 254;
/// Nodes a laboratory has room for: far more than a cluster has members.
const NODES_MAX: u64 = 32;

/// Namespaces that exist as long as this value.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<u64>,
    _guard: Guard,
}

pub fn namespace(node: u64) -> String {
    format!("okno-n{node}")
}

fn outer(node: u64) -> String {
    format!("okno-v{node}")
}

/// A node's address in the laboratory.
pub fn address(node: u64) -> Ipv4Addr {
    let host = u8::try_from(node).ok().filter(|host| u64::from(*host) < NODES_MAX);
    let host = host.expect("clusters are far smaller than the laboratory");
    Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], host)
}

impl Lab {
    pub fn new(nodes: &[u64]) -> Self {
        let owned = nodes.to_vec();
        remove(&owned);
        let guard = cleanup::register("network namespaces of the drill", {
            let owned = owned.clone();
            move || remove(&owned)
        });
        let ip = |line: &str| tools::run("ip", line.split_whitespace());
        let [a, b, c] = NETWORK;
        ip(&format!("link add {BRIDGE} type bridge"));
        ip(&format!("addr add {a}.{b}.{c}.{BRIDGE_HOST}/24 dev {BRIDGE}"));
        ip(&format!("link set {BRIDGE} up"));
        for node in nodes {
            let (name, outside, inside) = (namespace(*node), outer(*node), format!("okno-w{node}"));
            ip(&format!("netns add {name}"));
            ip(&format!("link add {outside} type veth peer name {inside} netns {name}"));
            ip(&format!("link set {outside} master {BRIDGE} up"));
            ip(&format!("-n {name} link set {inside} name eth0"));
            ip(&format!("-n {name} addr add {}/24 dev eth0", address(*node)));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        Self { nodes: owned, _guard: guard }
    }

    pub fn nodes(&self) -> &[u64] {
        &self.nodes
    }

    /// What stands before a node's command line.
    pub fn prefix(node: u64) -> Vec<String> {
        ["ip", "netns", "exec", &namespace(node)].map(str::to_owned).to_vec()
    }
}

/// Holds a node's outgoing traffic to a rate, with a queue of at most `queue_ms`.
pub fn throttle(node: u64, kilobits_per_second: u32, queue_ms: u32) {
    let line = format!(
        "-n {} qdisc replace dev eth0 root tbf rate {kilobits_per_second}kbit burst 32kb latency {queue_ms}ms",
        namespace(node)
    );
    tools::run("tc", line.split_whitespace());
}

/// Ends it; returns how many packets had to wait for their turn.
pub fn unthrottle(node: u64) -> u64 {
    let name = namespace(node);
    let shown = tools::run("tc", ["-s", "-n", &name, "qdisc", "show", "dev", "eth0"]);
    tools::run("tc", ["-n", &name, "qdisc", "del", "dev", "eth0", "root"]);
    overlimits(&shown)
}

/// The count of `overlimits` in what `tc -s qdisc` prints.
fn overlimits(text: &str) -> u64 {
    let mut words = text.split_whitespace();
    words
        .find(|word| *word == "overlimits")
        .and_then(|_| words.next())
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// Takes everything away that may be there. What is not there cannot be removed, and that is fine.
fn remove(nodes: &[u64]) {
    for node in nodes {
        let _ = tools::attempt("ip", ["netns", "del", &namespace(*node)]);
        let _ = tools::attempt("ip", ["link", "del", &outer(*node)]);
    }
    let _ = tools::attempt("ip", ["link", "del", BRIDGE]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_an_address_of_its_own() {
        assert_eq!(address(3).to_string(), "10.213.77.3");
        assert_eq!(namespace(3), "okno-n3");
    }

    #[test]
    fn reads_what_tc_prints() {
        let text = "qdisc tbf 8001: root refcnt 2 rate 1Mbit burst 32Kb lat 50ms\n \
                    Sent 100 bytes 2 pkt (dropped 3, overlimits 41 requeues 0)\n backlog 0b 0p requeues 0";
        assert_eq!(overlimits(text), 41);
        assert_eq!(overlimits("nothing"), 0);
    }
}
