//! The bound on how fast a backup reads and writes, so that those at the windows do not notice it.

use std::time::{Duration, Instant};

/// A pause is taken once it is worth a sleep.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// Invariant: over any time since `begun`, no more than `rate` bytes a second and one piece were let through.
pub struct Pace {
    /// Bytes a second; 0: unbounded.
    rate: u64,
    begun: Instant,
    bytes: u64,
}

impl Pace {
    pub fn new(rate: u64) -> Self {
        Self { rate, begun: Instant::now(), bytes: 0 }
    }

    /// Takes note of bytes moved, and sleeps when they came too soon.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let pause = self.due().saturating_sub(self.begun.elapsed());
        if pause >= PAUSE_MIN {
            std::thread::sleep(pause);
        }
    }

    fn due(&self) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(self.bytes as f64 / self.rate as f64)
    }
}

/// Makes the calling thread stand back for the disk and the processor: idle I/O class, and a tenth of the share of others.
/// The last place, nice 19, left it 1.4 % of a core beside a node that was fully at work: a backup must come to an end.
/// Best effort: where the kernel refuses, the rate still bounds the work.
#[allow(unsafe_code)]
pub fn be_humble() {
    const NICE: libc::c_int = 10;
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: both calls take plain numbers, 0 naming the calling thread, and touch no memory.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_time_per_byte_and_none_is_none() {
        let mut pace = Pace::new(1024 * 1024);
        pace.bytes = 512 * 1024;
        assert_eq!(pace.due(), Duration::from_millis(500));
        let free = Pace { rate: 0, begun: Instant::now(), bytes: u64::MAX };
        assert_eq!(free.due(), Duration::ZERO);
    }

    #[test]
    fn moving_takes_the_time_it_may() {
        let begun = Instant::now();
        let mut pace = Pace::new(1024 * 1024);
        for _ in 0..4 {
            pace.moved(16 * 1024);
        }
        assert!(begun.elapsed() >= Duration::from_millis(50), "64 KiB at 1 MiB/s take 62 ms");
    }
}
