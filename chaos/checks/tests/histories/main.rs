//! The checks on histories: committed bad ones are rejected for what is wrong with them, committed good ones and
//! generated ones are accepted, and what a generated one is made to lie about is found.

mod committed;
mod generated;
mod table;
