//! Pure state machines of the cluster: no I/O, no clock, no threads, no randomness but the seed's.
