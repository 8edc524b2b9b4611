//! Cases, queues and the directory from outside: golden scripts, laws as properties, reference values.

mod laws;
mod registry;
mod script;
mod validators;
mod world;
