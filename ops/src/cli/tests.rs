//! Arguments, precedence of settings, and exit codes.

use super::*;
use clap::error::ErrorKind;
use std::path::Path;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("oknoctl").chain(line.split_whitespace()))
}

#[test]
fn definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_agreed_commands_are_there() {
    for line in [
        "status",
        "status -o json",
        "top --every 2s",
        "top --once -o json",
        "health",
        "alarm list",
        "log-level get",
        "log-level set info,okno_cluster=debug --for 10m",
        "log-level reset",
        "support-bundle --file bundle.tar.gz",
        "member list",
        "member add 4 --address n4.test:7401",
        "member promote 4 --dry-run",
        "member remove 2",
        "member replace 2 --with 4 --address n4.test:7401",
        "transfer-leader",
        "transfer-leader --to 2",
        "level show",
        "journal --last 5",
        "level raise --to 2 --dry-run",
        "digest --place-marker",
        "notices --count 1",
        "case open --office c1 --service s --applicant a.json",
        "case open --office c1 --service s --person Примеров --snils 11223344595 --ticket А015 --ticket-day 2026-11-21",
        "case add-document ID --kind passport --form copy --sheets 2",
        "case remove-document ID 3",
        "case advance ID accept",
        "case advance ID request-interagency --authority fns --subject x",
        "case advance ID interagency-answered --number 1",
        "case advance ID send-to-authority --register 7",
        "case advance ID suspend --reason docs --days 10 --day-kind calendar",
        "case advance ID resume",
        "case advance ID receive-result --reference 1",
        "case advance ID receive-refusal --reason x",
        "case advance ID make-ready",
        "case advance ID issue --to Примеров --paper-copy",
        "case advance ID withdraw --reason x",
        "case advance ID mark-unclaimed",
        "case advance ID archive",
        "case show ID --local --node 3",
        "case list --office c1 --state at-authority --all",
        "case list --applicant 11223344595",
        "case list --due-to 2026-12-31",
        "case history ID",
        "case watch",
        "case watch ID --resume token --count 3",
        "queue ticket --office c1 --purpose collect-result",
        "queue call --office c1 --window 1",
        "queue begin А015 --office c1 --window 1",
        "queue finish А015 --office c1 --window 1 --no-show --day 2026-11-21",
        "queue list --office c1 --state waiting --state called",
        "backup init --target /mnt/b",
        "backup now --node 2",
        "backup list",
        "backup list --target /mnt/b --of 0190b5f0-0000-7000-8000-000000000001",
        "backup verify --target /mnt/b 20261122T021500Z-812 --identity key --scratch /tmp",
        "backup prune --target /mnt/b --keep-daily 14 --dry-run",
        "restore --from /mnt/b --members 1=a:1,2=b:2 --to 1=/d --until 2026-11-22T08:30:00+07:00",
        "restore --from /mnt/b --members 1=a:1 --to 1=/d --until 812 --backup ID --identity key",
        "catalogue load",
        "catalogue load some/dir",
        "catalogue load --dir some/dir",
        "catalogue show",
        "catalogue show sfr.snils",
        "catalogue calendar 2026 --region 42",
        "channel list",
        "channel show egrn",
        "channel install egrn.toml --dry-run",
        "channel pause egrn --reason ремонт",
        "channel resume egrn",
        "channel drain egrn",
        "channel dead-letters egrn",
        "channel redrive egrn --oldest 64",
        "channel redrive egrn ID.1 ID.2",
        "channel discard egrn --oldest 1 --reason поздно",
        "channel parked egrn",
        "channel letter egrn 7",
        "channel letter egrn 7 --out letter.bin",
        "channel attempt egrn ID.1 12 --out page.html",
        "channel assign egrn 7 CASE",
        "channel drop egrn 7 --reason реклама",
        "directory office put c1 --name Центр --utc-offset -60",
        "directory office show",
        "directory window put c1 5 --groups А,Б",
        "directory person put p1 --name Примеров --offices c1,c2",
        "directory person show --office c1",
        "entity show case/1",
        "entity release queue/c1",
        "bench --clients 1,16 --seconds 3 --op write --leader-only",
        "completion bash",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for line in [
        "",
        "nonsense",
        "case open --office c1 --service s",
        "case open --office c1 --service s --person Примеров",
        "case list --state nowhere",
        "case list --applicant 1 --office c1",
        "case advance ID",
        "case advance ID suspend",
        "queue begin",
        "channel redrive egrn",
        "channel redrive egrn ID --oldest 3",
        "channel redrive egrn --oldest 65",
        "channel discard egrn --oldest 1",
        "channel drop egrn 7",
        "channel letter egrn",
        "channel attempt egrn ID.1",
        "entity show case",
        "entity show /x",
        "transfer-leader --to 0",
        "member add 4",
        "member remove 0",
        "member replace 2 --address n4.test:7401",
        "transfer-leader --to one",
        "bench --clients 0",
        "bench --op delete",
        "status --attempt 2",
        "status --request-id no-uuid",
        "status --deadline soon",
        "status -o yaml",
    ] {
        let error = parse(line).expect_err(line);
        assert!(
            !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
                && error.exit_code() == 2,
            "{line}: {error}"
        );
    }
}

#[test]
fn flags_win_over_the_context_file() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("oknoctl.toml");
    std::fs::write(&path, "endpoints = [\"a:1\"]\nca = \"ca.pem\"\ncert = \"c.pem\"\nkey = \"k.pem\"\n")
        .expect("written");
    let cli = Cli::try_parse_from([
        "oknoctl",
        "--config",
        path.to_str().expect("UTF-8"),
        "--endpoints",
        "b:2,c:3",
        "--key",
        "other.pem",
        "--deadline",
        "7s",
        "status",
    ])
    .expect("valid");
    let settings = cli.connection.settings(None).expect("complete");
    assert_eq!(settings.endpoints, ["b:2", "c:3"]);
    assert_eq!(settings.tls.ca, dir.path().join("ca.pem"));
    assert_eq!(settings.tls.key, Path::new("other.pem"));
    assert_eq!(settings.deadline, std::time::Duration::from_secs(7));
}

#[test]
fn an_incomplete_context_is_a_usage_error_that_says_what_is_missing() {
    let cli = parse("--endpoints a:1 status").expect("valid");
    let failure = cli.connection.settings(None).expect_err("no certificates");
    assert_eq!(failure.exit_code(), exit::USAGE);
    assert!(failure.text(Format::Table).contains("ca is missing"), "{failure}");
    let cli = parse("--config /nonexistent/oknoctl.toml status").expect("valid");
    let failure = cli.connection.settings(None).expect_err("no file");
    assert_eq!(failure.exit_code(), exit::USAGE);
    assert!(failure.text(Format::Table).contains("/nonexistent/oknoctl.toml"), "{failure}");
}

#[test]
fn every_class_has_its_exit_code() {
    use okno_client::Class;
    let codes = [Class::Refused, Class::NotApplied, Class::Unknown].map(output::exit_code);
    assert_eq!(codes, [1, 3, 4]);
}

#[test]
fn completion_knows_the_commands() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "oknoctl", &mut script);
        let script = String::from_utf8(script).expect("UTF-8");
        assert!(script.contains("transfer-leader") && script.contains("add-document"), "{shell}");
    }
}

#[test]
fn officers_calls_are_made_with_the_officers_certificate_where_the_context_has_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("oknoctl.toml");
    let text = "endpoints = [\"a:1\"]\nca = \"ca\"\ncert = \"admin.pem\"\nkey = \"admin.key\"\n\
                [identity.operator]\ncert = \"officer.pem\"\nkey = \"officer.key\"\n";
    std::fs::write(&path, text).expect("written");
    let certificate = |line: &str| {
        let cli = parse(&format!("{line} --config {}", path.display())).expect("valid");
        let usual = cli.command.usual_identity();
        cli.connection
            .settings(usual)
            .map(|settings| settings.tls.cert.file_name().map(|name| name.to_owned()))
    };
    let named = |name: &str| Some(name.into());
    assert_eq!(certificate("case show X").expect("complete"), named("officer.pem"));
    assert_eq!(certificate("bench").expect("complete"), named("officer.pem"));
    assert_eq!(certificate("status").expect("complete"), named("admin.pem"));
    assert_eq!(certificate("status --as operator").expect("complete"), named("officer.pem"));
    assert_eq!(certificate("case show X --cert own.pem").expect("complete"), named("own.pem"));
    let failure = certificate("status --as kiosk").expect_err("no such identity");
    assert!(matches!(&failure, Failure::Usage(text) if text.contains("[identity.kiosk]")), "{failure:?}");
}
