//! Tools for those who run Okno (R-O1): the command line `oknoctl`, its benchmark, and the shipped catalogue.

pub mod bench;
pub mod cli;
pub mod disk;
pub mod embedded;
pub mod power;
pub mod sample;
