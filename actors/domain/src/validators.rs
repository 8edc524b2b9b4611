//! Checks of the field's numbers and texts: form and check digits.
//!
//! Each function answers with what was expected when the text is wrong. An official sample of a state system
//! breaks its own check digit, so what arrives from outside is only warned about; what an officer types is refused
//! (`crate::case::check` decides which). An empty text is never valid here: whether it may be missing, the caller knows.

use crate::{
    entity::Refusal,
    refusal::{FIELD_INVALID, FIELD_TOO_LONG, refuse},
};

/// `Err`: what was expected.
pub type Check = Result<(), &'static str>;

/// СНИЛС: eleven digits, separators allowed; the last two are Σ digitᵢ·(9…1) mod 101 with 100 → 00. Numbers up to
/// 001-001-998 carry no check digits.
pub fn snils(text: &str) -> Check {
    const EXPECTED: &str = "СНИЛС of 11 digits with its check digits, e.g. 112-233-445 95";
    let digits = digits_of(text, &['-', ' ']).ok_or(EXPECTED)?;
    let [number @ .., tens, ones] = digits.as_slice() else { return Err(EXPECTED) };
    if number.len() != 9 {
        return Err(EXPECTED);
    }
    let value = number.iter().fold(0, |value, digit| value * 10 + digit);
    if value == 0 {
        return Err(EXPECTED);
    }
    let sum: u32 = number.iter().zip((1..=9).rev()).map(|(digit, weight)| digit * weight).sum();
    if value <= 1_001_998 || sum % 101 % 100 == tens * 10 + ones { Ok(()) } else { Err(EXPECTED) }
}

/// ИНН of a legal entity: ten digits, the last a check digit.
pub fn inn_of_entity(text: &str) -> Check {
    const EXPECTED: &str = "ИНН of 10 digits with its check digit";
    let digits = digits_of(text, &[]).filter(|digits| digits.len() == 10).ok_or(EXPECTED)?;
    if not_all_zero(&digits) && inn_digit(&digits, &[2, 4, 10, 3, 5, 9, 4, 6, 8]) {
        Ok(())
    } else {
        Err(EXPECTED)
    }
}

/// ИНН of a person: twelve digits, the last two check digits.
pub fn inn_of_person(text: &str) -> Check {
    const EXPECTED: &str = "ИНН of 12 digits with its check digits";
    let digits = digits_of(text, &[]).filter(|digits| digits.len() == 12).ok_or(EXPECTED)?;
    let first = inn_digit(&digits, &[7, 2, 4, 10, 3, 5, 9, 4, 6, 8]);
    let second = inn_digit(&digits, &[3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8]);
    if not_all_zero(&digits) && first && second { Ok(()) } else { Err(EXPECTED) }
}

/// ОГРН: thirteen digits; the first twelve as a number mod 11 mod 10 give the last.
pub fn ogrn(text: &str) -> Check {
    const EXPECTED: &str = "ОГРН of 13 digits with its check digit";
    if remainder_digit(text, 13, 11) { Ok(()) } else { Err(EXPECTED) }
}

/// ОГРНИП: fifteen digits; the first fourteen as a number mod 13 mod 10 give the last.
pub fn ogrnip(text: &str) -> Check {
    const EXPECTED: &str = "ОГРНИП of 15 digits with its check digit";
    if remainder_digit(text, 15, 13) { Ok(()) } else { Err(EXPECTED) }
}

/// КПП: four digits, two digits or Latin capitals, three digits.
pub fn kpp(text: &str) -> Check {
    let good = text.len() == 9
        && text
            .bytes()
            .enumerate()
            .all(|(i, byte)| byte.is_ascii_digit() || ((4..6).contains(&i) && byte.is_ascii_uppercase()));
    if good { Ok(()) } else { Err("КПП: 4 digits, 2 digits or Latin capitals, 3 digits") }
}

/// ОКТМО: eight or eleven digits.
pub fn oktmo(text: &str) -> Check {
    if only_digits(text, &[8, 11]) { Ok(()) } else { Err("ОКТМО of 8 or 11 digits") }
}

/// БИК: nine digits.
pub fn bik(text: &str) -> Check {
    if only_digits(text, &[9]) { Ok(()) } else { Err("БИК of 9 digits") }
}

/// КБК: twenty digits.
pub fn kbk(text: &str) -> Check {
    if only_digits(text, &[20]) { Ok(()) } else { Err("КБК of 20 digits") }
}

/// УИН: twenty letters and digits, or twenty-five digits. The check digit of all-digit ones: weights 1 to 10
/// repeating from the left, sum mod 11; if that is 10, again with weights from 3; if it is 10 again, 0.
/// Letters carry values that are not published with the rule: only the form of such a number is checked.
pub fn uin(text: &str) -> Check {
    const EXPECTED: &str = "УИН of 20 letters and digits, or of 25 digits with its check digit";
    let length = text.chars().count();
    let form = (length == 20 && text.chars().all(|letter| letter.is_alphanumeric() || letter == '_'))
        || only_digits(text, &[25]);
    if !form {
        return Err(EXPECTED);
    }
    let Some(digits) = digits_of(text, &[]) else { return Ok(()) };
    let [number @ .., check] = digits.as_slice() else { return Err(EXPECTED) };
    let weighted = |from: u32| {
        number.iter().zip(0..).map(|(digit, i)| digit * ((i + from - 1) % 10 + 1)).sum::<u32>() % 11
    };
    let expected = match weighted(1) {
        10 => match weighted(3) {
            10 => 0,
            again => again,
        },
        first => first,
    };
    if not_all_zero(&digits) && *check == expected { Ok(()) } else { Err(EXPECTED) }
}

/// Series of a citizen's passport: four digits, a space allowed.
pub fn passport_series(text: &str) -> Check {
    let good = digits_of(text, &[' ']).is_some_and(|digits| digits.len() == 4);
    if good { Ok(()) } else { Err("passport series of 4 digits") }
}

/// Number of a citizen's passport: six digits.
pub fn passport_number(text: &str) -> Check {
    if only_digits(text, &[6]) { Ok(()) } else { Err("passport number of 6 digits") }
}

/// A GUID of the address register (ФИАС).
pub fn fias(text: &str) -> Check {
    let hyphens = [8, 13, 18, 23];
    let good = text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(i, byte)| if hyphens.contains(&i) { byte == b'-' } else { byte.is_ascii_hexdigit() });
    if good { Ok(()) } else { Err("a ФИАС GUID, e.g. 0c5b2444-70a0-4932-980c-b4dc0d3f02b5") }
}

/// A telephone number: ten to fifteen digits, with separators and a leading plus.
pub fn phone(text: &str) -> Check {
    const EXPECTED: &str = "a telephone number of 10 to 15 digits, e.g. +7 900 000-00-00";
    let rest = text.strip_prefix('+').unwrap_or(text);
    let digits = digits_of(rest, &[' ', '-', '(', ')']).ok_or(EXPECTED)?;
    if (10..=15).contains(&digits.len()) { Ok(()) } else { Err(EXPECTED) }
}

/// An e-mail address, as far as that can be told without writing to it.
pub fn email(text: &str) -> Check {
    let good = text.len() <= 254
        && text.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty()
                && host.contains('.')
                && !host.contains('@')
                && !host.starts_with('.')
                && !host.ends_with('.')
                && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control())
        });
    if good { Ok(()) } else { Err("an e-mail address") }
}

/// ISO 3166-1 alpha-3: three Latin capitals.
pub fn country(text: &str) -> Check {
    let good = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if good { Ok(()) } else { Err("a country code of three Latin capitals (ISO 3166-1 alpha-3)") }
}

/// A code that may stand in keys: `[A-Za-z0-9._-]`, one to `max` of them.
pub fn code(text: &str, max: usize) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Refuses a field that is no [`code`].
pub fn expect_code(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if code(text, max) {
        Ok(())
    } else {
        Err(refuse(FIELD_INVALID).with(field, format!("1 to {max} of A-Z a-z 0-9 . _ -")))
    }
}

/// Refuses a field that is longer than `max` characters or holds control characters other than line breaks and tabs.
pub fn expect_len(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    // Bytes are an upper bound of characters: the count is needed for long texts only.
    if text.len() > max && text.chars().count() > max {
        return Err(refuse(FIELD_TOO_LONG).with(field, format!("at most {max} characters")));
    }
    if text.bytes().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t')) {
        return Err(refuse(FIELD_INVALID).with(field, "no control characters"));
    }
    Ok(())
}

/// Refuses a field that is longer than `max` characters or is more than one line: what goes into keys, headers and logs of
/// others must not end their lines. The separators of Unicode count as line breaks do.
pub fn expect_line(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    expect_len(field, text, max)?;
    if text.chars().any(|letter| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')) {
        return Err(refuse(FIELD_INVALID).with(field, "one line without control characters"));
    }
    Ok(())
}

/// Refuses a field that is not one upper-case letter of the Russian alphabet.
pub fn expect_one_letter(field: &str, text: &str) -> Result<(), Refusal> {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some('А'..='Я' | 'Ё'), None) => Ok(()),
        _ => Err(refuse(FIELD_INVALID).with(field, "one upper-case Russian letter")),
    }
}

/// The digits of a text that holds only digits and these separators.
fn digits_of(text: &str, separators: &[char]) -> Option<Vec<u32>> {
    text.chars().filter(|letter| !separators.contains(letter)).map(|letter| letter.to_digit(10)).collect()
}

fn only_digits(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn not_all_zero(digits: &[u32]) -> bool {
    digits.iter().any(|digit| *digit != 0)
}

/// The digit behind the weighted ones is their sum mod 11 mod 10.
fn inn_digit(digits: &[u32], weights: &[u32]) -> bool {
    let sum: u32 = digits.iter().zip(weights).map(|(digit, weight)| digit * weight).sum();
    digits.get(weights.len()) == Some(&(sum % 11 % 10))
}

/// The last of `length` digits is the number before it mod `modulus` mod 10.
fn remainder_digit(text: &str, length: usize, modulus: u64) -> bool {
    if !only_digits(text, &[length]) {
        return false;
    }
    let (number, check) = text.split_at(length - 1);
    match (number.parse::<u64>(), check.parse::<u64>()) {
        (Ok(number), Ok(check)) => number != 0 && number % modulus % 10 == check,
        _ => false,
    }
}
