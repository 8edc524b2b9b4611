//! The gRPC services of `okno.v1`: one file each. They translate and ask; deciding is the domain's, ordering the
//! cluster's (design §1).

mod backups;
pub mod board;
mod cases;
mod catalogue;
mod channels;
mod cluster;
mod connector_streams;
mod connectors;
pub mod desk;
mod directory;
mod exchanges;
pub mod hand_out;
pub(crate) mod members;
pub mod notices;
mod operations;
mod paging;
mod queue;
mod queue_stream;
mod reader;
mod scope;
mod transfers;
mod watch;
pub mod workstations;

use crate::observability::http::Ops;
use desk::Desk;
use futures::future::BoxFuture;
use okno_proto::v1;
use okno_storage::snapshot::RocksHome;
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::{body::Body, service::Routes};

/// The services of the clients' listener. Calls of cases and queues, which are nearly all, are dispatched here; a
/// router in front of them would cost more than looking at the path.
#[derive(Clone)]
pub struct ClientServices {
    cases: v1::case_service_server::CaseServiceServer<cases::Cases>,
    queues: v1::queue_service_server::QueueServiceServer<queue::Queues>,
    others: Routes,
}

impl tower::Service<http::Request<Body>> for ClientServices {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // None of them has a bound of its own; those of the listener and the runtime hold.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/okno.v1.CaseService/") {
            self.cases.call(request)
        } else if path.starts_with("/okno.v1.QueueService/") {
            self.queues.call(request)
        } else {
            Box::pin(self.others.call(request))
        }
    }
}

/// All services of the clients' listener, with the bound on messages; `more` adds what is not of `okno.v1`.
pub fn services(
    desk: &Arc<Desk>,
    ops: &Arc<Ops>,
    home: Option<&Arc<RocksHome>>,
    backups: Option<Arc<crate::keepers::backups::Backups>>,
    message_bytes_max: usize,
    more: impl FnOnce(Routes) -> Routes,
) -> ClientServices {
    macro_rules! server {
        ($module:ident :: $Server:ident, $service:expr) => {
            v1::$module::$Server::new($service)
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(RESPONSE_BYTES_MAX)
        };
    }
    let others = Routes::default()
        .add_service(server!(
            catalogue_service_server::CatalogueServiceServer,
            catalogue::Catalogues(desk.clone())
        ))
        .add_service(server!(
            directory_service_server::DirectoryServiceServer,
            directory::Directories(desk.clone())
        ))
        .add_service(server!(
            cluster_service_server::ClusterServiceServer,
            cluster::Clusters::new(desk.clone())
        ))
        .add_service(server!(
            operations_service_server::OperationsServiceServer,
            operations::Operations::new(desk.clone(), ops.clone(), home.cloned())
        ))
        .add_service(server!(
            workstation_service_server::WorkstationServiceServer,
            workstations::Workstations(desk.clone())
        ))
        .add_service(server!(connectors_server::ConnectorsServer, connectors::ConnectorCalls(desk.clone())))
        .add_service(server!(
            exchange_service_server::ExchangeServiceServer,
            exchanges::Exchanges(desk.clone())
        ))
        .add_service(server!(channel_service_server::ChannelServiceServer, channels::Channels(desk.clone())))
        .add_service(server!(
            backup_service_server::BackupServiceServer,
            backups::BackupCalls { desk: desk.clone(), backups }
        ));
    ClientServices {
        cases: server!(case_service_server::CaseServiceServer, cases::Cases(desk.clone())),
        queues: server!(queue_service_server::QueueServiceServer, queue::Queues(desk.clone())),
        others: more(others).prepare(),
    }
}

/// A page of 200 cases of ordinary size stays far below; a response beyond it is a fault of ours.
const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Names for health checks, in the order of the listing above.
pub const SERVICE_NAMES: [&str; 11] = [
    "okno.v1.CaseService",
    "okno.v1.QueueService",
    "okno.v1.CatalogueService",
    "okno.v1.DirectoryService",
    "okno.v1.ClusterService",
    "okno.v1.OperationsService",
    "okno.v1.WorkstationService",
    "okno.v1.Connectors",
    "okno.v1.ExchangeService",
    "okno.v1.ChannelService",
    "okno.v1.BackupService",
];
