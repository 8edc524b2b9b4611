//! A network of the drill's own, and what can be done to it.
//!
//! | module | does |
//! |---|---|
//! | [`lab`] | one network namespace a node, joined by a bridge that the drill's own clients reach too (root) |
//! | [`fault`] | what is lost between two nodes: one way, both ways, some of it, answered with a reset (root) |
//! | [`proxy`] | links through this process, with delay, jitter and a rate: no root needed |
//! | [`half_open`] | connections that say nothing, or vanish |

pub mod fault;
pub mod half_open;
pub mod lab;
pub mod proxy;
