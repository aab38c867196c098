//! One connection to one endpoint, ready for use: resolved, connected, under TLS if asked, its socket set up.

mod connect;
mod error;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::resolve::Resolver;
use crate::config::{Address, Endpoint, Upstream};
use crate::net::tls::{self, ClientTls};
use crate::net::transport::Transport;
use connect::{connect, race};

pub use error::{DialError, Stage};

/// How to dial, the same for all endpoints of an upstream.
#[derive(Clone)]
pub struct DialOptions {
    /// For resolving, connecting and TLS together.
    pub connect_timeout: Duration,
    /// `None`: plain.
    pub tls: Option<Arc<ClientTls>>,
    /// Whose name TLS checks, unless `tls.server_name` says otherwise. `None`: that of the address dialled. A gateway
    /// may say where else it is reached, but not by which name it is known.
    pub known_as: Option<Address>,
}

impl DialOptions {
    /// What an upstream's configuration says. `tls` is made from it once, and shared, so that a reload of its files
    /// reaches every dial.
    pub fn new(upstream: &Upstream, tls: Option<Arc<ClientTls>>) -> Self {
        Self { connect_timeout: upstream.retry.connect_timeout, tls, known_as: None }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Dialled {
    pub transport: Transport,
    /// Where it leads; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// From the connect call to the connection: one round trip, and the only measure of it that an idle connection
    /// has (keepalive does not refresh the kernel's).
    pub connect_rtt: Duration,
}

/// Opens one connection to `target`, all within `options.connect_timeout`.
///
/// A host name's addresses race, both families; a literal address takes the short way. Dropping the future closes
/// whatever is open.
pub async fn dial(target: &Endpoint, options: &DialOptions, resolver: &Resolver) -> Result<Dialled, DialError> {
    let dial = Dial { target, options, deadline: Instant::now() + options.connect_timeout };
    match &target.address {
        Address::Ip(address) => {
            #[cfg(test)]
            if let Some(dialled) = dial.in_memory(*address).await {
                return dialled;
            }
            let connected = timeout_at(dial.deadline, connect(*address)).await;
            let (socket, connect_rtt) = dial.settle(address, connected)?;
            dial.over_tcp(socket, *address, connect_rtt).await
        }
        Address::Host { host, port } => {
            let resolved = resolver.resolve(host, *port, options.connect_timeout).await;
            let answer = match resolved {
                Ok(answer) => answer,
                Err(source) => return Err(DialError::Resolve { endpoint: target.name.clone(), source }),
            };
            #[cfg(test)]
            if let Some(address) = answer.addresses.first()
                && let Some(dialled) = dial.in_memory(*address).await
            {
                return dialled;
            }
            dial.any(answer.addresses).await
        }
        Address::Unix(path) => {
            let address = path.display();
            let begun = Instant::now();
            let connected = timeout_at(dial.deadline, UnixStream::connect(path)).await;
            let socket = dial.settle(&address, connected)?;
            let connect_rtt = begun.elapsed();
            let transport = match &options.tls {
                None => Transport::Unix(socket),
                Some(tls) => Transport::TlsUnix(Box::new(dial.secured(tls, socket, &address).await?)),
            };
            Ok(Dialled { transport, address: None, connect_rtt })
        }
    }
}

/// The same with a host's addresses at hand, all within `deadline`: they race, and the first to connect is taken.
pub async fn dial_any(
    target: &Endpoint,
    addresses: Vec<SocketAddr>,
    options: &DialOptions,
    deadline: Instant,
) -> Result<Dialled, DialError> {
    Dial { target, options, deadline }.any(addresses).await
}

/// One dial, while it lasts.
struct Dial<'a> {
    target: &'a Endpoint,
    options: &'a DialOptions,
    deadline: Instant,
}

impl Dial<'_> {
    async fn any(&self, addresses: Vec<SocketAddr>) -> Result<Dialled, DialError> {
        let tried = match &addresses[..] {
            [one] => one.to_string(),
            several => format!("{} addresses", several.len()),
        };
        let (address, (socket, connect_rtt)) = match timeout_at(self.deadline, race(addresses)).await {
            Ok(Ok(won)) => won,
            Ok(Err((address, source))) => {
                let address = address.map_or(tried, |address| address.to_string());
                return Err(DialError::connecting(self.target, address, self.options.connect_timeout, source));
            }
            Err(_) => return Err(self.timed_out(tried, Stage::Connect)),
        };
        self.over_tcp(socket, address, connect_rtt).await
    }

    /// The way of a dial in a simulation.
    #[cfg(test)]
    async fn in_memory(&self, address: SocketAddr) -> Option<Result<Dialled, DialError>> {
        let connected = timeout_at(self.deadline, crate::net::memory::connect(address)?).await;
        Some(self.settle(&address, connected).map(|(socket, connect_rtt)| Dialled {
            transport: Transport::Memory(socket),
            address: Some(address),
            connect_rtt,
        }))
    }

    /// A connect that has ended, one way or another.
    fn settle<T>(
        &self,
        address: &impl ToString,
        connected: Result<io::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, DialError> {
        match connected {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => {
                let within = self.options.connect_timeout;
                Err(DialError::connecting(self.target, address.to_string(), within, error))
            }
            Err(_) => Err(self.timed_out(address.to_string(), Stage::Connect)),
        }
    }

    fn timed_out(&self, address: String, stage: Stage) -> DialError {
        DialError::Timeout { endpoint: self.target.name.clone(), address, stage, within: self.options.connect_timeout }
    }

    async fn over_tcp(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        connect_rtt: Duration,
    ) -> Result<Dialled, DialError> {
        let transport = match &self.options.tls {
            None => Transport::Tcp(socket),
            Some(tls) => Transport::Tls(Box::new(self.secured(tls, socket, &address).await?)),
        };
        Ok(Dialled { transport, address: Some(address), connect_rtt })
    }

    async fn secured<S>(
        &self,
        tls: &ClientTls,
        socket: S,
        address: &impl ToString,
    ) -> Result<tokio_rustls::client::TlsStream<S>, DialError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let failed = |reason: String| DialError::Tls {
            endpoint: self.target.name.clone(),
            address: address.to_string(),
            reason,
        };
        let known_as = self.options.known_as.as_ref().unwrap_or(&self.target.address);
        let name = tls.server_name(known_as).map_err(|error| failed(error.to_string()))?;
        match timeout_at(self.deadline, tls.handshake(name, socket)).await {
            Ok(Ok(secured)) => Ok(secured),
            Ok(Err(error)) => Err(failed(tls::explain(&error))),
            Err(_) => Err(self.timed_out(address.to_string(), Stage::Tls)),
        }
    }
}

#[cfg(test)]
mod tests;
