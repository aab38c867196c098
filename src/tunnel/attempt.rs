//! One attempt at a connection: the dial, and what is said over it before the session goes on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;

use super::claims::Failure;
use crate::config::{Address, Endpoint};
use crate::link::dial::{self, DialError, DialOptions};
use crate::link::drill;
use crate::link::resolve::Resolver;
use crate::metrics::DialOutcome;
use crate::net::rehearsal::Rehearsal;
use crate::net::wire::Wire;
use crate::session::hello::{Answer, HelloError};

/// A connection over which nothing has been said yet.
pub struct Connected {
    pub wire: Wire,
    pub address: Option<SocketAddr>,
    /// Its round trip, as the connect measured it.
    pub rtt: Duration,
}

/// An answered Hello.
pub struct Answered {
    pub wire: Wire,
    pub answer: Answer,
    /// The Hello's bytes, for the proof in the Welcome.
    pub hello: Vec<u8>,
    pub nonce: [u8; 32],
}

/// Why a Hello was not answered.
#[derive(Debug, Error)]
pub enum AskError {
    #[error("the connection broke before the hello was answered: {0}")]
    Io(#[from] io::Error),
    #[error("the gateway closed the connection without an answer: see its log")]
    Closed,
    #[error("the gateway did not answer the hello within {0:?}")]
    Timeout(Duration),
    #[error("{0}: is this an everlink gateway?")]
    Hello(#[from] HelloError),
}

/// Where an attempt goes.
pub struct Target {
    pub endpoint: Endpoint,
    /// Whose certificate is asked for, if not that of the address.
    pub known_as: Option<Address>,
}

/// Resolves, connects, and makes TLS. `rehearsal`: the outage that the way leads into.
pub async fn connect(
    target: Target,
    options: DialOptions,
    resolver: Resolver,
    rehearsal: Option<Arc<Rehearsal>>,
) -> Result<Connected, DialError> {
    let mut options = DialOptions { known_as: target.known_as, ..options };
    if let Some(rehearsal) = &rehearsal {
        options.connect_timeout = drill::pass(rehearsal, &target.endpoint.name, options.connect_timeout).await?;
    }
    let dialled = dial::dial(&target.endpoint, &options, &resolver).await?;
    let wire = Wire::from_transport(dialled.transport).map_err(|_| DialError::Refused {
        endpoint: target.endpoint.name.clone(),
        address: "a unix socket".to_owned(),
        source: io::ErrorKind::Unsupported.into(),
    })?;
    Ok(Connected { wire, address: dialled.address, rtt: dialled.connect_rtt })
}

/// Says `hello` and reads the answer, not a byte more.
pub async fn ask(mut wire: Wire, hello: Vec<u8>, nonce: [u8; 32], within: Duration) -> Result<Answered, AskError> {
    let asked = async {
        write_all(&mut wire, &hello).await?;
        let mut bytes = Vec::with_capacity(256);
        loop {
            if let Some((answer, _)) = Answer::parse(&bytes)? {
                return Ok::<_, AskError>(answer);
            }
            // The head tells the length; behind it stands the session's first byte.
            let want = match bytes.get(12..14).and_then(|length| length.try_into().ok()).map(u16::from_le_bytes) {
                None => 14 - bytes.len(),
                Some(length) => usize::from(length).saturating_sub(bytes.len()),
            };
            read_some(&mut wire, &mut bytes, want).await?;
        }
    };
    match tokio::time::timeout(within, asked).await {
        Ok(answer) => Ok(Answered { answer: answer?, wire, hello, nonce }),
        Err(_) => Err(AskError::Timeout(within)),
    }
}

async fn write_all(wire: &mut Wire, mut bytes: &[u8]) -> io::Result<()> {
    std::future::poll_fn(|context| {
        while !bytes.is_empty() {
            match wire.poll_write(context, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        wire.poll_flush(context)
    })
    .await
}

async fn read_some(wire: &mut Wire, bytes: &mut Vec<u8>, want: usize) -> Result<(), AskError> {
    let mut buffer = [0; 512];
    let buffer = &mut buffer[..want.clamp(1, 512)];
    let count = std::future::poll_fn(|context| wire.poll_read(context, buffer)).await?;
    if count == 0 {
        return Err(AskError::Closed);
    }
    bytes.extend_from_slice(&buffer[..count]);
    Ok(())
}

/// What a failed dial means for the claim.
pub fn failure(error: &DialError) -> Failure {
    match error.outcome() {
        DialOutcome::Local => Failure::Local,
        DialOutcome::Resolve => Failure::Resolve,
        DialOutcome::Timeout => Failure::Timeout,
        DialOutcome::Tls => Failure::Tls,
        _ => Failure::Refused,
    }
}

impl AskError {
    /// What it means for the claim, and how the dial is counted.
    pub fn failure(&self) -> (Failure, DialOutcome) {
        match self {
            Self::Timeout(_) => (Failure::Timeout, DialOutcome::Timeout),
            Self::Io(error) if error.kind() == io::ErrorKind::InvalidData => (Failure::Tls, DialOutcome::Tls),
            Self::Io(_) | Self::Closed | Self::Hello(_) => (Failure::Refused, DialOutcome::Refused),
        }
    }
}
