//! Takes out of a text what could be personal data: for what leaves the machines to be looked at by others.
//!
//! Our logs are written in English about ids, indexes and codes, and personal data are not put into them. This is the
//! second lock on the same door, and it is mechanical: Cyrillic words, numbers as long as a phone's, SNILS or
//! passport's, and mail addresses are replaced, whoever wrote them there and why. It takes out too much rather than
//! too little: a long index in a message goes too, while figures of their own fields stay.

/// Phones have 10 or 11 digits, SNILS 11, passports 10, INN 10 or 12.
const DIGITS_MIN: usize = 9;
/// Digits of ids beyond this are hashes, which nobody can be called by.
const DIGITS_MAX: usize = 24;

pub const WORD: &str = "[word]";
pub const NUMBER: &str = "[number]";
pub const ADDRESS: &str = "[address]";

/// The text without what could be personal.
pub fn text(input: &str) -> String {
    numbers(&words(&addresses(input)))
}

/// Lines of a log, JSON objects as a rule: texts are sieved, figures of their own fields stay.
pub fn log_lines(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len());
    for line in String::from_utf8_lossy(input).lines() {
        let sieved = match serde_json::from_str::<serde_json::Value>(line) {
            Ok(mut value) => {
                sieve(&mut value);
                value.to_string()
            }
            Err(_) => text(line),
        };
        out.extend_from_slice(sieved.as_bytes());
        out.push(b'\n');
    }
    out
}

fn sieve(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(string) => *string = text(string),
        Value::Array(items) => items.iter_mut().for_each(sieve),
        Value::Object(fields) => fields.values_mut().for_each(sieve),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_cyrillic(letter: char) -> bool {
    ('\u{0400}'..='\u{052F}').contains(&letter)
}

/// Cyrillic words; several in a row, with initials and hyphens, become one mark.
fn words(input: &str) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(start) = rest.find(is_cyrillic) {
        out.push_str(&rest[..start]);
        let tail = &rest[start..];
        let mut end = 0;
        for (place, letter) in tail.char_indices() {
            if is_cyrillic(letter) {
                end = place + letter.len_utf8();
            } else if !matches!(letter, ' ' | '-' | '.' | '«' | '»' | '\'') {
                break;
            }
        }
        out.push_str(WORD);
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

/// Anything around an `@` that has a dot behind it.
fn addresses(input: &str) -> String {
    let part = |letter: char| letter.is_alphanumeric() || matches!(letter, '.' | '_' | '-' | '+' | '@');
    let mut out = String::with_capacity(input.len());
    let mut token = String::new();
    let flush = |token: &mut String, out: &mut String| {
        let is_address =
            token.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
        out.push_str(if is_address { ADDRESS } else { token });
        token.clear();
    };
    for letter in input.chars() {
        if part(letter) {
            token.push(letter);
        } else {
            flush(&mut token, &mut out);
            out.push(letter);
        }
    }
    flush(&mut token, &mut out);
    out
}

/// Long numbers, with the signs people write between their digits; what is part of a word (a hash, a UUID) stays.
fn numbers(input: &str) -> String {
    let letters: Vec<char> = input.chars().collect();
    let mut out = String::with_capacity(input.len());
    let mut at = 0;
    while at < letters.len() {
        let begins = letters[at].is_ascii_digit() || (letters[at] == '+' || letters[at] == '(');
        let free = at == 0 || !is_word(letters[at - 1]);
        if !(begins && free) {
            out.push(letters[at]);
            at += 1;
            continue;
        }
        let (mut end, mut last, mut digits, mut gap) = (at, at, 0, 0);
        while end < letters.len() {
            if letters[end].is_ascii_digit() {
                digits += 1;
                gap = 0;
                last = end + 1;
            } else if matches!(letters[end], ' ' | '-' | '(' | ')' | '+') && gap < 2 {
                gap += 1;
            } else {
                break;
            }
            end += 1;
        }
        let whole = letters.get(last).is_none_or(|next| !is_word(*next));
        if whole && (DIGITS_MIN..=DIGITS_MAX).contains(&digits) {
            out.push_str(NUMBER);
        } else {
            out.extend(&letters[at..last.max(at + 1)]);
        }
        at = last.max(at + 1);
    }
    out
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_personal_goes() {
        for (input, expected) in [
            ("applicant Примеров Пётр-Иван О. opened", "applicant [word]. opened"),
            ("call +7 (900) 000-12-34 now", "call [number] now"),
            ("snils=112-233-445 95", "snils=[number]"),
            ("snils 11223344595.", "snils [number]."),
            ("passport 4500 123456", "passport [number]"),
            ("mail primerov@example.org sent", "mail [address] sent"),
            ("\"Тихая\"", "\"[word]\""),
        ] {
            assert_eq!(text(input), expected);
        }
    }

    #[test]
    fn what_engineers_need_stays() {
        for input in [
            "index 12345678, term 7",
            "case/0198c0de-7a11-7c0d-8a5f-2b8b5f3a9c1d",
            "2026-11-22T02:15:42Z",
            "127.0.0.1:7400",
            "hash 0011223344556677889900112233445566778899",
            "node 1 at host.example:7401",
            "ratio 0.123456",
        ] {
            assert_eq!(text(input), input);
        }
    }
}
