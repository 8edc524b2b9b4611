//! `workstation CLUSTER CA CERTIFICATE KEY NAME ENDPOINT…`: the program of a workstation. Attaches, keeps its lease up, and
//! attaches anew, at the next node, whenever a stream ends. Says `attached NODE LEASE` for each stream, `beat SEQUENCE`
//! for each heartbeat that was answered, and `apart REASON` when a stream has ended.

use super::{caller, say, usage};
use okno_client::{Client, v1 as proto};
use proto::{attach_request, attach_response};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Between two attempts to attach.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

pub fn run(arguments: &[String]) -> ExitCode {
    let [cluster, ca, cert, key, name, endpoints @ ..] = arguments else {
        return usage("workstation CLUSTER CA CERTIFICATE KEY NAME ENDPOINT…");
    };
    if endpoints.is_empty() {
        return usage("workstation CLUSTER CA CERTIFICATE KEY NAME ENDPOINT…");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = match caller(cluster, ca, cert, key, endpoints) {
            Ok(client) => client,
            Err(error) => {
                eprintln!("workstation: {error}");
                return ExitCode::from(2);
            }
        };
        for turn in 0.. {
            if let Err(reason) = attached(&client, turn % endpoints.len(), name).await {
                say(&format!("apart {reason}"));
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        ExitCode::SUCCESS
    })
}

/// One stream, until it ends.
async fn attached(client: &Client, endpoint: usize, name: &str) -> Result<(), String> {
    let (up, outbound) = mpsc::channel(4);
    let send = async |message| {
        up.send(proto::AttachRequest { message: Some(message) }).await.map_err(|_| "stream closed".to_owned())
    };
    let hello = proto::AttachHello { workstation: name.to_owned(), ..proto::AttachHello::default() };
    send(attach_request::Message::Hello(hello)).await?;
    let stream = client.attach(Some(endpoint), ReceiverStream::new(outbound)).await;
    let mut down = stream.map_err(|error| error.to_string())?;
    let mut beat: Option<tokio::time::Interval> = None;
    let mut sequence = 0;
    loop {
        let due = async {
            match &mut beat {
                Some(beat) => {
                    beat.tick().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            response = down.message() => {
                let response = response.map_err(|status| status.to_string())?.ok_or("stream ended")?;
                if let Some(attach_response::Message::Lease(lease)) = response.message {
                    match beat {
                        Some(_) => say(&format!("beat {}", lease.sequence)),
                        None => {
                            say(&format!("attached {} {}", lease.served_by, lease.lease_id));
                            let every = Duration::from_millis(u64::from(lease.heartbeat_interval_ms).max(1));
                            beat = Some(tokio::time::interval(every));
                        }
                    }
                }
            }
            () = due => {
                sequence += 1;
                send(attach_request::Message::Heartbeat(proto::Heartbeat { sequence })).await?;
            }
        }
    }
}
