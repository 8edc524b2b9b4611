//! Wire contracts of Okno: `okno.v1` for clients and `okno.peer.v1` between nodes, compiled from the files under
//! `okno/`. Nothing here decides anything; it is the one place where both sides of the wire meet.

/// The packages as they are named on the wire.
pub mod okno {
    /// Client surface.
    #[allow(clippy::doc_lazy_continuation, clippy::large_enum_variant, clippy::result_large_err)]
    pub mod v1 {
        tonic::include_proto!("okno.v1");
    }
    /// Between nodes.
    pub mod peer {
        #[allow(clippy::doc_lazy_continuation, clippy::large_enum_variant, clippy::result_large_err)]
        pub mod v1 {
            tonic::include_proto!("okno.peer.v1");
        }
    }
}

pub use okno::{peer, v1};

/// Every contract with its comments, for server reflection and for the JSON form of messages.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/okno.bin"));

/// Names that both sides use outside of message bodies.
pub mod metadata {
    /// Response metadata and trailers: id of the node that leads, decimal.
    pub const LEADER: &str = "okno-leader";
    /// Response metadata and trailers: id of the node that answered, decimal.
    pub const SERVED_BY: &str = "okno-served-by";
    /// Domain of `google.rpc.ErrorInfo`.
    pub const ERROR_DOMAIN: &str = "okno";
    /// Reason of an error whose outcome is not known (rule 1).
    pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
}
