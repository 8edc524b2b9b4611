//! The pure domain: what cases, queues, the catalogue and the directory decide and how their states fold
//! (design §1: it does not know that it is replicated). No I/O, no clock, no randomness.
