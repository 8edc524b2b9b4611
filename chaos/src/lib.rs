//! The command line of `okno-chaos`.

/// Runs the command line.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
