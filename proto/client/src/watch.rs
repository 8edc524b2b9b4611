//! Following cases across nodes: when the stream breaks or falls silent, it is taken up at another endpoint behind
//! the last change seen.

use crate::{client::Client, error::CallError, resumed::Resumed};
use okno_proto::v1::{WatchCasesRequest, WatchCasesResponse};

/// A stream of changes that survives the loss of a node. Changes come at least once: one that was seen just before
/// a break may come again, its journal index tells.
#[derive(Debug)]
pub struct CaseWatch(Resumed<WatchCasesRequest, WatchCasesResponse>);

impl CaseWatch {
    pub fn new(client: Client, request: WatchCasesRequest) -> Self {
        let path = "/okno.v1.CaseService/WatchCases";
        Self(Resumed::new(client, path, request, |request, response: &WatchCasesResponse| {
            request.resume_token.clone_from(&response.resume_token);
        }))
    }

    /// Resumes behind the last change returned.
    pub fn resume_token(&self) -> &str {
        &self.0.request.resume_token
    }

    /// The next change or sign of life. Fails when the cluster refuses the watch, or when no node has taken it up for
    /// as long as a call may last.
    pub async fn next(&mut self) -> Result<WatchCasesResponse, CallError> {
        self.0.next().await
    }
}
