//! The binary `okno`: see `okno_node::cli`.

use std::process::ExitCode;

/// Many small allocations from several threads, over months: jemalloc fragments less than the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // First of all: everything that speaks TLS takes the process's provider.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("okno: another cryptography provider is installed");
        return ExitCode::FAILURE;
    }
    okno_node::cli::run()
}
