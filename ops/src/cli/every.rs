//! One question to every endpoint: for commands whose answer is the sum of what single nodes say.

use super::Session;
use futures::future::join_all;
use okno_client::{Call, CallError, CallOptions};

/// What one endpoint said.
pub struct Said<R> {
    pub index: usize,
    pub endpoint: String,
    pub answer: Result<R, CallError>,
}

/// Asks every endpoint, or that of `--node`, once.
pub async fn ask<C: Call>(session: &Session, request: C) -> Vec<Said<C::Response>> {
    let endpoints: Vec<String> = session.client.endpoints().map(str::to_owned).collect();
    let wanted: Vec<usize> = match session.endpoint() {
        Some(endpoint) => vec![endpoint],
        None => (0..endpoints.len()).collect(),
    };
    let answers = join_all(wanted.iter().map(|index| {
        let options = CallOptions { endpoint: Some(*index), once: true, ..CallOptions::default() };
        session.client.call_with(request.clone(), options)
    }))
    .await;
    wanted
        .into_iter()
        .zip(answers)
        .map(|(index, answer)| Said {
            index,
            endpoint: endpoints[index].clone(),
            answer: answer.map(|answer| answer.response),
        })
        .collect()
}
