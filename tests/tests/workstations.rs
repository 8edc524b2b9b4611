//! Workstations hold leases, and cluster notices reach every attached one (R-R1, R-R4).

use futures::StreamExt;
use okno_client::v1 as proto;
use okno_tests::cluster::Cluster;
use okno_tests::people;
use proto::{attach_request, attach_response};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const SOON: Duration = Duration::from_secs(20);

fn request(message: attach_request::Message) -> proto::AttachRequest {
    proto::AttachRequest { message: Some(message) }
}

#[tokio::test]
async fn a_lease_is_renewed_and_the_loss_of_a_node_is_told() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let station = cluster.desk_at(follower, "workstation", "ws-tikhaya-3");
    let (up, outbound) = mpsc::channel(4);
    let hello = attach_request::Message::Hello(proto::AttachHello {
        workstation: "ws-tikhaya-3".into(),
        office: people::QUIET_OFFICE.into(),
        window: "3".into(),
    });
    up.send(request(hello)).await.unwrap();
    let mut down = station.client.attach(None, ReceiverStream::new(outbound)).await.unwrap();

    let next = async |down: &mut tonic::Streaming<proto::AttachResponse>| {
        let response = tokio::time::timeout(SOON, down.next()).await.expect("the node speaks");
        response.expect("the stream goes on").expect("the stream is healthy").message.expect("a message")
    };
    let lease = loop {
        if let attach_response::Message::Lease(lease) = next(&mut down).await {
            break lease;
        }
    };
    assert_eq!((lease.sequence, lease.served_by), (0, follower));
    assert!(!lease.lease_id.is_empty() && lease.heartbeat_interval_ms > 0);

    // A heartbeat renews the same lease.
    up.send(request(attach_request::Message::Heartbeat(proto::Heartbeat { sequence: 1 }))).await.unwrap();
    let renewed = loop {
        if let attach_response::Message::Lease(lease) = next(&mut down).await {
            break lease;
        }
    };
    assert_eq!((renewed.lease_id.as_str(), renewed.sequence), (lease.lease_id.as_str(), 1));

    // The leader is lost: the workstation attached to another node learns of it.
    cluster.kill(leader);
    let told = tokio::time::timeout(SOON, async {
        let mut sequence = 1;
        loop {
            match next(&mut down).await {
                attach_response::Message::Notice(notice) => {
                    assert!(!notice.text_ru.is_empty());
                    if ["LEADER_CHANGED", "MEMBER_DOWN"].contains(&notice.kind.as_str()) {
                        return notice;
                    }
                }
                // A lease wants to be renewed meanwhile.
                attach_response::Message::Lease(_) => {
                    sequence += 1;
                    let beat = attach_request::Message::Heartbeat(proto::Heartbeat { sequence });
                    up.send(request(beat)).await.expect("the stream is open");
                }
            }
        }
    })
    .await
    .expect("the notice arrives");
    assert!(!told.kind.is_empty());
}
