//! The clocks of machines: wall and monotonic, with skew, drift and jumps. True time is the world's virtual time.

/// What the world's clocks show when a run begins: 10:00 at UTC+7 on Monday 2 March 2026.
pub const START_MS: i64 = 1_772_420_400_000;

/// Invariant: monotonic time never goes back; wall time does whatever faults make it do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// Beyond true time.
    pub offset_ms: i64,
    /// Parts per million by which both clocks run fast.
    pub drift_ppm: i64,
    /// True time at which the drift began, and what it came to before.
    since_us: u64,
    gained_us: i64,
}

impl Clock {
    fn gained(&self, now_us: u64) -> i64 {
        let span = i64::try_from(now_us.saturating_sub(self.since_us)).unwrap_or(i64::MAX);
        self.gained_us + span.saturating_mul(self.drift_ppm) / 1_000_000
    }

    pub fn set_drift(&mut self, now_us: u64, ppm: i64) {
        self.gained_us = self.gained(now_us);
        (self.since_us, self.drift_ppm) = (now_us, ppm);
    }

    /// Monotonic, microseconds since the machine began.
    pub fn mono_us(&self, now_us: u64) -> u64 {
        now_us.saturating_add_signed(self.gained(now_us))
    }

    /// `together_ms`: by how much all clocks of the world have jumped.
    pub fn wall_ms(&self, now_us: u64, together_ms: i64) -> i64 {
        let true_ms = START_MS + i64::try_from(now_us / 1_000).unwrap_or(i64::MAX) + together_ms;
        true_ms + self.offset_ms + self.gained(now_us) / 1_000
    }

    /// True time a span of this clock takes.
    pub fn span_us(&self, span_us: u64) -> u64 {
        let slow = span_us.saturating_mul(1_000_000);
        slow / (1_000_000u64.saturating_add_signed(self.drift_ppm)).max(1)
    }

    /// How far the wall clock is from true time.
    pub fn error_ms(&self, now_us: u64) -> i64 {
        self.offset_ms + self.gained(now_us) / 1_000
    }

    /// Set right again, as time synchronisation does. The monotonic clock keeps what it gained.
    pub fn mend(&mut self, now_us: u64) {
        self.set_drift(now_us, 0);
        self.offset_ms = -self.gained_us / 1_000;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_adds_up_and_monotonic_time_never_goes_back() {
        let mut clock = Clock::default();
        clock.set_drift(1_000_000, 100_000);
        assert_eq!(clock.mono_us(2_000_000), 2_100_000);
        clock.set_drift(2_000_000, -100_000);
        assert_eq!(clock.mono_us(3_000_000), 3_000_000);
        clock.offset_ms = -5_000;
        assert_eq!(clock.wall_ms(3_000_000, 0), START_MS + 3_000 - 5_000);
        clock.mend(2_500_000);
        assert_eq!(clock.error_ms(9_000_000), 0);
        assert_eq!(clock.wall_ms(9_000_000, 60_000), START_MS + 9_000 + 60_000);
    }
}
