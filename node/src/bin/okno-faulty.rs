//! `okno` with faults built in, for tests of whole clusters: documents with certain notes make their case panic
//! (feature `test-faults`). Never part of a package.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // First of all: everything that speaks TLS takes the process's provider.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("okno-faulty: another cryptography provider is installed");
        return ExitCode::FAILURE;
    }
    okno_node::cli::run()
}
