//! Files of modules (R-I4): the documented one is good, faults are told with their place, and what modules add to services
//! is checked against the catalogue and each other.

use crate::{
    entity::{as_principal, meta},
    support::shipped,
};
use okno_domain::{
    catalogue::{
        Ask, AskOrder, AskRequest, Catalogue, Command, Process, Reply, SourceFile, Text, Wait, check,
    },
    channel::{Order, files},
    entity::{Entity, Refusal},
};
use std::{fs, path::Path, sync::Arc};

fn documented() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/channels.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let (_, rest) = page.split_once("```toml\n").expect("a file stands on it");
    rest.split_once("```").expect("to its end").0.to_owned()
}

#[test]
fn the_documented_file_is_good() {
    let module = files::read(&SourceFile::new("egrn.toml", documented())).expect("as documented");
    assert_eq!((module.code.as_str(), module.settings.order), ("egrn", Order::Key));
    assert_eq!(module.settings.rate.map(|rate| (rate.messages, rate.burst)), Some((10, 20)));
    assert_eq!(module.settings.breaker.map(|breaker| breaker.failures), Some(5));
    let ask = &module.processes[0].asks[0];
    assert_eq!(
        (ask.wait, ask.order, ask.blocking, ask.mandatory),
        (Wait::All, AskOrder::Parallel, true, false)
    );
    assert!(module.settings.problems().is_empty());
}

#[test]
fn what_is_left_out_is_as_documented_and_a_breaker_can_be_left_out_altogether() {
    let least =
        "format = 1\n[channel]\ncode = \"a\"\ntitle = { ru = \"А\", en = \"A\" }\nconnectors = [\"one\"]\n";
    let module = files::read(&SourceFile::new("a.toml", least)).expect("enough");
    assert_eq!(
        (module.settings.parallel, module.settings.ack_ms, module.settings.work_ms),
        (64, 5_000, 300_000)
    );
    assert!(
        module.settings.rate.is_none() && module.settings.breaker.is_some() && module.processes.is_empty()
    );
    let without = format!("{least}[channel.breaker]\nfailures = 0\n");
    assert!(files::read(&SourceFile::new("a.toml", without)).expect("good").settings.breaker.is_none());
}

#[test]
fn faults_are_told_with_their_place() {
    let wrong = |from: &str, to: &str| {
        let text = documented().replacen(from, to, 1);
        assert_ne!(text, documented(), "{from} stands there");
        let problems = files::read(&SourceFile::new("egrn.toml", text)).expect_err("it is wrong");
        problems.into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        wrong("parallel = 64 ", "parallel = 2000 "),
        "egrn.toml:8 channel.parallel: expected 1 to 1024, found 2000"
    );
    assert_eq!(
        wrong("ack_ms = 5000 ", "ack_ms = 10 "),
        "egrn.toml:13 channel.lease.ack_ms: expected 1000 to 60000, found 10"
    );
    assert!(wrong("code = \"egrn\"", "code = \"ЕГРН\"").contains("channel.code"));
    assert!(wrong("format = 1", "format = 2").contains("egrn.toml:1 format: expected 1, found 2"));
    assert!(wrong("parallel = 64 ", "paralel = 64 ").contains("egrn.toml:8"));
    assert!(
        wrong("\"egrn-2\"]", "\"egrn-1\"]").contains("channel.connectors[1]: expected a code named once")
    );
    let huge = SourceFile::new("huge.toml", "#".repeat(files::BYTES_MAX + 1));
    assert!(files::read(&huge).is_err());
}

fn process(module: &str, service: &str, code: &str, kind: &str) -> Arc<Process> {
    let ask = Ask {
        code: code.into(),
        title: Text { ru: "Сведения".into(), en: "Facts".into() },
        requests: vec![AskRequest { channel: "egrn".into(), kind: kind.into() }],
        wait: Wait::All,
        order: AskOrder::Parallel,
        blocking: true,
        mandatory: true,
        expires_ms: None,
    };
    Arc::new(Process { module: module.into(), service: service.into(), asks: vec![ask], claimed: Vec::new() })
}

/// Decides and folds; how many records changed.
fn run(catalogue: &mut Catalogue, command: &Command) -> Result<u32, Refusal> {
    let decision = as_principal("admin", |context| catalogue.decide(command, context))?;
    decision.events.iter().for_each(|event| catalogue.evolve(event, &meta(7)));
    match decision.reply {
        Reply::Loaded { changed, .. } => Ok(changed),
        Reply::Nothing => panic!("commands are answered"),
    }
}

#[test]
fn processes_name_services_and_do_not_meet() {
    let catalogue = shipped();
    let service = catalogue.services().next().expect("it has services").code.clone();
    let told = |processes: &[Arc<Process>]| {
        let problems = check::processes(processes, &catalogue);
        problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    assert_eq!(told(&[process("one", &service, "facts", "extract")]), [""; 0]);
    assert_eq!(told(&[process("one", "nowhere", "facts", "extract")]), ["process[0].service"]);
    assert_eq!(told(&[process("Один", &service, "", "?")]).len(), 3);
    // Each refusal of one after the other leads to the next request by itself: a chain has its bound.
    let in_turn = |count: usize, wait| {
        let mut process = process("one", &service, "facts", "extract").as_ref().clone();
        let ask = &mut process.asks[0];
        (ask.order, ask.wait) = (AskOrder::Sequential, wait);
        ask.requests = vec![ask.requests[0].clone(); count];
        Arc::new(process)
    };
    assert_eq!(told(&[in_turn(7, Wait::Any)]), [""; 0]);
    assert_eq!(told(&[in_turn(8, Wait::Any)]), ["process[0].asks[0].requests"]);
    assert_eq!(told(&[in_turn(16, Wait::All)]), [""; 0]);
    let (one, two) = (process("one", &service, "facts", "a"), process("two", &service, "facts", "b"));
    assert_eq!(told(&[one.clone(), two]), ["process[0].asks[0].code", "process[1].asks[0].code"]);
    assert_eq!(told(&[one.clone(), one]), ["process[1].service"]);
}

/// Between the parts of an installation the catalogue may change. What was claimed before the first of them is not refused
/// after it, whoever comes in between; and a claim that is refused has changed nothing.
#[test]
fn what_is_claimed_can_be_loaded_whatever_comes_in_between() {
    let mut catalogue = shipped();
    let service = catalogue.services().next().expect("it has services").code.clone();
    let asks = |catalogue: &Catalogue| {
        catalogue
            .asks_of(&service)
            .map(|ask| (ask.code.clone(), ask.requests[0].kind.clone()))
            .collect::<Vec<_>>()
    };
    let fact = |kind: &str| vec![("facts".to_owned(), kind.to_owned())];
    let (one, two) = (process("one", &service, "facts", "a"), process("two", &service, "facts", "b"));
    assert_eq!(run(&mut catalogue, &Command::ClaimProcesses(vec![one.clone()])), Ok(1));
    assert_eq!(asks(&catalogue), [], "what is claimed cannot be asked yet");
    for other in [Command::ClaimProcesses(vec![two.clone()]), Command::LoadProcesses(vec![two.clone()])] {
        let refused = run(&mut catalogue, &other).expect_err("the code is taken");
        assert_eq!(refused.reason, "CATALOGUE_INVALID");
    }
    assert_eq!(run(&mut catalogue, &Command::LoadProcesses(vec![one.clone()])), Ok(1));
    assert_eq!(asks(&catalogue), fact("a"));
    // Nothing new: nothing to claim, nothing to put.
    assert_eq!(run(&mut catalogue, &Command::ClaimProcesses(vec![one.clone()])), Ok(0));
    assert_eq!(run(&mut catalogue, &Command::LoadProcesses(vec![one])), Ok(0));
    // Another version: until it is loaded what was there holds, and both are taken.
    let newer = process("one", &service, "papers", "c");
    assert_eq!(run(&mut catalogue, &Command::ClaimProcesses(vec![newer.clone()])), Ok(1));
    assert_eq!(asks(&catalogue), fact("a"));
    let papers = process("two", &service, "papers", "b");
    for other in [&two, &papers] {
        assert!(run(&mut catalogue, &Command::ClaimProcesses(vec![other.clone()])).is_err());
    }
    assert_eq!(run(&mut catalogue, &Command::LoadProcesses(vec![newer])), Ok(1));
    assert_eq!(run(&mut catalogue, &Command::ClaimProcesses(vec![two])), Ok(1), "its old code is free again");
    assert!(run(&mut catalogue, &Command::ClaimProcesses(vec![papers])).is_err());
}

#[test]
fn settings_are_written_as_a_file_that_gives_them() {
    let whole = files::read(&SourceFile::new("egrn.toml", documented())).expect("as documented");
    let least = "format = 1\n[channel]\ncode = \"a\"\ntitle = { ru = \"«А» \\\"б\\\"\", en = \"A\" }\nconnectors = [\"one\"]\n\
                 order = \"strict\"\n[channel.breaker]\nfailures = 0\n";
    let least = files::read(&SourceFile::new("a.toml", least)).expect("enough");
    for module in [whole, least] {
        let text = files::write(&module.code, &module.settings);
        let again = files::read(&SourceFile::new("written.toml", text.clone()));
        let again = again.unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        assert_eq!((again.code, again.settings), (module.code, module.settings));
    }
}
