//! Clients that are not ours: `buf curl` and Python's grpcio open a case, with reflection alone (R-O3).

use okno_tests::cluster::Cluster;
use okno_tests::people;
use std::process::Command;

#[tokio::test]
async fn third_party_clients_open_a_case_by_reflection() {
    let cluster = Cluster::start(3).await;
    let officer = cluster.identity("operator", people::OFFICER);
    // Kept between runs: installing the clients takes longer than using them.
    let tools = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("third-party");
    std::fs::create_dir_all(&tools).unwrap();
    let output = Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/third_party.sh"))
        .env("OKNO_ENDPOINT", cluster.entry(2).clients.to_string())
        .env("OKNO_CA", &cluster.file.authorities["clients"].certificate)
        .env("OKNO_CERT", &officer.certificate)
        .env("OKNO_KEY", &officer.key)
        .env("OKNO_OFFICE", people::QUIET_OFFICE)
        .env("OKNO_SERVICE", people::SERVICE)
        .env("OKNO_SNILS", people::snils(1))
        .env("OKNO_TOOLS", &tools)
        .output()
        .expect("a shell can be started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");

    // Both are there for our own client, too.
    let cases: Vec<&str> = out.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(cases.len(), 2, "{out}");
    for case in cases {
        let found = cluster.officer().case(case).await.unwrap();
        assert_eq!(found.office, people::QUIET_OFFICE);
    }
}
