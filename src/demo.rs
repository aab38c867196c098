//! The whole road on one machine: the servers that a configuration names, inside this process.
//!
//! Each answers `ping` with `pong` and echoes everything else, as plain as the server of a tutorial. They can be
//! stopped for a while, to see the links fall and return. A gateway named in the file runs in this process as well, so a
//! tunnel's link can be cut and healed before one's eyes.

#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Address, Config};

/// How long a stopped server stays away.
pub const OUTAGE: Duration = Duration::from_secs(10);

/// A running echo server.
pub struct Server {
    pub address: SocketAddr,
    outage: tokio::sync::mpsc::Sender<Duration>,
    stop: CancellationToken,
}

/// The loopback addresses that a configuration's endpoints and services name: those this process may serve itself. What a
/// tunnel dials is the gateway's.
pub fn addresses(config: &Config) -> Vec<SocketAddr> {
    let direct = config.upstreams.values().filter(|upstream| upstream.tunnel.is_none());
    let endpoints = direct.flat_map(|upstream| &upstream.endpoints).map(|endpoint| &endpoint.address);
    let services = config.gateway.iter().flat_map(|gateway| gateway.services.values()).map(|service| &service.address);
    let mut all: Vec<_> = endpoints
        .chain(services)
        .filter_map(|address| match address {
            Address::Ip(address) if address.ip().is_loopback() => Some(*address),
            _ => None,
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The variable that names the demo's token file, and where that is if it is not set: as the shipped `config.toml` has it.
pub const TOKEN: (&str, &str) = ("EVERLINK_TOKEN_FILE", "/tmp/everlink-demo.token");

/// Makes a random token for the demo's tunnel, readable by this user alone, unless there is one. Errors: the file cannot be
/// made.
pub fn provide_token(path: &Path) -> io::Result<()> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => writeln!(file, "{text}"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
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

/// What can be typed while a demo runs.
pub const HELP: &str = "type c and Enter to cut the tunnel's link silently for 10 seconds, s and Enter to stop the inner server \
                        for 10 seconds, q and Enter to end";

/// Lines typed on a terminal; never ready without one.
pub struct Keys(Option<tokio::sync::mpsc::Receiver<String>>);

impl Keys {
    /// Reads standard input on a thread of its own if it is a terminal.
    pub fn from_terminal() -> Self {
        use std::io::{BufRead, IsTerminal};
        if !io::stdin().is_terminal() {
            return Self(None);
        }
        let (typed, keys) = tokio::sync::mpsc::channel(1);
        let read = move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                if typed.blocking_send(line).is_err() {
                    return;
                }
            }
        };
        match std::thread::Builder::new().name("keys".into()).spawn(read) {
            Ok(_) => Self(Some(keys)),
            Err(_) => Self(None),
        }
    }

    pub fn none() -> Self {
        Self(None)
    }

    pub async fn next(&mut self) -> String {
        if let Some(keys) = &mut self.0 {
            if let Some(line) = keys.recv().await {
                return line.trim().to_owned();
            }
            self.0 = None;
        }
        std::future::pending().await
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
