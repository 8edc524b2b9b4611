//! Following cases across nodes: when the stream breaks or falls silent, it is taken up at another endpoint behind
//! the last change seen.

use crate::{
    client::{Client, read_error},
    error::{CallError, Class},
};
use okno_proto::v1::{WatchCasesRequest, WatchCasesResponse};
use std::time::{Duration, Instant};
use tonic::{Status, Streaming};

/// Progress comes at least every 10 s; twice that in silence means the node or the way to it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Between attempts to open the stream.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// A stream of changes that survives the loss of a node. Changes come at least once: one that was seen just before
/// a break may come again, its journal index tells.
#[derive(Debug)]
pub struct CaseWatch {
    client: Client,
    request: WatchCasesRequest,
    stream: Option<(usize, Streaming<WatchCasesResponse>)>,
}

impl CaseWatch {
    pub fn new(client: Client, request: WatchCasesRequest) -> Self {
        Self { client, request, stream: None }
    }

    /// Resumes behind the last change returned.
    pub fn resume_token(&self) -> &str {
        &self.request.resume_token
    }

    /// The next change or sign of life. Fails when the cluster refuses the watch, or when no node has taken it up for
    /// as long as a call may last.
    pub async fn next(&mut self) -> Result<WatchCasesResponse, CallError> {
        let give_up = Instant::now() + self.client.settings().deadline + SILENCE_MAX;
        loop {
            let (index, stream) = match &mut self.stream {
                Some((index, stream)) => (*index, stream),
                None => {
                    let opened = self
                        .client
                        .server_stream(None, "/okno.v1.CaseService/WatchCases", self.request.clone())
                        .await;
                    match opened {
                        Ok((index, stream)) => {
                            let (index, stream) = self.stream.insert((index, stream));
                            (*index, stream)
                        }
                        Err((_, status)) => {
                            Self::give_up_if(&status, give_up)?;
                            tokio::time::sleep(REOPEN_PAUSE).await;
                            continue;
                        }
                    }
                }
            };
            let status = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(response))) => {
                    self.request.resume_token.clone_from(&response.resume_token);
                    return Ok(response);
                }
                Ok(Ok(None)) => Status::unavailable("the node closed the stream"),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("the node has fallen silent"),
            };
            self.stream = None;
            self.client.fail_over(index, &status);
            Self::give_up_if(&status, give_up)?;
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    fn give_up_if(status: &Status, give_up: Instant) -> Result<(), CallError> {
        let error = read_error(status);
        if error.class() == Class::Refused || Instant::now() >= give_up { Err(error) } else { Ok(()) }
    }
}
