//! The command line of Okno; everything is in `okno_ops::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    okno_ops::cli::main()
}
