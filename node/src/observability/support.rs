//! What a node gives to engineers who look for a fault: everything about the node, nothing about people.
//!
//! What keeps personal data out: the parts are built from figures, names and settings, and the log's lines, the only
//! texts of varying origin, pass [`okno_ops::redact`]. Rows, journal, security log and database files are not read.

use super::http::Ops;
use okno_ops::redact;
use okno_storage::rocks::RocksEngine;
use std::fmt::Write;

/// Threads told of; a node has some fifty.
const THREADS_MAX: usize = 1_000;
/// Values of settings with such names are replaced, though settings name files instead of holding secrets.
const SECRET_NAMES: [&str; 5] = ["password", "secret", "token", "passphrase", "private_key"];

/// The parts by their file names. Reads files and the database: call it off the network threads.
pub fn parts(ops: &Ops, engine: Option<&RocksEngine>) -> Vec<(&'static str, Vec<u8>)> {
    let log = redact::log_lines(ops.logs.ring.text().as_bytes());
    vec![
        ("about.txt", about(ops).into_bytes()),
        ("settings.toml", settings(&ops.settings).into_bytes()),
        ("metrics.txt", ops.page().into_bytes()),
        ("log.jsonl", log),
        ("rocksdb.txt", engine.map_or_else(String::new, |engine| engine.report()).into_bytes()),
        ("threads.txt", threads().into_bytes()),
        ("process.txt", process().into_bytes()),
    ]
}

fn about(ops: &Ops) -> String {
    let filter = ops.logs.filter();
    let mut text = String::new();
    let _ = writeln!(text, "node {}", ops.node_id);
    let _ = writeln!(text, "version {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "debug assertions {}", cfg!(debug_assertions));
    let _ = writeln!(text, "up {} s", ops.started.elapsed().as_secs());
    let _ = writeln!(text, "now {}", humantime::format_rfc3339_seconds(std::time::SystemTime::now()));
    let _ = writeln!(text, "log filter {} (settings: {})", filter.filter, filter.configured);
    for path in ["/proc/version", "/proc/loadavg", "/proc/uptime"] {
        let _ = writeln!(text, "{path}: {}", std::fs::read_to_string(path).unwrap_or_default().trim_end());
    }
    text
}

/// The effective settings, with everything replaced that is named like a secret.
fn settings(text: &str) -> String {
    match text.parse::<toml::Table>() {
        Ok(mut table) => {
            hide(&mut table);
            toml::to_string_pretty(&table).unwrap_or_else(|error| format!("# {error}\n"))
        }
        Err(error) => format!("# {error}\n"),
    }
}

fn hide(table: &mut toml::Table) {
    for (name, value) in table.iter_mut() {
        // A path is no secret: `password_file` stays.
        let secret = SECRET_NAMES.iter().any(|part| name.ends_with(part));
        match value {
            toml::Value::Table(inner) => hide(inner),
            value if secret => *value = toml::Value::String("[left out]".into()),
            _ => {}
        }
    }
}

/// Name, state and CPU ticks of every thread.
fn threads() -> String {
    let mut text = String::from("id\tstate\tuser\tsystem\tname\n");
    let Ok(entries) = std::fs::read_dir("/proc/self/task") else { return text };
    for entry in entries.flatten().take(THREADS_MAX) {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name stands in brackets and may hold anything; the fields follow the last one.
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once(" (").map_or("", |(_, name)| name);
        let fields: Vec<&str> = tail.split(' ').collect();
        let field = |place: usize| fields.get(place).copied().unwrap_or_default();
        let id = entry.file_name();
        let _ =
            writeln!(text, "{}\t{}\t{}\t{}\t{name}", id.to_string_lossy(), field(0), field(11), field(12));
    }
    text
}

fn process() -> String {
    let mut text = String::new();
    for path in
        ["/proc/self/status", "/proc/self/limits", "/proc/self/io", "/proc/pressure/io", "/proc/meminfo"]
    {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        let _ = writeln!(text, "== {path}\n{found}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_like_a_secret_is_left_out() {
        let text = settings(
            "[power]\nups = \"ups@localhost\"\npassword = \"s3cret\"\npassword_file = \"/etc/okno/upsd\"\n[a.b]\napi_token = \"t\"\n",
        );
        assert!(!text.contains("s3cret") && !text.contains("\"t\""), "{text}");
        assert!(text.contains("ups@localhost") && text.contains("/etc/okno/upsd"), "{text}");
    }

    #[test]
    fn threads_and_process_are_told() {
        assert!(threads().lines().count() > 1);
        assert!(process().contains("VmRSS"));
    }
}
