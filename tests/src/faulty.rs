//! `okno-faulty`, the node with planted faults, for the tests that need one.

use std::path::PathBuf;
use std::process::Command;

/// `OKNO_FAULTY_BIN`, or built into the folder the tests were built into: nothing to do when it is there and fresh. The
/// whole workspace, all planted faults and both programs are named so that it is the same build as `make faulty`.
pub fn faulty() -> PathBuf {
    if let Some(path) = std::env::var_os("OKNO_FAULTY_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running program has a file");
    let release = test.ancestors().nth(2).expect("<target>/release/deps/<test>");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--release", "--locked", "--workspace"])
        .args(["--features", "okno-node/test-faults,okno-chaos/mutants"])
        .args(["--bin", "okno-faulty", "--bin", "okno-chaos-mutants"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("CARGO_TARGET_DIR", release.parent().expect("<target>/release"));
    // What cargo tells a test of its package; some build scripts look at it, and would be run again here and the next time.
    for (name, _) in std::env::vars_os() {
        let told = |text: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|begin| text.starts_with(begin));
        if name.to_str().is_some_and(told) {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "okno-faulty could not be built");
    release.join("okno-faulty")
}
