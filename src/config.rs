//! The configuration as meant: every value here has been checked and is in range.
//!
//! The file as written is read by [`load()`]; problems come back all at once, each with its place. What changed between
//! two configurations, and what a reload has to do about it, is told by [`diff()`].

#![forbid(unsafe_code)]

mod address;
mod bounds;
mod bytes;
mod check;
mod descriptors;
mod diff;
mod files;
mod keys;
mod listeners;
mod load;
mod read;
mod report;
mod schema;
mod show;
mod source;
mod syntax;
pub mod told;
mod tree;
mod units;
mod values;
mod variables;
pub mod watch;

pub use descriptors::descriptors_needed;
pub use diff::{Change, MOVES, diff};
pub use files::SIZE_MAX;
pub use keys::{Class, DefaultValue, Key, Kind, keys};
pub use load::{Loaded, admin_socket, load, load_from, parse};
pub use read::Origin;
pub use report::{Problem, Report, Severity};
pub use schema::schema;
pub use show::show;
pub use source::Place;
pub use units::{Suggestion, UnitError, duration, show_duration, show_size, size};

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything one file says, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub http: Http,
    /// `None`: no admin socket is opened.
    pub admin: Option<Admin>,
    pub log: Log,
    pub drain: Drain,
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    /// `None`: this process is no gateway.
    pub gateway: Option<Arc<Gateway>>,
}

impl Config {
    /// What runs before the first configuration is applied: nothing, on nothing.
    pub fn empty() -> Self {
        Self {
            http: Http { listen: Vec::new(), public_status: false },
            admin: None,
            log: Log { level: "info".to_owned(), format: LogFormat::Auto },
            drain: Drain { timeout: Duration::ZERO, quiet: None, minimum: Duration::ZERO },
            upstreams: BTreeMap::new(),
            gateway: None,
        }
    }
}

/// Where metrics, health and status are served. Read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Empty when switched off.
    pub listen: Vec<SocketAddr>,
    /// Serve `/` and `/status` on addresses that are not loopback.
    pub public_status: bool,
}

/// The socket that changes state: reload, retry, drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub socket: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level or a `tracing` filter; known to parse.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

/// How a sidecar leaves after SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// The latest end of a drain.
    pub timeout: Duration,
    /// Leave once no client has been open for so long; `None`: wait for `timeout`.
    pub quiet: Option<Duration>,
    /// But not before this; zero when off.
    pub minimum: Duration,
}

/// A named service and everything about its links.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: String,
    /// Empty in tunnel mode, where each of `tunnel.forwards` has its own.
    pub listen: Vec<ListenAddress>,
    pub endpoints: Vec<Endpoint>,
    pub balance: Balance,
    /// `/readyz` waits for this upstream.
    pub required: bool,
    pub heartbeat: Heartbeat,
    pub retry: Retry,
    pub pool: Pool,
    pub limits: Limits,
    /// `None`: plain TCP to the endpoints.
    pub tls: Option<Tls>,
    /// `None`: direct mode.
    pub tunnel: Option<Tunnel>,
}

impl Upstream {
    /// The longest a dead link may go unnoticed: `interval + misses × timeout`.
    pub fn detection_budget(&self) -> Duration {
        self.heartbeat.budget()
    }
}

/// Where local clients arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// As written in the file: the metric label and the name in logs.
    pub name: String,
    pub address: Address,
    /// 1 is best.
    pub priority: u32,
}

/// What an endpoint's text means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Ip(SocketAddr),
    Host { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// What a peer says of an endpoint, by the grammar of the file: `host:port`, `[v6]:port`. `None`: it is none.
    pub fn told(text: &str) -> Option<Self> {
        address::endpoint(text).ok().filter(|address| !matches!(address, Self::Unix(_)))
    }

    /// The name TLS checks unless `tls.server_name` says otherwise.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(address) => address.ip().to_string(),
            Self::Host { host, .. } => host.clone(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// All links at the best endpoint that answers.
    Priority,
    RoundRobin,
    LeastConnections,
}

/// When to beat, what to say, and when to give a link up.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// Silence after which a beat is sent. 200 ms – 1 h, default 5 s.
    pub interval: Duration,
    /// How long an answer may take. 50 ms – 60 s, default 3 s.
    pub timeout: Duration,
    /// Unanswered beats in a row that make a link dead. 1 – 100, default 3.
    pub misses: u32,
    pub beat: Beat,
    pub in_use: InUse,
}

impl Heartbeat {
    /// The longest a dead link may go unnoticed.
    pub fn budget(&self) -> Duration {
        self.interval + self.timeout * self.misses
    }
}

/// What a heartbeat says on a warm connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Beat {
    /// Nothing: TCP keepalive and `TCP_INFO` prove the connection.
    Kernel,
    /// `send`, answered by `expect`.
    Exchange {
        send: Vec<u8>,
        expect: Expect,
    },
    Redis,
    Memcached,
    Smtp,
}

/// What counts as the answer to a beat.
#[derive(Debug, Clone)]
pub enum Expect {
    /// The answer begins with these bytes.
    Prefix(Vec<u8>),
    /// The answer begins with a match of this pattern (the `re:` form); compiled anchored at the start.
    Pattern(regex::bytes::Regex),
}

impl PartialEq for Expect {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Pattern(a), Self::Pattern(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// Whether beats go on once a client has the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    Off,
    /// Between whole lines of a text protocol.
    Line,
}

/// When a lost link is dialled again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// First wait. 10 ms – `max`, default 500 ms.
    pub initial: Duration,
    /// Longest wait, at most 1 h, default 30 s.
    pub max: Duration,
    /// 1 – 10, default 2.
    pub multiplier: f64,
    pub jitter: Jitter,
    /// `None`: unlimited.
    pub attempts: Option<u32>,
    /// Only a link up this long earns a fresh backoff. Default 10 s.
    pub stable_after: Duration,
    /// Resolve, TCP, TLS together. Default 5 s.
    pub connect_timeout: Duration,
}

/// How a wait is spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// Anywhere between nothing and the whole wait (the "full jitter" of AWS's backoff study).
    Full,
    Off,
    /// The wait shortened by up to this share, 0.05 – 1.
    Share(f64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Warm links kept, default 2; in tunnel mode the links that share the streams, default 1.
    pub size: usize,
    /// Recycle an idle warm link of this age, shortened by up to 10 %; `None`: never.
    pub max_age: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Clients carried at once. Default 1024.
    pub connections: usize,
    /// How long a client may wait for a link that is down; zero when off. Default 5 s.
    pub wait: Duration,
    /// How many may wait. Default 256.
    pub waiting: usize,
    /// Close a carried connection that moved no byte for so long; `None`: never.
    pub idle_timeout: Option<Duration>,
}

/// TLS to the endpoint. Paths are as written; contents are read when dialling and when they change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// `None`: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key of the client, both or none.
    pub client: Option<ClientCertificate>,
    /// Checked instead of the endpoint's host.
    pub server_name: Option<String>,
    /// Empty in tunnel mode, which has a protocol name of its own.
    pub alpn: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// What only an upstream in tunnel mode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Where clients arrive, and the service at the gateway that each leads to. At least one; in the order of their
    /// listeners, whatever that of the file.
    pub forwards: Vec<Forward>,
    /// Shared with the gateway; read when dialling and when it changes. `None`: the certificate says who we are.
    pub token_file: Option<PathBuf>,
    pub resume: Resume,
    /// Bytes that the stream windows of one session may hold together, on our side. 1 MiB – 4 GiB and at least 16 KiB
    /// for each of `limits.connections`; default 64 MiB.
    pub windows: u64,
    /// The link to a gateway that is not on loopback may run without TLS.
    pub insecure_plaintext: bool,
}

/// A local door to a service behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub listen: Vec<ListenAddress>,
    /// Its name at the gateway: 1 – 255 bytes of `a-z 0-9 _ . -`.
    pub service: String,
    /// Networks whose clients must begin with a PROXY protocol header; empty: none is expected.
    pub accept_proxy_protocol: Vec<ipnet::IpNet>,
}

/// How a session outlives its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// How long it waits for the next one. The smaller of both ends holds. 1 s – 1 h, default 60 s.
    pub deadline: Duration,
    /// Unacknowledged bytes kept a session; at this limit local sockets are no longer read. 256 KiB – 1 GiB,
    /// default 16 MiB.
    pub buffer: u64,
}

/// The far end of tunnels.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    pub listen: Vec<SocketAddr>,
    /// Told to dialers, 1 – 255 bytes; default the host name.
    pub name: String,
    /// Where this very instance is reached, if `listen`'s address is shared.
    pub advertise: Option<Endpoint>,
    /// What dialers must prove to know; read when it changes.
    pub token_file: Option<PathBuf>,
    /// `None`: whatever the dialer's hello says of its own.
    pub heartbeat: Option<Beats>,
    /// `None`: plain TCP.
    pub tls: Option<ServerTls>,
    /// Plain TCP on addresses that are not loopback is allowed.
    pub insecure_plaintext: bool,
    pub limits: GatewayLimits,
    pub resume: Resume,
    pub services: BTreeMap<String, Service>,
}

/// The numbers of a heartbeat without what it says: on a tunnel it is always a PING frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beats {
    pub interval: Duration,
    pub timeout: Duration,
    pub misses: u32,
}

impl Beats {
    /// The longest a dead link may go unnoticed.
    pub fn budget(&self) -> Duration {
        self.interval + self.timeout * self.misses
    }
}

impl From<&Heartbeat> for Beats {
    fn from(heartbeat: &Heartbeat) -> Self {
        Self { interval: heartbeat.interval, timeout: heartbeat.timeout, misses: heartbeat.misses }
    }
}

/// TLS towards the dialers: 1.3 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// `None`: dialers show no certificate, a token proves them.
    pub client_ca_file: Option<PathBuf>,
}

/// Bounds of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Default 1024.
    pub sessions: usize,
    /// Default 64.
    pub sessions_per_identity: usize,
    /// Streams of one session. Default 1024.
    pub streams: usize,
    /// Retention and windows of all sessions, in bytes; past it new sessions hear `busy`. 16 MiB – 1 TiB, default
    /// 1 GiB.
    pub memory: u64,
    /// Connections that have not proven themselves yet. Default 256.
    pub pending: usize,
    /// The share of one address in them. Default 64.
    pub pending_per_address: usize,
    /// How long a stream waits for a service that cannot be reached; zero: not at all. 10 ms – 1 h, default 5 s.
    pub wait: Duration,
}

/// A named target behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub address: Address,
    /// Identities (names from client certificates) that may use it; `None`: every proven dialer.
    pub allow: Option<Vec<String>>,
    /// Tell the service who the client is, by a PROXY protocol header of version 2.
    pub proxy_protocol: bool,
}
