//! What happened: a running hash always, and lines a person can follow when asked for.

use std::fmt::{self, Write as _};

/// Lines kept of a readable trace: the last ones tell why a run failed.
pub const LINES_MAX: usize = 200_000;

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(readable: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: readable.then(Vec::new) }
    }

    /// Mixes in a number; order counts.
    #[inline]
    pub fn mix(&mut self, number: u64) {
        // The multiplication of wyhash: two halves of a 128-bit product.
        let product = u128::from(self.hash ^ number ^ 0xa076_1d64_78bd_642f)
            * u128::from(0xe703_7ed1_a0b4_28db_u64 ^ number);
        self.hash = (product as u64) ^ ((product >> 64) as u64) ^ self.hash.rotate_left(23);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    pub fn on(&self) -> bool {
        self.lines.is_some()
    }

    /// A line; guard what is costly to format by [`Trace::on`].
    pub fn say(&mut self, now_us: u64, what: fmt::Arguments<'_>) {
        let Some(lines) = &mut self.lines else { return };
        if lines.len() >= LINES_MAX {
            lines.drain(..LINES_MAX / 4);
        }
        let mut line = String::with_capacity(80);
        // Writing to a string does not fail.
        let _ = write!(line, "{:>9}.{:03} {what}", now_us / 1_000, now_us % 1_000);
        lines.push(line);
    }

    pub fn lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_what_happened_counts() {
        let hash = |numbers: &[u64]| {
            let mut trace = Trace::new(false);
            numbers.iter().for_each(|n| trace.mix(*n));
            trace.hash()
        };
        assert_eq!(hash(&[1, 2, 3]), hash(&[1, 2, 3]));
        assert_ne!(hash(&[1, 2, 3]), hash(&[1, 3, 2]));
        assert_ne!(hash(&[0]), hash(&[0, 0]));
    }
}
