//! What `okno dev` says: one line a step, each with the time since the start. People read it in Russian.

use std::io::Write;
use std::time::Instant;

/// Writes the story. Lines go out whole and at once, so that another program can follow them.
#[derive(Clone)]
pub struct Terminal {
    begun: Instant,
}

impl Terminal {
    pub fn new() -> Self {
        Self { begun: Instant::now() }
    }

    /// A line without a time: headings and instructions.
    pub fn plain(&self, text: &str) {
        write_line(text);
    }

    /// A step.
    pub fn say(&self, text: &str) {
        write_line(&format!("{:>7} с  {text}", decimal(self.begun.elapsed().as_secs_f64(), 2)));
    }
}

/// A reader who went away (a closed pipe) is no reason to fail: the cluster is what matters.
fn write_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// A number with a decimal comma.
pub fn decimal(value: f64, places: usize) -> String {
    format!("{value:.places$}").replace('.', ",")
}

/// "1 узел", "3 узла", "16 узлов": the form of a noun that a count asks for.
pub fn counted(count: usize, one: &str, few: &str, many: &str) -> String {
    let form = match (count % 10, count % 100) {
        (_, 11..=14) => many,
        (1, _) => one,
        (2..=4, _) => few,
        _ => many,
    };
    format!("{count} {form}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_their_russian_forms() {
        let nodes = |count| counted(count, "узел", "узла", "узлов");
        assert_eq!(nodes(1), "1 узел");
        assert_eq!(nodes(3), "3 узла");
        assert_eq!(nodes(11), "11 узлов");
        assert_eq!(nodes(14), "14 узлов");
        assert_eq!(nodes(16), "16 узлов");
        assert_eq!(nodes(21), "21 узел");
        assert_eq!(nodes(112), "112 узлов");
    }

    #[test]
    fn decimals_have_a_comma() {
        assert_eq!(decimal(1.25, 2), "1,25");
    }
}
