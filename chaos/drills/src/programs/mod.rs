//! Parts that a drill or test gives to processes of their own, so that it can kill or stop them: `okno-chaos play PART …`.
//!
//! | part | is |
//! |---|---|
//! | [`workstation`] | the program of a workstation |
//! | [`connector`] | a connector on the SDK, which answers every message with its body turned round |
//!
//! Each says on standard output what it does, a line each; whoever started it reads along.

pub mod connector;
pub mod workstation;

use okno_client::{Client, Settings, TlsFiles};
use std::io::Write as _;
use std::process::ExitCode;

/// Plays the part that the arguments name, until it is ended.
pub fn play(arguments: &[String]) -> ExitCode {
    match arguments.split_first() {
        Some((part, rest)) if part == "workstation" => workstation::run(rest),
        Some((part, rest)) if part == "connector" => connector::run(rest),
        _ => usage("play workstation|connector …"),
    }
}

fn usage(text: &str) -> ExitCode {
    eprintln!("usage: {text}");
    ExitCode::from(2)
}

fn caller(
    cluster: &str,
    ca: &str,
    cert: &str,
    key: &str,
    endpoints: &[String],
) -> Result<Client, okno_client::SetupError> {
    let tls = TlsFiles { ca: ca.into(), cert: cert.into(), key: key.into() };
    let mut settings = Settings::new(endpoints.to_vec(), tls);
    cluster.clone_into(&mut settings.cluster);
    Client::new(settings)
}

/// Whoever reads may be gone: then nobody needs to know.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
