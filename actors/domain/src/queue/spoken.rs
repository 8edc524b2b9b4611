//! What a loudspeaker says, in Russian (R-Q3): "талон А пятнадцать, окно три".
//!
//! Numbers are read as labels, in the nominative masculine as they stand on the ticket; leading zeros are not read.

const UNITS: [&str; 20] = [
    "ноль",
    "один",
    "два",
    "три",
    "четыре",
    "пять",
    "шесть",
    "семь",
    "восемь",
    "девять",
    "десять",
    "одиннадцать",
    "двенадцать",
    "тринадцать",
    "четырнадцать",
    "пятнадцать",
    "шестнадцать",
    "семнадцать",
    "восемнадцать",
    "девятнадцать",
];
const TENS: [&str; 10] = [
    "",
    "",
    "двадцать",
    "тридцать",
    "сорок",
    "пятьдесят",
    "шестьдесят",
    "семьдесят",
    "восемьдесят",
    "девяносто",
];
const HUNDREDS: [&str; 10] =
    ["", "сто", "двести", "триста", "четыреста", "пятьсот", "шестьсот", "семьсот", "восемьсот", "девятьсот"];

/// A number below a thousand in words; larger ones, which no ticket or window has, digit by digit.
pub fn numeral(number: u32) -> String {
    let Ok(number) = usize::try_from(number) else { return String::new() };
    if number >= 1_000 {
        let digits = number.to_string();
        let words: Vec<_> = digits.bytes().map(|digit| UNITS[usize::from(digit - b'0')]).collect();
        return words.join(" ");
    }
    if number == 0 {
        return UNITS[0].to_owned();
    }
    let mut words = Vec::new();
    let (hundreds, rest) = (number / 100, number % 100);
    words.push(HUNDREDS[hundreds]);
    if rest < 20 {
        words.push(if rest == 0 { "" } else { UNITS[rest] });
    } else {
        words.push(TENS[rest / 10]);
        words.push(if rest % 10 == 0 { "" } else { UNITS[rest % 10] });
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// A ticket's or window's name: digits that stand together are one number, every letter is read by itself.
pub fn label(text: &str) -> String {
    let mut words = Vec::new();
    let mut digits = String::new();
    let number = |digits: &mut String, words: &mut Vec<String>| {
        if !digits.is_empty() {
            // Nine digits at most fit; a window's name has eight characters.
            words.push(digits.parse().map_or_else(|_| digits.clone(), numeral));
            digits.clear();
        }
    };
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            digits.push(letter);
        } else {
            number(&mut digits, &mut words);
            words.extend(letter.to_uppercase().next().map(String::from));
        }
    }
    number(&mut digits, &mut words);
    words.join(" ")
}

/// The call of a visitor.
pub fn call(ticket_number: &str, window: &str) -> String {
    format!("талон {}, окно {}", label(ticket_number), label(window))
}
