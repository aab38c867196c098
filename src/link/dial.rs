use super::resolve::Resolver;
use crate::config::{self, Address, Endpoint};
use crate::metrics::DialOutcome;
use crate::net::{socket, stream::Stream, tls::ClientTls};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub struct DialOptions {
    pub timeout: Duration,
}
impl DialOptions {
    pub fn of(s: &config::Upstream, _tls: Option<Arc<ClientTls>>) -> Self {
        Self { timeout: s.retry.connect_timeout }
    }
}
pub struct Dialled {
    pub stream: Stream,
    pub address: Option<SocketAddr>,
    pub connect_rtt: Duration,
    pub took: Duration,
}
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no endpoint")]
    NoEndpoint,
    #[error("{0}")]
    Io(std::io::Error),
}
impl DialError {
    pub fn outcome(&self) -> DialOutcome {
        DialOutcome::Refused
    }
}
pub async fn dial(e: &Endpoint, o: &DialOptions, _r: &Resolver) -> Result<Dialled, DialError> {
    let at = Instant::now();
    let Address::Ip(a) = &e.address else { return Err(DialError::NoEndpoint) };
    let s = tokio::time::timeout(o.timeout, tokio::net::TcpStream::connect(a))
        .await
        .map_err(|e| DialError::Io(e.into()))?
        .map_err(DialError::Io)?;
    let _ = socket::nodelay(&s);
    Ok(Dialled { stream: Stream::Tcp(s), address: Some(*a), connect_rtt: at.elapsed(), took: at.elapsed() })
}
