//! Texts and numbers as the page shows them.

use std::fmt::{self, Display, Write};

/// A text in HTML, also between quotes. What XML has no place for becomes a replacement character.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                '\n' | '\t' => out.write_char(character)?,
                other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => {
                    out.write_char('\u{fffd}')?;
                }
                other => out.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// `1 234 567`, with narrow spaces that do not break.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A number with as many decimals as it is worth: three figures that count.
pub fn decimal(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "–".to_owned();
    }
    if size >= 100.0 || value.fract() == 0.0 {
        let sign = if value < 0.0 { "−" } else { "" };
        // Saturates; nothing measured comes near.
        return format!("{sign}{}", count(size.round() as u64));
    }
    let decimals = if size >= 10.0 {
        1
    } else if size >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.decimals$}").replace('-', "−")
}

/// `850 ms`, `3.4 s`, `2 min 05 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}\u{202f}ms"),
        1_000..60_000 => format!("{}.{}\u{202f}s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{}\u{202f}min {:02}\u{202f}s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// A figure whose name ends in its unit: name without it, value with it.
pub fn figure(name: &str, value: f64) -> (String, String) {
    const UNITS: &[(&str, &str)] = &[
        ("_per_second", "/s"),
        ("_per_s", "/s"),
        ("_percent", "%"),
        ("_mib", "MiB"),
        ("_bytes", "bytes"),
        ("_seconds", "s"),
        ("_ms", "ms"),
        ("_us", "µs"),
        ("_s", "s"),
    ];
    let told = |name: &str| name.replace('_', " ");
    for (suffix, unit) in UNITS {
        if let Some(rest) = name.strip_suffix(suffix).filter(|rest| !rest.is_empty()) {
            return (told(rest), format!("{}\u{202f}{unit}", decimal(value)));
        }
    }
    (told(name), decimal(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let plain = |text: String| text.replace('\u{202f}', " ");
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(|value| plain(count(value))),
            ["0", "999", "1 000", "1 234 567"]
        );
        assert_eq!(
            [0, 999, 3_456, 125_000].map(|ms| plain(duration(ms))),
            ["0 ms", "999 ms", "3.4 s", "2 min 05 s"]
        );
        let decimals = [0.0, 0.1234, 1.2345, 12.345, 1234.5, -2.5, f64::NAN];
        assert_eq!(
            decimals.map(|value| plain(decimal(value))),
            ["0", "0.123", "1.23", "12.3", "1 235", "−2.50", "–"]
        );
        let (name, value) = figure("fsync_p99_ms", 4.25);
        assert_eq!((name.as_str(), plain(value).as_str()), ("fsync p99", "4.25 ms"));
        assert_eq!(figure("elections", 3.0), ("elections".to_owned(), "3".to_owned()));
    }
}
