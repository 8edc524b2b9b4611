//! What a panic leaves behind, seen from outside of the process: hook, logs and environment belong to a process as a
//! whole, so this program runs itself and is no test harness.

use okno_node::{
    observability::{logs, panics},
    settings::LogSection,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    time::{Duration, Instant},
};

/// In the environment of the process that panics.
const CHILD: &str = "OKNO_TEST_PANICS";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        panics_on_a_thread();
        return;
    }
    // Ask as loudly as the environment can: nobody looks up names for it.
    let (line, took) = outcome(&[("RUST_BACKTRACE", "full")]);
    assert_eq!(line["level"], "ERROR", "{line}");
    assert_eq!(line["panic"], "poisoned case 42", "{line}");
    assert_eq!(line["thread"], "okno-shard-7", "{line}");
    assert!(line["location"].as_str().is_some_and(|text| text.contains("panic_hook.rs:")), "{line}");
    assert!(line.get("backtrace").is_none(), "{line}");
    let (line, with) = outcome(&[(panics::BACKTRACE, "1")]);
    assert!(line["backtrace"].as_str().is_some_and(|text| text.contains("panic_hook.rs")), "{line}");
    let (line, _) = outcome(&[(panics::BACKTRACE, "0")]);
    assert!(line.get("backtrace").is_none(), "{line}");
    println!("a panic holds its thread for {took:?}, with a backtrace for {with:?}");
}

/// The one line the child logs, and how long its panic took.
fn outcome(environment: &[(&str, &str)]) -> (serde_json::Value, Duration) {
    let output = Command::new(std::env::current_exe().expect("a running program has a file"))
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .env_remove(panics::BACKTRACE)
        .envs(environment.iter().copied())
        .env(CHILD, "1")
        .output()
        .expect("it starts itself");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).expect("text");
    let mut lines = told.lines();
    let line = serde_json::from_str(lines.next().expect("a line")).expect("JSON");
    assert_eq!(lines.next(), None, "one line a panic: {told}");
    let took = String::from_utf8(output.stdout).expect("text").trim().parse().expect("microseconds");
    (line, Duration::from_micros(took))
}

fn panics_on_a_thread() {
    logs::install(&LogSection::default()).expect("the filter is good");
    panics::install();
    let thread = std::thread::Builder::new().name("okno-shard-7".into()).spawn(|| {
        let begun = Instant::now();
        let caught = catch_unwind(AssertUnwindSafe(|| panic!("poisoned case {}", 42)));
        println!("{}", begun.elapsed().as_micros());
        assert!(caught.is_err());
    });
    thread.expect("a thread").join().expect("the panic was caught");
}
