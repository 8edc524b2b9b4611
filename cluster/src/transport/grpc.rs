//! gRPC transport.
use okno_proto::okno::peer::v1::{
    LinkRequest, LinkResponse,
    peer_service_server::{PeerService as Rpc, PeerServiceServer},
};
use tonic::{Request, Response, Status, Streaming};

/// The service that the node's peer listener serves.
pub type PeerService = PeerServiceServer<PeerEndpoint>;

pub struct PeerEndpoint {}

#[tonic::async_trait]
impl Rpc for PeerEndpoint {
    type LinkStream = futures::stream::BoxStream<'static, Result<LinkResponse, Status>>;
    async fn link(
        &self,
        _request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        todo!()
    }
}
