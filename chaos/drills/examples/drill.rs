//! Runs drills by name and prints their reports: for working on drills; `okno-chaos drill` is the command for everybody.

use std::time::Duration;

fn main() {
    let mut options =
        okno_drills::Options { wait: Duration::from_secs(5), ..okno_drills::Options::default() };
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--seed" => options.seed = value().parse().expect("a number"),
            "--binary" => options.binary = Some(value().into()),
            "--mutant" => options.mutant = Some(value()),
            _ => names.push(argument),
        }
    }
    let drills = okno_drills::select(&names).expect("a drill of this name");
    let reports = okno_drills::run(&drills, &options, |progress| match progress {
        okno_drills::Progress::Ended { report } => {
            eprintln!("{}: {:?} {}", report.name, report.verdict, report.explanation)
        }
        other => eprintln!("{other:?}"),
    });
    println!("{}", serde_json::to_string_pretty(&reports).expect("a report is JSON"));
}
