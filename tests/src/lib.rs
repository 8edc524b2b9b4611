//! Tests of whole clusters of real processes. What starts and hurts them is the drills' harness, shared so that a test
//! and a drill mean the same by "a node is killed".

pub use okno_drills::harness::*;

mod faulty;
pub mod station;

pub use faulty::faulty;
