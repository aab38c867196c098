//! An echo server as plain as that of a tutorial, which can be stopped for a while.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Answers `ping` with `pong` and echoes everything else, until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    outage: tokio::sync::mpsc::Sender<Duration>,
    stop: CancellationToken,
}

impl Server {
    /// Starts serving. Errors: the address cannot be bound.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = bind(address).await?;
        let address = listener.local_addr()?;
        let (outage, outages) = tokio::sync::mpsc::channel(1);
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, address, outages, stop.clone()));
        Ok(Self { address, outage, stop })
    }

    /// Closes every connection and the port for so long. Asked again meanwhile, it does nothing.
    pub fn go_away_for(&self, time: Duration) {
        let _ = self.outage.try_send(time);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = crate::net::socket::bind_listener(address)?;
    TcpListener::from_std(listener)
}

async fn serve(
    mut listener: TcpListener,
    address: SocketAddr,
    mut outages: tokio::sync::mpsc::Receiver<Duration>,
    stop: CancellationToken,
) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            outage = outages.recv() => {
                let Some(outage) = outage else { return };
                drop(listener);
                clients.shutdown().await;
                tracing::info!(%address, ?outage, "the demo's server is away");
                tokio::time::sleep(outage).await;
                listener = loop {
                    match bind(address).await {
                        Ok(listener) => break listener,
                        Err(error) => {
                            tracing::warn!(%address, %error, "the demo's server cannot come back yet");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                };
                tracing::info!(%address, "the demo's server is back");
            }
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    clients.spawn(echo(stream));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

/// Answers a read of exactly `ping` (with or without a line's end) by `pong`, and echoes anything else.
async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let said = &mut buffer[..count];
        if let [b'p', b'i', b'n', b'g'] | [b'p', b'i', b'n', b'g', b'\n'] | [b'p', b'i', b'n', b'g', b'\r', b'\n'] =
            said
        {
            said[1] = b'o';
        }
        if stream.write_all(said).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn say(stream: &mut TcpStream, what: &[u8]) -> Vec<u8> {
        stream.write_all(what).await.expect("sent");
        let mut answer = vec![0; 64];
        let count = stream.read(&mut answer).await.expect("answered");
        answer.truncate(count);
        answer
    }

    #[tokio::test]
    async fn ping_is_answered_and_all_else_echoed() {
        let server = Server::start("127.0.0.1:0".parse().expect("an address")).await.expect("started");
        let mut client = TcpStream::connect(server.address).await.expect("connected");
        assert_eq!(say(&mut client, b"ping").await, b"pong");
        assert_eq!(say(&mut client, b"ping\n").await, b"pong\n");
        assert_eq!(say(&mut client, b"hello\n").await, b"hello\n");
    }

    #[tokio::test]
    async fn an_outage_ends_connections_and_then_the_server_is_back() {
        let server = Server::start("127.0.0.1:0".parse().expect("an address")).await.expect("started");
        let mut client = TcpStream::connect(server.address).await.expect("connected");
        server.go_away_for(Duration::from_millis(100));
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        let back = async {
            while TcpStream::connect(server.address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), back).await.expect("it came back");
    }
}
