//! Views waiting to be digested: one, the newest (rule 15).
//!
//! Digesting reads every row, which apply must not wait for, and a view pins what it sees, so no more than one may wait.
//! Of markers that come faster than rows are read the newest counts: it takes the place of the one that waits. Members
//! compare index by index, and one that has nothing to say at an index is silent there, never different; and since the
//! last of a burst is digested everywhere, every burst ends in a comparison of all. What was passed over is
//! told and counted.

use okno_storage::state::StateView;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

struct Place<V> {
    waiting: Option<(u64, V)>,
    closed: bool,
}

struct Shared<V> {
    place: Mutex<Place<V>>,
    wake: Condvar,
}

/// The apply thread's end. Dropped, it ends the digesting thread once nothing waits.
pub struct Digests<V = StateView>(Arc<Shared<V>>);

/// The digesting thread's end.
pub struct Views<V = StateView>(Arc<Shared<V>>);

pub fn digests<V>() -> (Digests<V>, Views<V>) {
    let shared =
        Arc::new(Shared { place: Mutex::new(Place { waiting: None, closed: false }), wake: Condvar::new() });
    (Digests(shared.clone()), Views(shared))
}

impl<V> Digests<V> {
    /// Never waits. Returns the index that gave up its place, if one waited.
    pub fn put(&self, index: u64, view: V) -> Option<u64> {
        let before = self.0.place.lock().waiting.replace((index, view));
        self.0.wake.notify_one();
        before.map(|(index, _view)| index)
    }
}

impl<V> Drop for Digests<V> {
    fn drop(&mut self) {
        self.0.place.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl<V> Views<V> {
    /// Waits for the next one; `None`: there will be none.
    pub fn next(&self) -> Option<(u64, V)> {
        let mut place = self.0.place.lock();
        loop {
            if let Some(next) = place.waiting.take() {
                return Some(next);
            }
            if place.closed {
                return None;
            }
            self.0.wake.wait(&mut place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_waits_and_what_it_replaced_is_told() {
        let (digests, views) = digests();
        assert_eq!(digests.put(10, 'a'), None);
        assert_eq!(views.next(), Some((10, 'a')));
        assert_eq!(digests.put(20, 'b'), None);
        assert_eq!(digests.put(30, 'c'), Some(20));
        drop(digests);
        assert_eq!(views.next(), Some((30, 'c')), "what waits is still digested");
        assert_eq!(views.next(), None);
    }

    #[test]
    fn one_that_waits_is_woken() {
        let (digests, views) = digests();
        let taker = std::thread::spawn(move || (views.next(), views.next()));
        digests.put(1, ());
        drop(digests);
        assert_eq!(taker.join().expect("no panic"), (Some((1, ())), None));
    }
}
