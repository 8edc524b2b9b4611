//! The policies of a channel as functions: pace, back-off, circuit breaker. All their memory is in [`Account`] and in the
//! message; both are written by commits that happen anyway, so that a new leader goes on where the old one was.

use super::{
    settings::{BreakerSettings, Rate, Retry, Settings},
    types::{Account, Breaker},
};

/// May one more leave now under the rate limit? Then the memory after it; otherwise when it may, milliseconds.
pub(super) fn pace(rate: Option<&Rate>, paced_us: i64, now_ms: i64) -> Result<i64, i64> {
    let Some(rate) = rate else { return Ok(paced_us) };
    let now_us = now_ms.saturating_mul(1_000);
    let interval_us = interval_us(rate);
    let ahead_us = interval_us.saturating_mul(i64::from(rate.burst.max(1)) - 1);
    if paced_us.saturating_sub(ahead_us) <= now_us {
        Ok(paced_us.max(now_us).saturating_add(interval_us))
    } else {
        Err(div_up(paced_us - ahead_us, 1_000))
    }
}

/// The memory of the rate limit under new settings: as much ahead as a whole burst of theirs, at most.
pub(super) fn repaced(rate: Option<&Rate>, paced_us: i64, now_ms: i64) -> i64 {
    let Some(rate) = rate else { return paced_us };
    let burst_us = interval_us(rate).saturating_mul(i64::from(rate.burst.max(1)));
    paced_us.min(now_ms.saturating_mul(1_000).saturating_add(burst_us))
}

fn interval_us(rate: &Rate) -> i64 {
    // Settings are checked: neither is 0, and the quotient fits.
    (i64::from(rate.per_ms) * 1_000 / i64::from(rate.messages.max(1))).max(1)
}

fn div_up(value: i64, by: i64) -> i64 {
    value.div_euclid(by) + i64::from(value.rem_euclid(by) > 0)
}

/// How long to wait after the `attempts`-th failure: half of what the settings say, and by chance up to all of it, so that
/// what failed together does not come back together.
pub(super) fn back_off(retry: &Retry, attempts: u32, chance: u64) -> i64 {
    let doubled = u64::from(retry.base_ms) << attempts.saturating_sub(1).min(31);
    let whole = doubled.min(u64::from(retry.max_ms)).max(1);
    let half = whole / 2;
    i64::try_from(half + chance % (whole - half + 1)).unwrap_or(i64::MAX)
}

impl Account {
    /// How many may be out at once as far as the breaker goes; `Err`: none before then.
    pub(super) fn permits(&self, settings: &Settings, now_ms: i64) -> Result<usize, i64> {
        let Some(breaker) = &settings.breaker else { return Ok(usize::MAX) };
        match self.breaker {
            Breaker::Closed { .. } => Ok(usize::MAX),
            Breaker::Open { until_ms, .. } if now_ms < until_ms => Err(until_ms),
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => Ok(usize::from(breaker.probes)),
        }
    }

    /// A message is handed out: an open breaker whose time is over is half open from here on.
    pub(super) fn probe(&mut self) {
        if let Breaker::Open { trips, .. } = self.breaker {
            self.breaker = Breaker::HalfOpen { trips };
        }
    }

    /// The other side answered, be it with a rejection.
    pub(super) fn succeeded(&mut self) {
        // What was under way when it opened proves nothing about now.
        if !matches!(self.breaker, Breaker::Open { .. }) {
            self.breaker = Breaker::Closed { failures: 0 };
        }
    }

    /// The other side did not answer, or not as it should.
    pub(super) fn failed(&mut self, settings: Option<&BreakerSettings>, now_ms: i64) {
        let Some(settings) = settings else { return };
        let open = |trips: u32| {
            let span = u64::from(settings.open_ms) << trips.saturating_sub(1).min(31);
            let span = span.min(u64::from(settings.open_max_ms));
            Breaker::Open { until_ms: now_ms.saturating_add(span as i64), trips }
        };
        self.breaker = match self.breaker {
            Breaker::Closed { failures } if failures + 1 >= settings.failures => open(1),
            Breaker::Closed { failures } => Breaker::Closed { failures: failures + 1 },
            Breaker::HalfOpen { trips } => open(trips.saturating_add(1)),
            opened @ Breaker::Open { .. } => opened,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_even_after_a_burst() {
        let rate = Rate { messages: 2, per_ms: 1_000, burst: 3 };
        let (mut paced, mut left) = (0, Vec::new());
        for now in (5_000..8_000).step_by(10) {
            while let Ok(after) = pace(Some(&rate), paced, now) {
                paced = after;
                left.push(now);
            }
        }
        assert_eq!(left, [5_000, 5_000, 5_000, 5_500, 6_000, 6_500, 7_000, 7_500]);
        assert_eq!(pace(Some(&rate), paced, 7_999), Err(8_000));
        assert_eq!(pace(None, 7, 0), Ok(7));
        // A hundred taken at one an hour: under a faster pace nobody waits for them.
        let owed = 100 * 3_600 * 1_000_000;
        assert_eq!(repaced(Some(&rate), owed, 1_000), 1_000_000 + 3 * 500_000);
        assert_eq!(repaced(Some(&rate), 7, 1_000), 7);
        assert_eq!(repaced(None, owed, 1_000), owed);
    }

    #[test]
    fn back_off_doubles_within_its_bounds() {
        let retry = Retry { attempts: 9, base_ms: 100, max_ms: 1_000 };
        for (attempts, whole) in [(1, 100), (2, 200), (4, 800), (5, 1_000), (40, 1_000)] {
            for chance in [0, 1, 77, u64::MAX] {
                let pause = back_off(&retry, attempts, chance);
                assert!((whole / 2..=whole).contains(&pause), "{attempts}: {pause}");
            }
        }
        assert_ne!(back_off(&retry, 5, 1), back_off(&retry, 5, 2));
    }

    #[test]
    fn a_breaker_opens_longer_each_time_and_closes_on_an_answer() {
        let own = BreakerSettings { failures: 2, open_ms: 10, open_max_ms: 25, probes: 1 };
        let settings = Settings { breaker: Some(own), ..Settings::default() };
        let mut account = Account::default();
        account.failed(Some(&own), 0);
        assert_eq!(account.permits(&settings, 0), Ok(usize::MAX));
        account.failed(Some(&own), 0);
        assert_eq!(account.permits(&settings, 9), Err(10));
        for (now, until) in [(10, 30), (30, 55), (60, 85)] {
            assert_eq!(account.permits(&settings, now), Ok(1));
            account.probe();
            account.failed(Some(&own), now);
            assert_eq!(account.permits(&settings, now), Err(until));
        }
        account.succeeded();
        assert_eq!(account.breaker.name(), "open", "an answer from before tells nothing");
        account.probe();
        account.succeeded();
        assert_eq!(account.breaker, Breaker::Closed { failures: 0 });
        account.failed(None, 0);
        assert_eq!(account.breaker, Breaker::Closed { failures: 0 }, "without settings there is none");
    }
}
