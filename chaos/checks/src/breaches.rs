//! What judges find broken, the first of it: a broken run breaks the same thing thousands of times.

use crate::invariants::Invariant;

/// What broke, and how.
pub type Breach = (Invariant, String);

/// Breaches kept until somebody takes them: the first ones tell.
const KEPT_MAX: usize = 32;

/// Breaches in the order they were found.
#[derive(Debug, Clone, Default)]
pub struct Breaches(Vec<Breach>);

impl Breaches {
    pub fn add(&mut self, id: Invariant, text: String) {
        if self.0.len() < KEPT_MAX {
            self.0.push((id, text));
        }
    }

    /// All so far; from here on it is empty.
    pub fn take(&mut self) -> Vec<Breach> {
        std::mem::take(&mut self.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Breach> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_are_kept_and_taken_once() {
        let mut breaches = Breaches::default();
        for number in 0..KEPT_MAX + 5 {
            breaches.add(Invariant::Progress, number.to_string());
        }
        let taken = breaches.take();
        assert_eq!(taken.len(), KEPT_MAX);
        assert_eq!((taken[0].1.as_str(), taken[KEPT_MAX - 1].1.as_str()), ("0", "31"));
        assert_eq!(breaches.take(), []);
    }
}
