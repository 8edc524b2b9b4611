//! Tests of the runtime: golden scripts for the pure cores, properties, golden records, and the whole of it in
//! one process over the real apply step and a log of one node.

mod bench;
mod cell_scripts;
mod channel_keeper;
mod channel_samples;
mod codec_golden;
mod courier_core;
mod failures;
mod flows;
mod fold;
mod forwarding;
mod node;
mod probe;
mod shard_scripts;
mod timers_core;
mod world;
