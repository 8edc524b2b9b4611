//! What a panic leaves behind: one line in the log.
//!
//! A panic of an entity is caught and told (rule 13), so it is an event like others and belongs where those are. The
//! standard hook writes to the terminal, and with `RUST_BACKTRACE` in the environment it looks up names for a
//! backtrace while the shard stands: a quarter of a second in which the neighbours wait. Here only
//! `OKNO_BACKTRACE=1` asks for one.

use std::{
    backtrace::Backtrace,
    panic::{self, PanicHookInfo},
};

/// The variable that asks for backtraces; for whoever looks for a fault and accepts that shards stand meanwhile.
pub const BACKTRACE: &str = "OKNO_BACKTRACE";

/// Takes the place of the standard hook, for the whole process. Call it when logs are installed.
pub fn install() {
    let backtrace = std::env::var_os(BACKTRACE).is_some_and(|value| value == "1");
    panic::set_hook(Box::new(move |panic| tell(panic, backtrace)));
}

fn tell(panic: &PanicHookInfo<'_>, backtrace: bool) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message = message_of(panic);
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    if backtrace {
        let backtrace = Backtrace::force_capture();
        tracing::error!(thread, location, panic = message, %backtrace, "panicked");
    } else {
        tracing::error!(thread, location, panic = message, "panicked");
    }
}

/// What the panic said; panics of other types than text are not ours.
fn message_of<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("not a text")
}
