//! `workstation …`: the part of a workstation as a program of its own, so that a test can kill or stop it
//! ([`okno_drills::programs::workstation`]).

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    okno_drills::programs::workstation::run(&arguments)
}
