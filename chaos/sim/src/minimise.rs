//! From a run that fails to the smallest one found that fails alike: fewer steps, fewer kinds of faults, fewer clients.
//!
//! Every kind of fault has its own randomness, so leaving one out leaves the others where they were; still the run takes another
//! course, and not every part that is needless can be left out alone. What is found is small, not smallest of all.

use crate::{
    config::Config,
    run::{Failure, Run},
};
use std::collections::BTreeSet;

/// Runs tried for one failure: a minute at most.
pub const RUNS_MAX: usize = 240;
/// Bisecting ends at this many steps, or at a fiftieth.
const STEPS_NEAR: u64 = 16;

/// A run that fails like the one it came from.
#[derive(Debug, Clone)]
pub struct Smallest {
    pub config: Config,
    pub failure: Failure,
    /// Runs it took to find it.
    pub runs: usize,
}

/// `None`: the run does not fail.
pub fn minimise(config: &Config) -> Option<Smallest> {
    let config = Config { trace: false, ..config.clone() };
    let report = Run::new(config.clone()).execute();
    let failure = report.failure?;
    let mut smaller = config.clone();
    if report.steps > 0 {
        // What happened after the failure, and kinds that did not happen before it, have no part in it.
        smaller.steps = config.steps.min(report.steps + 1);
        let happened: BTreeSet<_> = report.injected.keys().copied().collect();
        smaller.kinds = &config.kinds & &happened;
    }
    Some(minimise_by(&config, &smaller, failure, &mut |tried| Run::new(tried.clone()).execute().failure))
}

/// As [`minimise`], by any way of telling whether a run fails. `guess` is tried first.
pub fn minimise_by(
    config: &Config,
    guess: &Config,
    failure: Failure,
    fails: &mut dyn FnMut(&Config) -> Option<Failure>,
) -> Smallest {
    let mut best = Smallest { config: config.clone(), failure, runs: 0 };
    let mut attempt = |best: &mut Smallest, tried: Config| {
        if best.runs >= RUNS_MAX || tried == best.config {
            return false;
        }
        best.runs += 1;
        match fails(&tried).filter(|failure| failure.invariant == best.failure.invariant) {
            Some(failure) => {
                (best.config, best.failure) = (tried, failure);
                true
            }
            None => false,
        }
    };
    if !attempt(&mut best, guess.clone()) {
        let fewer = Config { steps: guess.steps, ..best.config.clone() };
        attempt(&mut best, fewer);
    }
    // Twice: fewer kinds may need fewer steps.
    for _ in 0..2 {
        let mut low = 0;
        while best.config.steps.saturating_sub(low) > STEPS_NEAR.max(best.config.steps / 50) {
            let middle = low + (best.config.steps - low) / 2;
            let tried = Config { steps: middle, ..best.config.clone() };
            if !attempt(&mut best, tried) {
                low = middle;
            }
        }
        for kind in best.config.kinds.clone() {
            let mut tried = best.config.clone();
            tried.kinds.remove(&kind);
            attempt(&mut best, tried);
        }
    }
    for clients in 1..=3 {
        let tried = Config { clients: Some(clients), ..best.config.clone() };
        if best.config.clients.is_none_or(|known| clients < known) && attempt(&mut best, tried) {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use okno_checks::invariants::Invariant;

    #[test]
    fn what_has_no_part_in_a_failure_is_left_out() {
        let failure = |invariant| Failure { invariant: Some(invariant), detail: String::new() };
        let mut fails = |tried: &Config| {
            let lost = tried.steps >= 700 && tried.kinds.contains(&Kind::PowerLoss);
            // Another failure than the one looked for.
            let other = tried.steps < 300;
            match (lost, other) {
                (true, _) => Some(failure(Invariant::Acknowledged)),
                (_, true) => Some(failure(Invariant::Progress)),
                _ => None,
            }
        };
        let config = Config::new(9);
        let found = minimise_by(&config, &config, failure(Invariant::Acknowledged), &mut fails);
        assert_eq!(found.config.kinds, [Kind::PowerLoss].into());
        assert!((700..=720).contains(&found.config.steps), "{}", found.config.steps);
        assert_eq!(found.config.clients, Some(1));
        assert!(found.runs <= RUNS_MAX);
    }
}
