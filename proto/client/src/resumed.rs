//! A server's stream that survives the loss of a node: when it breaks or falls silent, it is opened again at another endpoint
//! behind the last response seen. Which that is, the request says.

use crate::{
    client::{Client, read_error},
    error::{CallError, Class},
};
use std::time::{Duration, Instant};
use tonic::{Status, Streaming};

/// A sign of life comes at least every 10 s; twice that in silence means the node or the way to it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Between attempts to open the stream.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Resumed<Q, R> {
    client: Client,
    path: &'static str,
    pub request: Q,
    /// Moves the request behind a response.
    behind: fn(&mut Q, &R),
    stream: Option<(usize, Streaming<R>)>,
}

impl<Q, R> Resumed<Q, R>
where
    Q: prost::Message + Clone + 'static,
    R: prost::Message + Default + 'static,
{
    pub fn new(client: Client, path: &'static str, request: Q, behind: fn(&mut Q, &R)) -> Self {
        Self { client, path, request, behind, stream: None }
    }

    /// The next response. Fails when the cluster refuses the stream, or when no node has taken it up for as long as a call
    /// may last.
    pub async fn next(&mut self) -> Result<R, CallError> {
        let give_up = Instant::now() + self.client.settings().deadline + SILENCE_MAX;
        loop {
            let (index, stream) = match &mut self.stream {
                Some((index, stream)) => (*index, stream),
                None => match self.client.server_stream(None, self.path, self.request.clone()).await {
                    Ok(opened) => {
                        let (index, stream) = self.stream.insert(opened);
                        (*index, stream)
                    }
                    Err((_, status)) => {
                        give_up_if(&status, give_up)?;
                        tokio::time::sleep(REOPEN_PAUSE).await;
                        continue;
                    }
                },
            };
            let status = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(response))) => {
                    (self.behind)(&mut self.request, &response);
                    return Ok(response);
                }
                Ok(Ok(None)) => Status::unavailable("the node closed the stream"),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("the node has fallen silent"),
            };
            self.stream = None;
            self.client.fail_over(index, &status);
            give_up_if(&status, give_up)?;
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }
}

fn give_up_if(status: &Status, give_up: Instant) -> Result<(), CallError> {
    let error = read_error(status);
    if error.class() == Class::Refused || Instant::now() >= give_up { Err(error) } else { Ok(()) }
}
