//! Cases, queues and the directory from outside: golden scripts, laws as properties, reference values.

mod channel_full;
mod channel_laws;
mod channel_texts;
mod channels;
mod laws;
mod queue_days;
mod queue_durable;
mod queue_figures;
mod queue_script;
mod registry;
mod script;
mod validators;
mod world;
