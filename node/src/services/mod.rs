//! The gRPC services of `okno.v1`: one file each. They translate and ask; deciding is the domain's, ordering the
//! cluster's (design §1).

mod cases;
mod catalogue;
mod cluster;
pub mod desk;
mod directory;
pub mod notices;
mod paging;
mod queue;
mod scope;
mod watch;
pub mod workstations;

use desk::Desk;
use okno_proto::v1;
use std::sync::Arc;
use tonic::service::Routes;

/// All services of the clients' listener, with the bound on messages.
pub fn routes(desk: &Arc<Desk>, message_bytes_max: usize) -> Routes {
    macro_rules! server {
        ($module:ident :: $Server:ident, $service:expr) => {
            v1::$module::$Server::new($service)
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(RESPONSE_BYTES_MAX)
        };
    }
    Routes::new(server!(case_service_server::CaseServiceServer, cases::Cases(desk.clone())))
        .add_service(server!(queue_service_server::QueueServiceServer, queue::Queues(desk.clone())))
        .add_service(server!(catalogue_service_server::CatalogueServiceServer, catalogue::Catalogues(desk.clone())))
        .add_service(server!(directory_service_server::DirectoryServiceServer, directory::Directories(desk.clone())))
        .add_service(server!(cluster_service_server::ClusterServiceServer, cluster::Clusters(desk.clone())))
        .add_service(server!(
            workstation_service_server::WorkstationServiceServer,
            workstations::Workstations(desk.clone())
        ))
}

/// A page of 200 cases of ordinary size stays far below; a response beyond it is a fault of ours.
const RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Names for health checks, in the order of the listing above.
pub const SERVICE_NAMES: [&str; 6] = [
    "okno.v1.CaseService",
    "okno.v1.QueueService",
    "okno.v1.CatalogueService",
    "okno.v1.DirectoryService",
    "okno.v1.ClusterService",
    "okno.v1.WorkstationService",
];
