//! What is wrong with a file is told by file, line and key, with what was expected; nothing of the load is taken.

use crate::support::{shipped, shipped_files, told};
use okno_domain::catalogue::{Catalogue, Problem, SourceFile, check, files};

const SOURCE: &str =
    r#"{ act = "Проба", clause = "1", checked = 2026-11-21, against = "проба", verified = true }"#;

/// A service that has nothing wrong; each test spoils one line.
fn service(spoil: &[(&str, &str)]) -> String {
    let mut text = format!(
        r#"format = 1

[[service]]
code = "test.one"
name = {{ ru = "Проба", en = "Test" }}
authority = "mvd"
group = "П"
receivers = ["person"]
execution = {{ days = 5, kind = "working" }}
source = {SOURCE}
delivery = {{ days = 1, kind = "working", source = {SOURCE} }}
documents = [
    {{ code = "application", name = {{ ru = "Заявление", en = "Application" }}, need = "required", form = "original" }},
]
documents_source = {SOURCE}
"#
    );
    for (from, to) in spoil {
        assert!(text.contains(from), "nothing to spoil: {from}");
        text = text.replacen(from, to, 1);
    }
    text
}

fn calendar(spoil: &[(&str, &str)]) -> String {
    let mut text = format!(
        r#"format = 1

[[calendar]]
year = 2029
source = {SOURCE}
holidays = [
    {{ date = 2029-01-01, name = "Новый год" }},
    {{ date = 2029-05-01, name = "Праздник Весны и Труда" }},
]
moved = [
    {{ from = 2029-04-28, to = 2029-04-30 }},
]
short = [2029-04-28]
"#
    );
    for (from, to) in spoil {
        assert!(text.contains(from), "nothing to spoil: {from}");
        text = text.replacen(from, to, 1);
    }
    text
}

fn problems(texts: &[&str]) -> Vec<Problem> {
    let files: Vec<_> =
        texts.iter().enumerate().map(|(n, text)| SourceFile::new(format!("{n}.toml"), *text)).collect();
    match files::read(&files, &shipped()) {
        Ok(load) => panic!("no problem found in {load:?}"),
        Err(problems) => problems,
    }
}

/// The one problem, as (line, key); `expected` must contain the words.
fn problem(text: &str, expected: &str) -> (usize, String) {
    let problems = problems(&[text]);
    let [problem] = problems.as_slice() else { panic!("not one problem:\n{}", told(&problems)) };
    assert!(problem.expected.contains(expected), "{problem}");
    assert_eq!(problem.file, "0.toml");
    (problem.line.unwrap_or_default(), problem.key.clone())
}

fn at(line: usize, key: &str) -> (usize, String) {
    (line, key.to_owned())
}

#[test]
fn the_unspoilt_files_are_taken() {
    let files = [SourceFile::new("0.toml", service(&[])), SourceFile::new("1.toml", calendar(&[]))];
    let load = files::read(&files, &shipped()).unwrap_or_else(|problems| panic!("{}", told(&problems)));
    assert_eq!((load.services.len(), load.calendars.len(), load.authorities.len()), (1, 1, 0));
}

#[test]
fn syntax_is_told_with_its_line() {
    let (line, _) = problem(&service(&[("group = \"П\"", "group = \"П")]), "");
    assert_eq!(line, 7);
    let (line, _) = problem(&service(&[("receivers = [", "receivers [")]), "");
    assert_eq!(line, 8);
}

#[test]
fn an_unknown_or_missing_key_is_an_error() {
    assert_eq!(
        problem(&service(&[("group =", "grupp =")]), "unknown field `grupp`"),
        at(7, "service[0].grupp")
    );
    let (_, key) = problem(&service(&[("group = \"П\"\n", "")]), "missing field `group`");
    assert!(key.starts_with("service"), "{key}");
    assert_eq!(problem("format = 1\nservices = []\n", "unknown field `services`"), at(2, "services"));
    problem("[[service]]\n", "missing field");
}

#[test]
fn a_wrong_type_or_word_is_told_with_its_key() {
    let text = service(&[("days = 5", "days = \"5\"")]);
    assert_eq!(problem(&text, "u16"), at(9, "service[0].execution.days"));
    let text = service(&[("kind = \"working\" }\nsource", "kind = \"banking\" }\nsource")]);
    assert_eq!(problem(&text, "`working` or `calendar`"), at(9, "service[0].execution.kind"));
    let text = service(&[("need = \"required\"", "need = \"maybe\"")]);
    assert_eq!(problem(&text, "`required`"), at(13, "service[0].documents[0].need"));
    let text = calendar(&[("date = 2029-01-01", "date = 2029-01-01T10:00:00")]);
    assert_eq!(problem(&text, "a date without a time"), at(7, "calendar[0].holidays[0].date"));
    problem(&calendar(&[("date = 2029-01-01", "date = 2029-02-30")]), "");
}

#[test]
fn values_out_of_bounds_are_told_with_their_line() {
    let text = service(&[("days = 5", "days = 5000")]);
    assert_eq!(problem(&text, "0 to 1096"), at(9, "service[0].execution.days"));
    let text = service(&[("group = \"П\"", "group = \"P\"")]);
    assert_eq!(problem(&text, "Russian letter"), at(7, "service[0].group"));
    let text = service(&[("\"test.one\"", "\"Test One\"")]);
    assert_eq!(problem(&text, "a code of 1 to 64"), at(4, "service[0].code"));
    let text = service(&[("authority = \"mvd\"", "authority = \"nobody\"")]);
    assert_eq!(problem(&text, "the code of an authority"), at(6, "service[0].authority"));
    let text = service(&[("ru = \"Проба\"", "ru = \" \"")]);
    assert_eq!(problem(&text, "1 to 400 characters"), at(5, "service[0].name.ru"));
    let text = service(&[("receivers = [\"person\"]", "receivers = []")]);
    assert_eq!(problem(&text, "at least one kind"), at(8, "service[0].receivers"));
    let text = service(&[("clause = \"1\"", "clause = \"\"")]);
    assert_eq!(problem(&text, "1 to 400 characters"), at(10, "service[0].source.clause"));
}

#[test]
fn a_calendar_must_make_sense() {
    let text = calendar(&[("from = 2029-04-28", "from = 2029-04-26"), ("short = [2029-04-28]", "")]);
    assert_eq!(problem(&text, "a Saturday or Sunday of 2029"), at(11, "calendar[0].moved[0].from"));
    let text = calendar(&[("to = 2029-04-30", "to = 2029-05-01")]);
    assert_eq!(problem(&text, "would work otherwise"), at(11, "calendar[0].moved[0].to"));
    let text = calendar(&[("to = 2029-04-30", "to = 2030-04-30")]);
    assert_eq!(problem(&text, "a day of 2029"), at(11, "calendar[0].moved[0].to"));
    let text = calendar(&[("short = [2029-04-28]", "short = [2029-04-29]")]);
    assert_eq!(problem(&text, "a working day of 2029"), at(13, "calendar[0].short[0]"));
    let text = calendar(&[("date = 2029-05-01", "date = 2029-01-01")]);
    assert_eq!(problem(&text, "named once"), at(8, "calendar[0].holidays[1].date"));
    let text = calendar(&[("year = 2029\n", "year = 2029\nworking_days = 247\n")]);
    // 261 weekdays, two holidays on them, one day moved and its Saturday worked.
    assert_eq!(problem(&text, "259, as the days listed give"), at(5, "calendar[0].working_days"));
    let text = calendar(&[("year = 2029\n", "year = 2026\nregion = \"16\"\nworking_days = 247\n")])
        .replace("2029-", "2026-");
    let text =
        text.replace("moved = [\n    { from = 2026-04-28, to = 2026-04-30 },\n]\nshort = [2026-04-28]", "");
    assert_eq!(problem(&text, "no such key in a region's calendar"), at(6, "calendar[0].working_days"));
    let text = calendar(&[("year = 2029\n", "year = 2029\nregion = \"16\"\n")]);
    assert_eq!(problem(&text, "the whole country has a calendar"), at(4, "calendar[0].year"));
}

#[test]
fn another_format_is_refused() {
    assert_eq!(problem("# comment\nformat = 2\n", "1"), at(2, "format"));
}

#[test]
fn what_is_twice_there_is_told_in_the_second_file() {
    let text = service(&[]);
    let problems = problems(&[&text, &text]);
    assert_eq!(problems.len(), 1, "{}", told(&problems));
    assert_eq!(problems[0].place(), "1.toml:4 service[0].code");
    let text = service(&[("documents_source", "representative = true\ndocuments_source")])
        .replace("]\nrepresentative", "    { code = \"application\", name = { ru = \"А\", en = \"A\" }, need = \"required\", form = \"any\" },\n]\nrepresentative");
    assert_eq!(problem(&text, "named once"), at(14, "service[0].documents[1].code"));
}

#[test]
fn all_problems_are_told_at_once() {
    let bad_service = service(&[("days = 5", "days = 5000"), ("group = \"П\"", "group = \"P\"")]);
    let bad_calendar = calendar(&[("from = 2029-04-28", "from = 2029-04-26"), ("short = [2029-04-28]", "")]);
    let problems = problems(&["format = ", &bad_service, &bad_calendar]);
    let places: Vec<_> = problems.iter().map(Problem::place).collect();
    assert_eq!(places.len(), 4, "{places:?}");
    assert!(places.contains(&"1.toml:9 service[0].execution.days".to_owned()), "{places:?}");
    assert!(places.contains(&"1.toml:7 service[0].group".to_owned()), "{places:?}");
    assert!(places.contains(&"2.toml:11 calendar[0].moved[0].from".to_owned()), "{places:?}");

    let refusal = check::refusal(&problems);
    assert_eq!(refusal.reason, "CATALOGUE_INVALID");
    assert_eq!(refusal.details.len(), 4);
    assert_eq!(
        refusal.details.get("1.toml:9 service[0].execution.days").map(String::as_str),
        Some("expected 0 to 1096, found 5000")
    );
    assert!(refusal.text_ru.contains("ошибок: 4"), "{}", refusal.text_ru);
}

#[test]
fn a_refusal_tells_a_bounded_number_of_problems() {
    let many: String = (0..200).map(|n| format!("[[authority]]\ncode = \"A{n}\"\nname = {{ ru = \"А\", en = \"A\" }}\nshort = {{ ru = \"А\", en = \"A\" }}\n")).collect();
    let problems = problems(&[&format!("format = 1\n{many}")]);
    assert_eq!(problems.len(), 200);
    let refusal = check::refusal(&problems);
    assert_eq!(refusal.details.len(), check::PROBLEMS_MAX);
    assert!(refusal.text_en.contains("errors: 200"), "{}", refusal.text_en);
}

#[test]
fn input_is_bounded() {
    let big = format!("format = 1\n{}", "# long\n".repeat(files::BYTES_MAX / 7));
    let found = problems(&[&big]);
    assert!(found[0].expected.contains("bytes in all files"), "{}", found[0]);
    let many: Vec<_> = vec!["format = 1\n"; files::FILES_MAX + 1];
    let found = problems(&many);
    assert!(found[0].expected.contains("1000 files"), "{}", found[0]);
}

#[test]
fn a_service_may_name_an_authority_of_the_cluster_or_of_another_file() {
    let one = [SourceFile::new("0.toml", service(&[]))];
    assert!(files::read(&one, &shipped()).is_ok());
    assert!(files::read(&one, &Catalogue::default()).is_err());
    let mut with = shipped_files();
    with.insert(0, one[0].clone());
    assert!(files::read(&with, &Catalogue::default()).is_ok());
}
