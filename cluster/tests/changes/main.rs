//! Changes of members and copies of the database on virtual clusters of drivers: reviewed transcripts, and random steps.

mod random;
mod scripts;
mod show;
mod world;
