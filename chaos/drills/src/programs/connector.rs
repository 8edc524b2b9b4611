//! `connector CLUSTER CA CERTIFICATE KEY CHANNEL WORKS_MS ENDPOINT…`: a connector on the SDK. Works on each message for so
//! long and answers with its body turned round, so that an answer says of which request it is. On SIGTERM it settles what
//! it has. Says `got MESSAGE DELIVERY` when it begins with a message and `done MESSAGE` when it has an answer.

use super::{caller, say, usage};
use okno_connectors::{Handler, Message, Setup, Verdict, Work};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const USAGE: &str = "connector CLUSTER CA CERTIFICATE KEY CHANNEL WORKS_MS ENDPOINT…";

pub fn run(arguments: &[String]) -> ExitCode {
    let [cluster, ca, cert, key, channel, works, endpoints @ ..] = arguments else { return usage(USAGE) };
    let Ok(works) = works.parse() else { return usage(USAGE) };
    if endpoints.is_empty() {
        return usage(USAGE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = match caller(cluster, ca, cert, key, endpoints) {
            Ok(client) => client,
            Err(error) => {
                eprintln!("connector: {error}");
                return ExitCode::from(2);
            }
        };
        let stop = CancellationToken::new();
        let told = stop.clone();
        let mut terminate = signal(SignalKind::terminate()).expect("signals can be watched");
        tokio::spawn(async move {
            terminate.recv().await;
            told.cancel();
        });
        let echo = Echo { works: Duration::from_millis(works) };
        okno_connectors::run(client, Setup::new(channel.as_str(), "okno-chaos"), echo, stop).await;
        ExitCode::SUCCESS
    })
}

struct Echo {
    works: Duration,
}

impl Handler for Echo {
    async fn handle(&self, message: Message, _work: Work) -> Verdict {
        say(&format!("got {} {}", message.id, message.delivery));
        tokio::time::sleep(self.works).await;
        say(&format!("done {}", message.id));
        Verdict::complete("готово", turned_round(&message.body))
    }
}

/// What is answered to a body.
pub fn turned_round(body: &[u8]) -> Vec<u8> {
    body.iter().rev().copied().collect()
}
