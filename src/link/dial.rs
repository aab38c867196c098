//! One connection to one endpoint, ready for use: resolved, connected, under TLS if asked, its socket set up.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::attempts::Attempts;
use super::race::{Race, Step};
use super::resolve::{ResolveError, Resolver};
use crate::config::{Address, Endpoint, Upstream};
use crate::metrics::DialOutcome;
use crate::net::socket;
use crate::net::stream::Stream;
use crate::net::tls::{self, ClientTls};

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
    pub stream: Stream,
    /// Where it leads; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// From the connect call to the connection: one round trip, and the only measure of it that an idle connection
    /// has (keepalive does not refresh the kernel's).
    pub connect_rtt: Duration,
}

/// What a dial was doing when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Connect,
    Tls,
}

/// Why there is no connection. `address` is the one dialled, or how many were.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("{endpoint}: {source}")]
    Resolve { endpoint: String, source: ResolveError },
    /// Answered with no, or known to be out of reach.
    #[error("{}: {source}: {}", place(.endpoint, .address), refused_advice(.source))]
    Refused { endpoint: String, address: String, source: io::Error },
    #[error("{}: {} within {within:?}: {}", place(.endpoint, .address), .stage.unfinished(), .stage.advice())]
    Timeout { endpoint: String, address: String, stage: Stage, within: Duration },
    #[error("{}: TLS failed: {reason}", place(.endpoint, .address))]
    Tls { endpoint: String, address: String, reason: String },
    /// This process or host is short of something; the endpoint may be well.
    #[error("{}: {source}: {}", place(.endpoint, .address), local_advice(.source))]
    Local { endpoint: String, address: String, source: io::Error },
}

impl DialError {
    /// How the dial is counted.
    pub fn outcome(&self) -> DialOutcome {
        match self {
            Self::Resolve { source, .. } if source.is_local() => DialOutcome::Local,
            Self::Resolve { .. } => DialOutcome::Resolve,
            Self::Refused { .. } => DialOutcome::Refused,
            Self::Timeout { .. } => DialOutcome::Timeout,
            Self::Tls { .. } => DialOutcome::Tls,
            Self::Local { .. } => DialOutcome::Local,
        }
    }

    /// The endpoint that was dialled, by its name in the configuration.
    pub fn endpoint(&self) -> &str {
        match self {
            Self::Resolve { endpoint, .. }
            | Self::Refused { endpoint, .. }
            | Self::Timeout { endpoint, .. }
            | Self::Tls { endpoint, .. }
            | Self::Local { endpoint, .. } => endpoint,
        }
    }

    fn connecting(endpoint: &Endpoint, address: impl ToString, within: Duration, source: io::Error) -> Self {
        let (endpoint, address) = (endpoint.name.clone(), address.to_string());
        if socket::is_local(&source) {
            Self::Local { endpoint, address, source }
        } else if source.kind() == io::ErrorKind::TimedOut {
            Self::Timeout { endpoint, address, stage: Stage::Connect, within }
        } else {
            Self::Refused { endpoint, address, source }
        }
    }
}

impl Stage {
    fn unfinished(self) -> &'static str {
        match self {
            Self::Connect => "did not answer",
            Self::Tls => "did not finish the TLS handshake",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Connect => "is it up, and does a firewall on the way drop packets?",
            Self::Tls => "does it speak TLS from the first byte?",
        }
    }
}

/// An endpoint that is an address is not told twice.
fn place(endpoint: &str, address: &str) -> String {
    if endpoint == address { endpoint.to_owned() } else { format!("{endpoint} ({address})") }
}

fn refused_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "is the server up, and is this its port?",
        io::ErrorKind::ConnectionReset => "the server, or a proxy before it, hangs up at once: see its log",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "check this host's routes and the address"
        }
        io::ErrorKind::NotFound => "is the server up, and is this its socket?",
        io::ErrorKind::WouldBlock => "its queue of new connections is full: the server does not keep up",
        _ => "check the address",
    }
}

fn local_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "this process is out of descriptors: raise its limit (ulimit -n, LimitNOFILE)",
        Some(libc::ENFILE) => "this host is out of descriptors: raise fs.file-max",
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => {
            "no local port is left for this peer (widen net.ipv4.ip_local_port_range), or this host has no address of \
             its family"
        }
        Some(libc::ENOBUFS | libc::ENOMEM) => "the kernel is out of memory for sockets",
        Some(libc::EAFNOSUPPORT) => "this host has no such address family",
        _ => "this host forbids it: check the socket's mode, its firewall and the security policy",
    }
}

/// Opens one connection to `target`, all within `options.connect_timeout`.
///
/// A host name's addresses race, both families; a literal address takes the short way. Dropping the future closes
/// whatever is open.
pub async fn dial(target: &Endpoint, options: &DialOptions, resolver: &Resolver) -> Result<Dialled, DialError> {
    let deadline = Instant::now() + options.connect_timeout;
    match &target.address {
        Address::Ip(address) => {
            #[cfg(test)]
            if let Some(connecting) = crate::net::memory::connect(*address) {
                let (socket, connect_rtt) = settle(target, options, address, timeout_at(deadline, connecting).await)?;
                return Ok(Dialled { stream: Stream::Memory(socket), address: Some(*address), connect_rtt });
            }
            let connected = timeout_at(deadline, connect(*address)).await;
            let (stream, connect_rtt) = settle(target, options, address, connected)?;
            secured_tcp(target, options, deadline, stream, *address, connect_rtt).await
        }
        Address::Host { host, port } => {
            let resolved = resolver.resolve(host, *port, options.connect_timeout).await;
            let answer = match resolved {
                Ok(answer) => answer,
                Err(source) => return Err(DialError::Resolve { endpoint: target.name.clone(), source }),
            };
            dial_any(target, answer.addresses, options, deadline).await
        }
        Address::Unix(path) => {
            let address = path.display();
            let begun = Instant::now();
            let connected = timeout_at(deadline, UnixStream::connect(path)).await;
            let stream = settle(target, options, &address, connected)?;
            let connect_rtt = begun.elapsed();
            let stream = match &options.tls {
                None => Stream::Unix(stream),
                Some(tls) => {
                    Stream::TlsUnix(Box::new(secured(target, options, deadline, tls, stream, &address).await?))
                }
            };
            Ok(Dialled { stream, address: None, connect_rtt })
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
    let tried = match &addresses[..] {
        [one] => one.to_string(),
        several => format!("{} addresses", several.len()),
    };
    let (address, (stream, connect_rtt)) = match timeout_at(deadline, race(addresses)).await {
        Ok(Ok(won)) => won,
        Ok(Err((address, source))) => {
            let address = address.map_or(tried, |address| address.to_string());
            return Err(DialError::connecting(target, address, options.connect_timeout, source));
        }
        Err(_) => return Err(timed_out(target, options, tried, Stage::Connect)),
    };
    secured_tcp(target, options, deadline, stream, address, connect_rtt).await
}

/// A connect that has ended, one way or another.
fn settle<T>(
    target: &Endpoint,
    options: &DialOptions,
    address: &impl ToString,
    connected: Result<io::Result<T>, tokio::time::error::Elapsed>,
) -> Result<T, DialError> {
    match connected {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(DialError::connecting(target, address.to_string(), options.connect_timeout, error)),
        Err(_) => Err(timed_out(target, options, address.to_string(), Stage::Connect)),
    }
}

fn timed_out(target: &Endpoint, options: &DialOptions, address: String, stage: Stage) -> DialError {
    DialError::Timeout { endpoint: target.name.clone(), address, stage, within: options.connect_timeout }
}

async fn secured_tcp(
    target: &Endpoint,
    options: &DialOptions,
    deadline: Instant,
    stream: TcpStream,
    address: SocketAddr,
    connect_rtt: Duration,
) -> Result<Dialled, DialError> {
    let stream = match &options.tls {
        None => Stream::Tcp(stream),
        Some(tls) => Stream::Tls(Box::new(secured(target, options, deadline, tls, stream, &address).await?)),
    };
    Ok(Dialled { stream, address: Some(address), connect_rtt })
}

async fn secured<S>(
    target: &Endpoint,
    options: &DialOptions,
    deadline: Instant,
    tls: &ClientTls,
    stream: S,
    address: &impl ToString,
) -> Result<tokio_rustls::client::TlsStream<S>, DialError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let failed =
        |reason: String| DialError::Tls { endpoint: target.name.clone(), address: address.to_string(), reason };
    let known_as = options.known_as.as_ref().unwrap_or(&target.address);
    let name = tls.server_name(known_as).map_err(|error| failed(error.to_string()))?;
    match timeout_at(deadline, tls.handshake(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(tls::explain(&error))),
        Err(_) => Err(timed_out(target, options, address.to_string(), Stage::Tls)),
    }
}

type Connected = (TcpStream, Duration);

/// Races the addresses. When all fail, the most telling failure is reported: that a host has no IPv6 says nothing about
/// an endpoint whose IPv4 address refuses.
async fn race(addresses: Vec<SocketAddr>) -> Result<(SocketAddr, Connected), (Option<SocketAddr>, io::Error)> {
    let mut race = Race::new(addresses, Instant::now());
    let mut attempts = Attempts::new();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut worst: Option<(SocketAddr, io::Error)> = None;
    loop {
        let (number, outcome) = match race.step(Instant::now()) {
            Step::Start(address) => {
                attempts.start(tried.len(), connect(address));
                tried.push(address);
                continue;
            }
            Step::WaitUntil(at) => tokio::select! {
                done = attempts.next() => done,
                () = sleep_until(at) => continue,
            },
            Step::Wait => attempts.next().await,
            Step::Lost => {
                return Err(match worst {
                    Some((address, error)) => (Some(address), error),
                    None => (None, io::Error::from(io::ErrorKind::AddrNotAvailable)),
                });
            }
        };
        match outcome {
            Ok(connected) => return Ok((tried[number], connected)),
            Err(error) => {
                race.failed(Instant::now());
                if worst.as_ref().is_none_or(|(_, worst)| telling(&error) >= telling(worst)) {
                    worst = Some((tried[number], error));
                }
            }
        }
    }
}

/// Failures that only mean "not by this family from here" tell the least.
fn telling(error: &io::Error) -> u8 {
    let aside = matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
    );
    u8::from(!aside)
}

/// One TCP connection. The way of every refill, some 10,000 times a second, so it makes few system calls: what keeps a
/// connection alive for long ([`socket::sustain`]) is set on those that live for a second.
async fn connect(address: SocketAddr) -> io::Result<Connected> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket::nodelay(&socket)?;
    socket::suit_loopback(&socket, address.ip());
    let begun = Instant::now();
    let stream = socket.connect(address).await?;
    let connect_rtt = begun.elapsed();
    if is_to_itself(&stream, address)? {
        let _ = socket::reset_on_close(&stream);
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    Ok((stream, connect_rtt))
}

/// TCP lets a socket connect to itself when the kernel happens to give it the very port it dials, on this host and with
/// nobody listening. It would echo for ever and keep the server from its port.
fn is_to_itself(stream: &TcpStream, address: SocketAddr) -> io::Result<bool> {
    Ok(ephemeral_ports().contains(&address.port()) && stream.local_addr()? == address)
}

/// The ports the kernel gives to those who dial.
fn ephemeral_ports() -> &'static std::ops::RangeInclusive<u16> {
    static PORTS: OnceLock<std::ops::RangeInclusive<u16>> = OnceLock::new();
    PORTS.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last))) => first..=last,
            _ => 1024..=u16::MAX,
        }
    })
}

#[cfg(test)]
mod tests;
