//! `okno` with faults built in, for tests of whole clusters and drills; never part of a package.
//!
//! Documents with certain notes make their case panic (feature `test-faults`); the environment variable `OKNO_MUTANT`
//! names one planted fault (`okno_storage::planted`), and a name that is none ends the process as wrong usage.
//! With `OKNO_NEXT_RELEASE` set it acts as the release after this one: it knows one feature level more, and from that
//! level on writes what this release cannot read (`okno_storage::level`).

use okno_storage::planted::{self, Mutant};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Names the planted fault of this process.
const MUTANT: &str = "OKNO_MUTANT";
/// Set: the process acts as the next release.
const NEXT_RELEASE: &str = "OKNO_NEXT_RELEASE";
/// Exit code of wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Err(message) = choose_mutant() {
        eprintln!("okno-faulty: {message}");
        return ExitCode::from(USAGE);
    }
    if std::env::var_os(NEXT_RELEASE).is_some_and(|value| !value.is_empty()) {
        planted::be_next_release();
    }
    // First of all: everything that speaks TLS takes the process's provider.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("okno-faulty: another cryptography provider is installed");
        return ExitCode::FAILURE;
    }
    okno_node::cli::run()
}

fn choose_mutant() -> Result<(), String> {
    let name = match std::env::var(MUTANT) {
        Ok(name) if !name.is_empty() => name,
        Ok(_) | Err(std::env::VarError::NotPresent) => return Ok(()),
        Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{MUTANT} is not text")),
    };
    let chosen = planted::choose_by_name(&name).map_err(|unknown| {
        let known: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        format!("{MUTANT}={unknown} is no planted fault; known are {}", known.join(", "))
    })?;
    eprintln!("okno-faulty: planted fault {}", chosen.name());
    Ok(())
}
