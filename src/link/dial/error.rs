//! Why there is no connection, and what to do about it.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::config::Endpoint;
use crate::link::resolve::ResolveError;
use crate::metrics::DialOutcome;
use crate::net::socket;

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
    #[error("{}: {}: {}", place(.endpoint, .address), in_words(.source), refused_advice(.source))]
    Refused { endpoint: String, address: String, source: io::Error },
    #[error("{}: {} within {within:?}: {}", place(.endpoint, .address), .stage.unfinished(), .stage.advice())]
    Timeout { endpoint: String, address: String, stage: Stage, within: Duration },
    #[error("{}: TLS failed: {reason}", place(.endpoint, .address))]
    Tls { endpoint: String, address: String, reason: String },
    /// This process or host is short of something; the endpoint may be well.
    #[error("{}: {}: {}", place(.endpoint, .address), in_words(.source), local_advice(.source))]
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

    pub(super) fn connecting(endpoint: &Endpoint, address: impl ToString, within: Duration, source: io::Error) -> Self {
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

/// What the kernel said, without its number: an advice follows.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text).to_owned(),
        None => text,
    }
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
