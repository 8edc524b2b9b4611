//! Free ports of the loopback address.
//!
//! A port handed out by the system on request lies in the range from which it also serves outgoing connections, so that
//! a node that is killed and started again may find its port taken by some client of another node. Ports are therefore
//! chosen below that range; that they are free is still for the system to say.

use anyhow::{Result, bail};
use rand::Rng;
use std::net::{Ipv4Addr, TcpListener};

/// Below are ports of well-known services; developers run some of them.
const LOWEST: u16 = 20_000;
/// Where the range of outgoing connections begins when the system does not say (Linux: 32,768).
const OUTGOING_BEGINS: u16 = 32_768;
/// With thousands of ports to choose from, this many misses mean something else is wrong.
const TRIES: usize = 1_000;

/// `count` distinct ports, free on 127.0.0.1 at the time of the call.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let end = outgoing_begins().max(LOWEST + 1_000);
    // All are held until the last is found: no port comes twice.
    let mut held: Vec<(u16, TcpListener)> = Vec::with_capacity(count);
    for _ in 0..TRIES {
        if held.len() == count {
            break;
        }
        let port = rand::thread_rng().gen_range(LOWEST..end);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        bail!("found only {} of {count} free ports between {LOWEST} and {end} on 127.0.0.1", held.len());
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

fn outgoing_begins() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(OUTGOING_BEGINS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_below_those_of_outgoing_connections() {
        let ports: std::collections::BTreeSet<u16> = free_ports(9).unwrap().into_iter().collect();
        assert_eq!(ports.len(), 9);
        assert!(ports.iter().all(|port| (LOWEST..outgoing_begins().max(LOWEST + 1_000)).contains(port)));
    }
}
