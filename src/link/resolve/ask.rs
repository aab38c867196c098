//! One name put to the nameservers: both families at once, the next nameserver when one is slow or broken.
//!
//! Nothing outlives the question. The DNS library ties its sockets and background tasks to the runtime that asks, so
//! everything is made for one question and gone with it; a resolver kept across runtimes would fail with the first.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{ConnectionProvider, PoolContext, TlsConfig};
use tokio::time::{Instant, sleep_until};

use super::files::ResolvConf;
use crate::link::attempts::Attempts;

/// How long a nameserver may be silent before the next one is asked as well. Its late answer still counts.
const NEXT_SERVER_AFTER: Duration = Duration::from_secs(1);
/// How long to wait for IPv6 addresses once IPv4 ones are there (RFC 8305, section 3: "Resolution Delay").
const WAIT_FOR_V6: Duration = Duration::from_millis(50);
/// And for IPv4 after IPv6: until the race would start its second address anyway. Without IPv4 a host whose IPv6 is
/// dead could not be reached at all.
const WAIT_FOR_V4: Duration = Duration::from_millis(250);

/// The addresses of a name, as long as they may be kept.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// The shortest of the records'.
    pub(super) ttl: Duration,
    /// Each family was told of, be it that there is none.
    pub(super) whole: bool,
}

/// Why a question has no addresses, the least telling first.
#[derive(Debug, Clone)]
pub(super) enum Lack {
    /// The name does not exist.
    NoSuchName,
    /// It exists and has no address.
    NoAddress,
    /// No nameserver answered in its time.
    Silent,
    /// A nameserver said it cannot tell, or could not be asked.
    Failed(String),
    /// This process or host could not ask: out of descriptors, ports or permission.
    Local(Arc<io::Error>),
}

impl Lack {
    /// The nameservers have spoken: there is nothing. Asking again will not help.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoAddress)
    }

    fn weight(&self) -> u8 {
        match self {
            Self::NoSuchName => 0,
            Self::NoAddress => 1,
            Self::Silent => 2,
            Self::Failed(_) => 3,
            Self::Local(_) => 4,
        }
    }

    pub(super) fn or_worse(self, other: Self) -> Self {
        if other.weight() > self.weight() { other } else { self }
    }
}

/// The addresses of one full name, IPv6 first. One family is enough; the other is waited for only a moment.
pub(super) async fn addresses(name: &Name, port: u16, conf: &Arc<ResolvConf>) -> Result<Found, Lack> {
    const V6: usize = 0;
    const V4: usize = 1;
    let mut families = Attempts::new();
    if !conf.no_aaaa {
        families.start(V6, family(name.clone(), RecordType::AAAA, port, conf.clone()));
    }
    families.start(V4, family(name.clone(), RecordType::A, port, conf.clone()));
    let mut found = [Vec::new(), Vec::new()];
    let mut ttl = Duration::MAX;
    let mut lack: Option<Lack> = None;
    let mut until: Option<Instant> = None;
    while !families.is_empty() {
        let (number, outcome) = tokio::select! {
            done = families.next() => done,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
        };
        match outcome {
            Ok((addresses, kept)) => {
                found[number] = addresses;
                ttl = ttl.min(kept);
                until = Some(Instant::now() + if number == V4 { WAIT_FOR_V6 } else { WAIT_FOR_V4 });
            }
            Err(other) => lack = Some(lack.map_or(other.clone(), |lack| lack.or_worse(other))),
        }
    }
    let whole = families.is_empty() && lack.as_ref().is_none_or(Lack::is_denial);
    let [v6, v4] = found;
    let addresses: Vec<IpAddr> = v6.into_iter().chain(v4).collect();
    if addresses.is_empty() { Err(lack.unwrap_or(Lack::Silent)) } else { Ok(Found { addresses, ttl, whole }) }
}

/// Addresses, and how long they may be kept.
type Records = (Vec<IpAddr>, Duration);

/// One record type, as often as `attempts` says.
async fn family(name: Name, record: RecordType, port: u16, conf: Arc<ResolvConf>) -> Result<Records, Lack> {
    let mut worst = Lack::Silent;
    for _ in 0..conf.attempts {
        match round(&name, record, port, &conf).await {
            Err(lack) if !lack.is_denial() => worst = worst.or_worse(lack),
            settled => return settled,
        }
    }
    Err(worst)
}

/// One question to the nameservers in their order. The next one is asked when one fails, or is silent for a second.
///
/// The order is kept to: where an inner and an outer nameserver know different names, "no such name" from a later one
/// does not count while an earlier one may still answer.
async fn round(name: &Name, record: RecordType, port: u16, conf: &Arc<ResolvConf>) -> Result<Records, Lack> {
    let mut asked = Attempts::new();
    let mut next = 0;
    let mut next_at = Instant::now();
    let mut denial: Option<(usize, Lack)> = None;
    let mut worst = Lack::Silent;
    loop {
        if let Some(server) = conf.servers.get(next).filter(|_| Instant::now() >= next_at) {
            asked.start(next, question(SocketAddr::new(*server, port), name.clone(), record, conf.clone()));
            next += 1;
            next_at = Instant::now() + NEXT_SERVER_AFTER;
        }
        let left = next < conf.servers.len();
        if let Some((number, lack)) = &denial
            && asked.earliest().is_none_or(|earliest| earliest > *number)
        {
            return Err(lack.clone());
        }
        if asked.is_empty() && !left {
            return Err(worst);
        }
        let (number, outcome) = tokio::select! {
            done = asked.next() => done,
            () = sleep_until(next_at), if left => continue,
        };
        match outcome {
            Ok(records) => return Ok(records),
            Err(lack) if lack.is_denial() => {
                if denial.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                    denial = Some((number, lack));
                }
            }
            Err(lack) => {
                worst = worst.or_worse(lack);
                next_at = Instant::now();
            }
        }
    }
}

/// One question to one nameserver: over UDP with retransmissions, and over TCP when the answer does not fit.
async fn question(server: SocketAddr, name: Name, record: RecordType, conf: Arc<ResolvConf>) -> Result<Records, Lack> {
    let mut options = ResolverOpts::default();
    options.timeout = conf.timeout;
    let context = PoolContext::new(options, TlsConfig::new()?);
    let query = Query::query(name, record);
    let mut response = None;
    if !conf.tcp_only {
        response = Some(exchange(server, ConnectionConfig::udp(), &query, &conf, &context).await?);
    }
    let response = match response.filter(|response| !response.truncation) {
        Some(whole) => whole,
        None => exchange(server, ConnectionConfig::tcp(), &query, &conf, &context).await?,
    };
    let answers = response.answers.iter().filter(|answer| answer.record_type() == record);
    let addresses: Vec<IpAddr> = answers.filter_map(|answer| answer.data.ip_addr()).collect();
    // An alias on the way may be kept for less long than what it leads to.
    let ttl = response.answers.iter().map(|answer| answer.ttl).min().unwrap_or_default();
    if addresses.is_empty() { Err(Lack::NoAddress) } else { Ok((addresses, Duration::from_secs(ttl.into()))) }
}

/// A question and its answer on a socket of their own. The library's pool of connections is passed by on purpose: it
/// keeps them for a runtime that may be gone, and hides why a socket could not be had.
async fn exchange(
    server: SocketAddr,
    mut way: ConnectionConfig,
    query: &Query,
    conf: &ResolvConf,
    context: &PoolContext,
) -> Result<DnsResponse, NetError> {
    way.port = server.port();
    // Owns the background task of the socket, which ends with it.
    let provider = TokioRuntimeProvider::new();
    let connection = provider.new_connection(server.ip(), &way, context)?.await?;
    let mut request = DnsRequestOptions::default();
    request.use_edns = conf.edns0;
    let response = connection.lookup(query.clone(), request).first_answer().await?;
    Ok(DnsError::from_response(response)?)
}

impl From<NetError> for Lack {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoSuchName,
                ResponseCode::NoError => Self::NoAddress,
                code => Self::Failed(code.to_string()),
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Failed(code.to_string()),
            NetError::Timeout => Self::Silent,
            NetError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Silent,
            NetError::Io(error) if crate::net::socket::is_local(&error) => Self::Local(error),
            other => Self::Failed(other.to_string()),
        }
    }
}
