//! Workstations of tests: one that stays attached and waits for notices; those that are processes are the harness's.

use crate::{cluster::Cluster, people};
use futures::StreamExt;
use okno_client::v1 as proto;
pub use okno_drills::harness::station::StationProcess;
use proto::{attach_request, attach_response};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// An attached workstation.
pub struct Station {
    down: tonic::Streaming<proto::AttachResponse>,
    up: mpsc::Sender<proto::AttachRequest>,
    beats: u64,
}

impl Station {
    /// Attaches `workstation` of the quiet office to a node.
    pub async fn attach(cluster: &Cluster, node: u64, workstation: &str) -> Self {
        let (up, outbound) = mpsc::channel(16);
        let hello = attach_request::Message::Hello(proto::AttachHello {
            workstation: workstation.into(),
            office: people::QUIET_OFFICE.into(),
            window: "3".into(),
        });
        up.send(proto::AttachRequest { message: Some(hello) }).await.expect("room for the first");
        let desk = cluster.desk_at(node, "workstation", workstation);
        let down = desk.client.attach(None, ReceiverStream::new(outbound)).await.expect("attached");
        Self { down, up, beats: 0 }
    }

    /// The next notice of this kind; meanwhile the station stays attached.
    pub async fn notice(&mut self, kind: &str, within: Duration) -> proto::Notice {
        let told = async {
            loop {
                let next =
                    self.down.next().await.expect("the stream goes on").expect("the stream is healthy");
                match next.message.expect("a message") {
                    attach_response::Message::Notice(notice) if notice.kind == kind => return notice,
                    attach_response::Message::Notice(_) => {}
                    attach_response::Message::Lease(_) => {
                        self.beats += 1;
                        let beat =
                            attach_request::Message::Heartbeat(proto::Heartbeat { sequence: self.beats });
                        let request = proto::AttachRequest { message: Some(beat) };
                        self.up.send(request).await.expect("the stream is open");
                    }
                }
            }
        };
        let told = tokio::time::timeout(within, told).await;
        told.unwrap_or_else(|_| panic!("no notice {kind} within {within:?}"))
    }
}
