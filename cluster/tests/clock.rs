//! Properties of the clock guard (rule 7).

use okno_cluster::{
    api::StampError,
    core::clock::{AGREE_MS, ClockGuard, HEARD_WITHIN_MS, STEP_MS, TOLERANCE_MS, Verdict, stamp},
};
use proptest::prelude::*;

const NOW: u64 = 1_000_000;
const WALL: i64 = 1_790_000_000_000;

fn guard(voters: usize, offsets: &[i64]) -> Verdict {
    let mut guard = ClockGuard::new(voters);
    for (node, offset) in (2..).zip(offsets) {
        guard.hear(node, WALL + offset, NOW);
    }
    guard.verdict(WALL, NOW)
}

proptest! {
    #[test]
    fn never_before_replicated_time(own in -STEP_MS * 2..STEP_MS * 2, offsets in prop::collection::vec(-STEP_MS * 2..STEP_MS * 2, 0..4)) {
        let verdict = guard(offsets.len() + 1, &offsets);
        if let Ok(time) = stamp(&verdict, WALL + own, WALL) {
            prop_assert!(time >= WALL);
        }
    }

    #[test]
    fn at_most_the_lower_median_and_the_tolerance(offsets in prop::collection::vec(-STEP_MS * 2..STEP_MS * 2, 2..6)) {
        let verdict = guard(offsets.len() + 1, &offsets);
        let mut clocks: Vec<i64> = offsets.iter().map(|o| WALL + o).chain([WALL]).collect();
        clocks.sort_unstable();
        let median = clocks[(clocks.len() - 1) / 2];
        // Replicated time far behind, so that it does not lift the stamp; nothing applied, so that no step is refused.
        let time = stamp(&verdict, WALL, 0).expect("the first commit is exempt");
        prop_assert!(time <= median + TOLERANCE_MS);
        prop_assert!(time <= WALL);
        // A clock within the tolerance of the median is taken as it is.
        if WALL <= median + TOLERANCE_MS {
            prop_assert_eq!(time, WALL);
        }
    }

    #[test]
    fn a_minority_of_clocks_cannot_make_time_jump(lie in STEP_MS..STEP_MS * 1_000, truth in -400i64..400) {
        // This leader's clock leapt; the two others show the truth.
        let verdict = guard(3, &[-lie + truth, -lie - truth]);
        let replicated = WALL - lie;
        let time = stamp(&verdict, WALL, replicated).expect("two agree, and they hold it back");
        prop_assert!(time <= replicated + 400 + TOLERANCE_MS);
    }

    #[test]
    fn a_step_needs_a_majority_that_agrees(step in STEP_MS + 1..STEP_MS * 100, apart in AGREE_MS + 1..STEP_MS) {
        // Nobody agrees with anybody.
        let verdict = guard(3, &[apart, 2 * apart]);
        prop_assert_eq!(stamp(&verdict, WALL, WALL - step), Err(StampError::ClockStep));
        // One other voter does: time that stood still while the power was off moves on.
        let verdict = guard(3, &[AGREE_MS / 2]);
        prop_assert_eq!(stamp(&verdict, WALL, WALL - step), Ok(WALL));
        // Alone of three: no majority.
        let verdict = guard(3, &[]);
        prop_assert_eq!(stamp(&verdict, WALL, WALL - step), Err(StampError::ClockStep));
        // One voter agrees with itself.
        let verdict = guard(1, &[]);
        prop_assert_eq!(stamp(&verdict, WALL, WALL - step), Ok(WALL));
    }

    #[test]
    fn a_clock_not_heard_lately_does_not_count(offset in STEP_MS..STEP_MS * 10) {
        let mut guard = ClockGuard::new(3);
        guard.hear(2, WALL - offset, NOW);
        guard.hear(3, WALL - offset, NOW + 1);
        prop_assert_eq!(guard.verdict(WALL, NOW + HEARD_WITHIN_MS).clocks, 3);
        prop_assert_eq!(guard.verdict(WALL, NOW + HEARD_WITHIN_MS + 1).clocks, 2);
        prop_assert_eq!(guard.offset(2, WALL, NOW + HEARD_WITHIN_MS + 1), None);
        prop_assert_eq!(guard.verdict(WALL, NOW + HEARD_WITHIN_MS + 2), Verdict::alone(3));
    }
}

/// Found by the simulator: for as long as nobody was heard again, a leader whose clock had leapt stamped the leap.
#[test]
fn a_leap_of_the_own_clock_is_held_back_before_anybody_is_heard_again() {
    let mut guard = ClockGuard::new(3);
    guard.hear(2, WALL, NOW);
    guard.hear(3, WALL, NOW);
    let (later, now) = (WALL + 40, NOW + 40);
    let leapt = later + 3 * 3_600_000;
    let held = stamp(&guard.verdict(leapt, now), leapt, WALL);
    assert_eq!(held, Ok(later + TOLERANCE_MS));
    // Of two clocks none is right: what would be a step is refused at once, too.
    let mut guard = ClockGuard::new(3);
    guard.hear(2, WALL, NOW);
    assert_eq!(stamp(&guard.verdict(leapt, now), leapt, WALL), Err(StampError::ClockStep));
    assert_eq!(guard.offset(2, later, now), Some(0), "the others' clocks run on");
}

#[test]
fn an_outlier_is_one_only_among_three() {
    assert!(guard(3, &[-AGREE_MS - 1, -AGREE_MS - 1]).outlier());
    assert!(!guard(3, &[-AGREE_MS - 1]).outlier());
    assert!(guard(3, &[-AGREE_MS - 1]).alarm());
    assert!(!guard(3, &[100, -100]).alarm());
}
