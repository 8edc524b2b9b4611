//! Programs of the system, run to their end.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// Runs a program and returns what it printed. Unwinds with what it complained of: the drill cannot do what it is for.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    attempt(program, arguments).unwrap_or_else(|why| panic!("{why}"))
}

/// As [`run`], for clean-up: what cannot be undone is told and not fatal.
pub fn attempt<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    // A user's path may leave out where these programs are.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("{shown}: {}: {}", output.status, errors.trim()))
    }
}
