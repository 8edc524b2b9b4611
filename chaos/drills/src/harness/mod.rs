//! Whole clusters of real processes, for drills and tests: started through the binary `okno`, spoken to through the public
//! interface, hurt through signals and files.
//!
//! | module | does |
//! |---|---|
//! | [`channel`] | a channel, what cases ask it, and connectors that speak the wire themselves |
//! | [`cluster`] | nodes as child processes: start, kill, stop, pause, wait |
//! | [`desk`] | one caller's calls, short to write |
//! | [`http`] | a node's own port of figures and health |
//! | [`load`] | writers beside a test, and the check that everything acknowledged is there once on every node |
//! | [`members`] | nodes that come and go, and `oknoctl` |
//! | [`people`] | visitors, all made up, with valid check digits |
//! | [`plan`] | which binary, at which addresses, with data where, launched by what |
//! | [`process`] | one node's process and its end |
//! | [`queue`] | settings of a queue, and a window as it is |
//! | [`station`] | workstations and connectors that are processes of their own |
//! | [`pki`] | certificates no development cluster hands out: of other authorities, kinds and clusters; revocations |
//!
//! Rules: one waits for conditions with a deadline, never for time to pass; one cluster runs at a time on a machine
//! (a file lock), so that timings mean something; what is learned from a node goes through that node's own
//! endpoint. An expectation that does not hold unwinds: a test fails by it, and a drill's runner reports it.

pub mod channel;
pub mod cluster;
pub mod desk;
pub mod http;
pub mod load;
pub mod members;
pub mod people;
pub mod pki;
pub mod plan;
pub mod process;
pub mod queue;
pub mod station;
pub mod ups;

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often a condition is asked for.
pub const POLL: Duration = Duration::from_millis(20);

/// Asks until the answer is there; panics with the last objection when `within` has passed.
pub async fn eventually<T, E: Debug, F>(what: &str, within: Duration, ask: F) -> T
where
    F: AsyncFnMut() -> Result<T, E>,
{
    in_time(what, within, ask).await.unwrap_or_else(|objection| panic!("{objection}"))
}

/// As [`eventually`]; the error says in words what was not there.
pub async fn in_time<T, E: Debug, F>(what: &str, within: Duration, mut ask: F) -> Result<T, String>
where
    F: AsyncFnMut() -> Result<T, E>,
{
    let until = Instant::now() + within;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(objection) if Instant::now() > until => {
                return Err(format!("{what}: not within {within:?}: {objection:?}"));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
