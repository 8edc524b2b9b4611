//! Tools for those who run Okno (R-O1): the command line `oknoctl`, its benchmark, backups and
//! restore, and the shipped catalogue.

pub mod backup;
pub mod bench;
pub mod cli;
pub mod disk;
pub mod embedded;
pub mod exposition;
pub mod paper;
pub mod power;
pub mod redact;
pub mod sample;
