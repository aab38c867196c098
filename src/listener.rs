//! Where local clients arrive.
//!
//! Sockets are kept by address, not by upstream, so that two upstreams can swap ports without closing one. A change is
//! made in two steps: everything that can fail is bound first, then the rest cannot fail.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::ListenAddress;
use crate::direct::client::Socket;
use crate::direct::pool::Pool;
use crate::net::{kernel, socket};
use crate::workers::restarted;

/// Clients accepted in one go before other tasks run.
const BATCH: usize = 64;
/// The wait after an accept that failed for want of something, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// An address, and for port 0 (the kernel picks) also whose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: ListenAddress,
    owner: Option<String>,
}

impl Key {
    fn new(address: &ListenAddress, upstream: &str) -> Self {
        let any = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        Self { address: address.clone(), owner: any.then(|| upstream.to_owned()) }
    }
}

/// All listening sockets of the process.
#[derive(Default)]
pub struct Listeners {
    open: HashMap<Key, Open>,
}

struct Open {
    bound: Arc<Bound>,
    target: Arc<Target>,
    stop: CancellationToken,
}

/// Whose clients arrive.
struct Target {
    pool: ArcSwap<Arc<Pool>>,
    changed: Notify,
}

enum Bound {
    Tcp(std::net::TcpListener),
    Unix { listener: std::os::unix::net::UnixListener, path: PathBuf, inode: Option<(u64, u64)> },
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub upstream: String,
    pub address: ListenAddress,
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, address, error } = self;
        let cure = match error.kind() {
            io::ErrorKind::AddrInUse => "; another program listens there: end it, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need CAP_NET_BIND_SERVICE, a path a writable directory"
            }
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
            _ => "",
        };
        write!(f, "{upstream}: cannot listen on {address}: {error}{cure}")
    }
}

/// Sockets bound for a configuration that is not yet in force. Dropping it closes them again.
pub struct Prepared {
    wanted: Vec<(Key, String)>,
    bound: HashMap<Key, Bound>,
    /// A wildcard and its own specific addresses cannot be bound at once: the old ones, closed already, to be brought back
    /// if the new one fails.
    displaced: Vec<(Key, Arc<Target>)>,
}

impl Listeners {
    /// Binds what is new in `wanted` (address, upstream). What is open already is kept; nothing else changes yet.
    pub fn prepare(
        &mut self,
        wanted: &[(ListenAddress, String)],
        workers: &[Handle],
    ) -> Result<Prepared, Vec<BindError>> {
        let mut prepared = Prepared { wanted: Vec::new(), bound: HashMap::new(), displaced: Vec::new() };
        let mut errors = Vec::new();
        let mut blocked = Vec::new();
        for (address, upstream) in wanted {
            let key = Key::new(address, upstream);
            prepared.wanted.push((key.clone(), upstream.clone()));
            if self.open.contains_key(&key) || prepared.bound.contains_key(&key) {
                continue;
            }
            match bind(address) {
                Ok(bound) => {
                    prepared.bound.insert(key, bound);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !self.rivals(&key, wanted).is_empty() => {
                    blocked.push((key, upstream));
                }
                Err(error) => {
                    errors.push(BindError { upstream: upstream.clone(), address: address.clone(), error });
                }
            }
        }
        // Nothing that serves is closed for a change that fails anyway.
        for (key, upstream) in blocked {
            if !errors.is_empty() {
                break;
            }
            for rival in self.rivals(&key, wanted) {
                if let Some(open) = self.open.remove(&rival) {
                    prepared.displaced.push((rival, open.target.clone()));
                    open.stop.cancel();
                }
            }
            match rebind(&key.address) {
                Ok(bound) => {
                    prepared.bound.insert(key, bound);
                }
                Err(error) => errors.push(BindError { upstream: upstream.clone(), address: key.address, error }),
            }
        }
        if errors.is_empty() {
            return Ok(prepared);
        }
        prepared.bound.clear();
        for (key, target) in prepared.displaced {
            match rebind(&key.address) {
                Ok(bound) => self.start(key, bound, target, workers),
                Err(error) => tracing::error!(address = %key.address, %error, "a listener could not be bound again"),
            }
        }
        Err(errors)
    }

    /// Puts the prepared sockets to work, points all at their pools, and closes those that nobody wants, after what
    /// their queue holds has been accepted.
    pub fn commit(&mut self, prepared: Prepared, pools: &HashMap<String, Arc<Pool>>, workers: &[Handle]) {
        let Prepared { wanted, mut bound, .. } = prepared;
        let mut listening: HashMap<&str, Vec<String>> = HashMap::new();
        for (key, upstream) in &wanted {
            let Some(pool) = pools.get(upstream) else { continue };
            match (self.open.get(key), bound.remove(key)) {
                (Some(open), _) => {
                    open.target.pool.store(Arc::new(pool.clone()));
                    open.target.changed.notify_one();
                }
                (None, Some(bound)) => {
                    tracing::info!(upstream, address = %bound, "listening for clients");
                    let target = Target { pool: ArcSwap::from_pointee(pool.clone()), changed: Notify::new() };
                    self.start(key.clone(), bound, Arc::new(target), workers);
                }
                (None, None) => continue,
            }
            if let Some(open) = self.open.get(key) {
                listening.entry(upstream).or_default().push(open.bound.to_string());
            }
        }
        for (upstream, pool) in pools {
            let addresses = listening.remove(upstream.as_str()).unwrap_or_default();
            pool.status.listening.store(Arc::new(addresses));
        }
        self.open.retain(|key, open| {
            let stays = wanted.iter().any(|(wanted, _)| wanted == key);
            if !stays {
                open.stop.cancel();
            }
            stays
        });
    }

    /// Stops accepting everywhere.
    pub fn close(&mut self) {
        for (_, open) in self.open.drain() {
            open.stop.cancel();
        }
    }

    fn start(&mut self, key: Key, bound: Bound, target: Arc<Target>, workers: &[Handle]) {
        let bound = Arc::new(bound);
        let stop = CancellationToken::new();
        let worker = fastrand::usize(..workers.len().max(1));
        let task = {
            let (bound, target, stop) = (bound.clone(), target.clone(), stop.clone());
            move || accept(bound.clone(), target.clone(), stop.clone(), worker)
        };
        if let Some(handle) = workers.get(worker) {
            handle.spawn(restarted(task));
        }
        self.open.insert(key, Open { bound, target, stop });
    }

    /// The open sockets that overlap with `key` and are not wanted any more: a wildcard has one for each of its addresses.
    fn rivals(&self, key: &Key, wanted: &[(ListenAddress, String)]) -> Vec<Key> {
        let ListenAddress::Tcp(new) = &key.address else { return Vec::new() };
        let unwanted = |key: &Key| !wanted.iter().any(|(address, upstream)| Key::new(address, upstream) == *key);
        let rival =
            |key: &&Key| matches!(&key.address, ListenAddress::Tcp(old) if socket::overlap(old, new)) && unwanted(key);
        self.open.keys().filter(rival).cloned().collect()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("?"),
            },
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    fn keep_alive(&self, heartbeat: &crate::config::Heartbeat) {
        if let Self::Tcp(listener) = self {
            // Accepted sockets inherit it on Linux; one that could not be set is a connection without keepalive, no more.
            let _ = socket::sustain(listener, heartbeat);
        }
    }

    fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(Socket::Tcp(kernel::accept(listener.as_raw_fd())?.0.into())),
            Self::Unix { listener, .. } => Ok(Socket::Unix(kernel::accept(listener.as_raw_fd())?.0.into())),
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

impl Drop for Bound {
    /// The path goes with the socket, unless somebody else's socket stands there by now.
    fn drop(&mut self) {
        if let Self::Unix { path, inode, .. } = self
            && inode.is_some()
            && identity(path) == *inode
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn bind(address: &ListenAddress) -> io::Result<Bound> {
    match address {
        ListenAddress::Tcp(address) => Ok(Bound::Tcp(socket::bind_listener(*address)?)),
        ListenAddress::Unix(path) => {
            let listener = socket::bind_unix(path)?;
            Ok(Bound::Unix { listener, path: path.clone(), inode: identity(path) })
        }
    }
}

fn rebind(address: &ListenAddress) -> io::Result<Bound> {
    socket::once_free(|| bind(address))
}

/// Accepts until stopped, and then what the queue still holds.
async fn accept(bound: Arc<Bound>, target: Arc<Target>, stop: CancellationToken, worker: usize) {
    let ready = match kernel::await_clients(bound.clone()) {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!(listener = %bound, %error, "cannot wait for clients");
            return;
        }
    };
    let mut pause = PAUSE.0;
    let mut settings = target.pool.load().settings.subscribe();
    bound.keep_alive(&settings.borrow_and_update().heartbeat);
    loop {
        let mut guard = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Clients inherit the keepalive of the upstream they come to, as it is configured now.
            () = target.changed.notified() => {
                settings = target.pool.load().settings.subscribe();
                bound.keep_alive(&settings.borrow_and_update().heartbeat);
                continue;
            }
            Ok(()) = settings.changed() => {
                bound.keep_alive(&settings.borrow_and_update().heartbeat);
                continue;
            }
            guard = ready.readable() => match guard {
                Ok(guard) => guard,
                Err(error) => {
                    tracing::error!(listener = %bound, %error, "cannot wait for clients");
                    return;
                }
            },
        };
        for _ in 0..BATCH {
            match bound.accept() {
                Ok(socket) => {
                    pause = PAUSE.0;
                    target.pool.load().arrive(socket, worker);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    break;
                }
                // The client gave up while it was queued.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    let pool = target.pool.load_full();
                    pool.process.metrics.accept_errors.inc();
                    tracing::warn!(listener = %bound, %error, ?pause, "cannot accept; trying again");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE.1);
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    while let Ok(socket) = bound.accept() {
        target.pool.load().arrive(socket, worker);
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
