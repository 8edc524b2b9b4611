//! `okno-chaos`: breaks Okno on purpose and tells what it saw.

fn main() -> std::process::ExitCode {
    okno_chaos::run()
}
