//! Check digits against reference values and against the way they are made.

use okno_domain::validators::{
    self, Check, bik, code, country, email, fias, inn_of_entity, inn_of_person, kbk, kpp, ogrn, ogrnip,
    oktmo, passport_number, passport_series, phone, snils, uin,
};
use proptest::prelude::*;

fn check(validator: fn(&str) -> Check, good: &[&str], bad: &[&str]) {
    for text in good {
        assert_eq!(validator(text), Ok(()), "{text:?} is good");
    }
    for text in bad.iter().chain(&[""]) {
        assert!(validator(text).is_err(), "{text:?} is not good");
    }
}

#[test]
fn numbers_with_check_digits() {
    check(
        snils,
        &["112-233-445 95", "11223344595", "087-654-303 00", "001-001-998 00", "001-001-998 77"],
        &[
            "112-233-445 96",
            "112-233-445",
            "112-233-445 955",
            "112-233-44а 95",
            "000-000-000 00",
            "001-001-999 00",
        ],
    );
    check(
        inn_of_entity,
        &["9900000017"],
        &["9900000018", "990000001", "99000000171", "0000000000", "99000000 17"],
    );
    // The official sample of GIS GMP breaks its own check digit.
    check(inn_of_entity, &[], &["7705401341"]);
    check(
        inn_of_person,
        &["990000000115", "500100732259"],
        &["990000000125", "990000000116", "9900000001155", "000000000000"],
    );
    check(ogrn, &["1999900000000"], &["1999900000001", "199990000000", "0000000000000"]);
    check(ogrnip, &["399990000000002"], &["399990000000003", "39999000000000", "000000000000000"]);
    // Sum 1; sum 10 and with shifted weights 4; sum 10 both times.
    check(
        uin,
        &[
            "10000000000000000001",
            "00000000000000000374",
            "00000000000000000540",
            "0000000000000000000000014",
            "АБВ00000000000000000",
        ],
        &[
            "10000000000000000002",
            "00000000000000000370",
            "00000000000000000541",
            "1000000000000000000",
            "0000000000000000000000015",
        ],
    );
}

#[test]
fn forms() {
    check(kpp, &["990001001", "9900AB001"], &["99000100", "9900ab001", "AA0001001", "9900010011"]);
    check(oktmo, &["99000000", "99000000001"], &["9900000", "990000000", "9900000A"]);
    check(bik, &["049999999"], &["04999999", "04999999A"]);
    check(kbk, &["18210000000000000001"], &["1821000000000000000", "1821000000000000000A"]);
    check(passport_series, &["0000", "00 00"], &["000", "00000", "АБ00"]);
    check(passport_number, &["123456"], &["12345", "1234567", "12345A"]);
    check(
        fias,
        &["0c5b2444-70a0-4932-980c-b4dc0d3f02b5", "0C5B2444-70A0-4932-980C-B4DC0D3F02B5"],
        &["0c5b244470a04932980cb4dc0d3f02b5", "0c5b2444-70a0-4932-980c-b4dc0d3f02bg"],
    );
    check(
        phone,
        &["+7 (900) 000-00-00", "79000000000"],
        &["+7 900", "звоните", "7900000000000000", "7+9000000000"],
    );
    check(
        email,
        &["a@b.example"],
        &["a@b", "@b.example", "a b@c.example", "a@@b.example", "a@.example", "a@b.example."],
    );
    check(country, &["KAZ"], &["KZ", "kaz", "КАЗ"]);
    assert!(
        code("mfc-01.A_b", 10)
            && !code("mfc-01.A_b", 9)
            && !code("", 9)
            && !code("мфц", 9)
            && !code("a/b", 9)
    );
}

#[test]
fn lengths_count_characters() {
    assert!(validators::expect_len("f", "ёёё", 3).is_ok());
    assert!(validators::expect_len("f", "ёёёё", 3).is_err());
    assert!(validators::expect_len("f", "a\u{7}", 3).is_err());
    assert!(validators::expect_len("f", "a\nb", 3).is_ok());
    for good in ["А", "Ё", "Я"] {
        assert!(validators::expect_one_letter("f", good).is_ok());
    }
    // The last one looks the same and is Latin.
    for bad in ["", "АБ", "а", "A"] {
        assert!(validators::expect_one_letter("f", bad).is_err());
    }
}

proptest! {
    /// Exactly one pair of check digits suits a number.
    #[test]
    fn one_snils_of_a_hundred(number in 1_001_999_u32..1_000_000_000) {
        let good = (0..100).filter(|check| snils(&format!("{number:09}{check:02}")).is_ok()).count();
        prop_assert_eq!(good, 1);
    }

    #[test]
    fn one_inn_of_ten(number in 1_u32..1_000_000_000) {
        let good = (0..10).filter(|check| inn_of_entity(&format!("{number:09}{check}")).is_ok()).count();
        prop_assert_eq!(good, 1);
    }

    /// Two neighbours swapped, the slip made most often, are found out by weights that differ. Sums of 0 and 100
    /// share the digits 00: there alone a slip can hide.
    #[test]
    fn swapped_digits_of_a_snils_are_found(number in 1_001_999_u32..1_000_000_000, at in 0_usize..8) {
        let text = (0..100).map(|check| format!("{number:09}{check:02}")).find(|text| snils(text).is_ok());
        let mut digits = text.unwrap().into_bytes();
        prop_assume!(digits[at] != digits[at + 1]);
        digits.swap(at, at + 1);
        let swapped = String::from_utf8(digits).unwrap();
        prop_assume!(swapped[..9].parse::<u32>().unwrap() > 1_001_998 && !swapped.ends_with("00"));
        prop_assert!(snils(&swapped).is_err());
    }

    /// Whatever arrives, a validator answers.
    #[test]
    fn nothing_panics(text in "\\PC{0,40}") {
        for validator in [snils, inn_of_entity, inn_of_person, ogrn, ogrnip, kpp, uin, passport_series, fias, phone, email] {
            let _ = validator(&text);
        }
        prop_assert!(okno_domain::people::applicant_key(&text).is_some() == text.chars().any(char::is_alphanumeric));
    }
}
