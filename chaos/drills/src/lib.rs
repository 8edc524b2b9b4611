//! Drills: faults caused on real `okno` processes, and the report of what they did to the service (R-O2).

pub mod harness;
