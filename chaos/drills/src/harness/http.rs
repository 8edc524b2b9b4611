//! A plain HTTP/1.1 request to a node's own port of figures and health.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Figures take some tens of KiB.
const ANSWER_MAX: u64 = 4 << 20;

/// Head and body of the answer to a GET.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let call = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(ANSWERS_WITHIN, call).await?
}
