//! The configuration as meant: every value here has been checked and is in range.
//!
//! The file as written is read by [`load()`]; problems come back all at once, each with its place. What changed between
//! two configurations, and what a reload has to do about it, is told by [`diff()`].

mod address;
mod bytes;
mod check;
mod diff;
mod files;
mod keys;
mod listeners;
mod load;
mod read;
mod report;
mod show;
mod source;
mod summary;
mod syntax;
mod tree;
mod units;
mod values;
mod variables;
pub mod watch;

pub use diff::{Change, diff};
pub use files::SIZE_MAX;
pub use keys::{Class, DefaultValue, Key, Kind, keys};
pub use load::{Loaded, load, parse};
pub use read::Origin;
pub use report::{Problem, Report, Severity};
pub use show::show;
pub use source::Place;
pub use summary::descriptors_needed;
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
    /// Warm links kept. Default 2.
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
    pub alpn: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}
