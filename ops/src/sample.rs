//! Obviously fictional people with valid check digits, for the benchmark and for trying things out.

use okno_proto::v1::{Applicant, Contact, IdentityDocument, Person, PersonName, applicant::Kind};

/// The `n`-th fictional citizen; numbers repeat after 900,000.
pub fn person(n: u32) -> Person {
    let n = n % 900_000;
    Person {
        name: Some(PersonName {
            last_name: "Примеров".to_owned(),
            first_name: "Образец".to_owned(),
            middle_name: "Тестович".to_owned(),
        }),
        birth_date: "1990-01-01".to_owned(),
        snils: snils(n),
        inn: String::new(),
        identity: Some(IdentityDocument {
            kind: "passport".to_owned(),
            series: "0000".to_owned(),
            number: format!("{n:06}"),
            issued_on: "2014-01-20".to_owned(),
            issued_by: "Учебное отделение".to_owned(),
        }),
        contact: Some(Contact { phone: String::new(), email: String::new(), address: String::new() }),
    }
}

/// The same as an applicant.
pub fn applicant(n: u32) -> Applicant {
    Applicant { kind: Some(Kind::Person(person(n))) }
}

/// A СНИЛС above 001-001-998 with its check digits.
fn snils(n: u32) -> String {
    let digits = format!("{:09}", 100_000_000 + n);
    let sum: u32 =
        digits.bytes().zip((1..=9).rev()).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    let check = sum % 101 % 100;
    format!("{}-{}-{} {check:02}", &digits[..3], &digits[3..6], &digits[6..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_digits_follow_the_rule() {
        // 1·9 + 0·8 + … : 9 alone, then with a last digit of 5.
        assert_eq!(super::snils(0), "100-000-000 09");
        assert_eq!(super::snils(5), "100-000-005 14");
    }
}
