//! Connections that a listener accepts and never hears of again.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The beginning of a TLS record that announces more than ever comes.
const HALF_A_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

/// Opens `count` connections that stay silent, every other one after half a greeting. Those that the listener did not
/// take are left out: a full listener may refuse.
pub async fn open(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let connected = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(to)).await;
        let Ok(Ok(mut stream)) = connected else { continue };
        if number % 2 == 0 || stream.write_all(HALF_A_HELLO).await.is_ok() {
            open.push(stream);
        }
    }
    open
}

/// How many of them the other side has closed by now.
pub fn closed(streams: &[TcpStream]) -> usize {
    let ended = |stream: &&TcpStream| {
        let mut byte = [0];
        match stream.try_read(&mut byte) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    streams.iter().filter(ended).count()
}
