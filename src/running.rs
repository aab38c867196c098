//! What runs by one configuration, and how it becomes what runs by the next.
//!
//! A change is made in two steps. First everything that can fail: certificates are read, listeners bound. Then what
//! differs is changed, and that cannot fail. The start is a change from nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::admin::AdminListener;
use crate::config::{self, Config, Tls};
use crate::direct::in_use::Order;
use crate::direct::pool::Pool;
use crate::http::{self, HttpThread};
use crate::lifecycle::Clients;
use crate::link::resolve::Resolver;
use crate::listener::Listeners;
use crate::net::socket;
use crate::net::tls::ClientTls;
use crate::status::Status;
use crate::upstream::Upstream;
use crate::workers::Workers;

/// Everything that runs.
pub struct Running {
    config: Config,
    status: Arc<Status>,
    workers: Workers,
    resolver: Resolver,
    upstreams: HashMap<String, Upstream>,
    listeners: Listeners,
    /// How long clients of a removed upstream may stay.
    drain: watch::Sender<Duration>,
    http: Option<HttpThread>,
    http_bound: HashMap<SocketAddr, TcpListener>,
    public_status: Arc<AtomicBool>,
}

/// What a change of the configuration asks of the caller.
pub struct Applied {
    /// What changed, one line each.
    pub lines: Vec<String>,
    /// The admin socket to serve from now on, if that changed; `Some(None)`: none.
    pub admin: Option<Option<AdminListener>>,
}

impl Running {
    /// Nothing yet: no upstream, no listener. Errors: the HTTP thread could not be started.
    pub fn empty(status: &Arc<Status>, workers: Workers) -> std::io::Result<Self> {
        let public_status = Arc::new(AtomicBool::new(false));
        Ok(Self {
            config: Config::empty(),
            status: status.clone(),
            workers,
            resolver: Resolver::default(),
            upstreams: HashMap::new(),
            listeners: Listeners::default(),
            drain: watch::Sender::new(Duration::ZERO),
            http: Some(http::serve(Vec::new(), status.clone(), public_status.clone())?),
            http_bound: HashMap::new(),
            public_status,
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Clients accepted and not yet gone, of all upstreams.
    pub fn clients(&self) -> Clients {
        let mut clients = Clients::default();
        for upstream in self.upstreams.values() {
            clients.open += upstream.pool.clients();
            clients.came += upstream.pool.status.metrics.connections_total.get();
        }
        clients
    }

    /// Changes to `new`. Errors: why not, one line for each reason; nothing has changed then.
    pub fn apply(&mut self, new: Config) -> Result<Applied, Vec<String>> {
        let changes = config::diff(&self.config, &new);
        let mut errors = Vec::new();
        let tls = self.prepare_tls(&new, &mut errors);
        let http = self.prepare_http(&new, &mut errors);
        let admin = self.prepare_admin(&new, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let wanted: Vec<_> = new
            .upstreams
            .values()
            .flat_map(|upstream| upstream.listen.iter().map(|address| (address.clone(), upstream.name.clone())))
            .collect();
        let listeners = self
            .listeners
            .prepare(&wanted, self.workers.handles())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;

        // From here on nothing fails.
        self.drain.send_replace(new.drain.timeout);
        self.public_status.store(new.http.public_status, Ordering::Relaxed);
        self.change_upstreams(&new, tls);
        let pools = self.pools();
        self.listeners.commit(listeners, &pools, self.workers.handles());
        self.change_http(&new, http);
        let lines = changes.iter().map(|change| self.tell(change)).collect();
        self.config = new;
        Ok(Applied { lines, admin })
    }

    /// Reads changed TLS files again. Errors are told and counted here; the old files stay in use.
    pub fn reload_tls(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, upstream) in &self.upstreams {
            let Some(tls) = upstream.pool.tls.load_full() else { continue };
            match tls.reload() {
                Ok(false) => {}
                Ok(true) => {
                    self.show_certificates(name, &tls);
                    lines.push(format!("{name}: TLS files changed, next dial"));
                }
                Err(fault) => {
                    self.status.metrics.tls_reload_failures.inc();
                    tracing::error!(upstream = name, "changed TLS files cannot be used, the old ones stay: {fault}");
                }
            }
        }
        lines
    }

    /// Cuts the waits of one upstream's links short, or of all.
    pub fn retry(&self, upstream: Option<&str>) -> Option<usize> {
        let of = |upstream: &Upstream| {
            upstream.retry();
            upstream.pool.status.links().iter().filter(|link| link.view().is_waiting()).count()
        };
        match upstream {
            Some(name) => self.upstreams.get(name).map(of),
            None => Some(self.upstreams.values().map(of).sum()),
        }
    }

    /// Ends every connection that is left, and then everything else. Returns how many were cut.
    pub async fn stop(mut self) -> usize {
        self.listeners.close();
        let mut cut = 0;
        for (_, upstream) in self.upstreams.drain() {
            cut += upstream.pool.in_use.tell_all(Order::Drained);
            upstream.remove();
        }
        let status = self.status.clone();
        let gone = async {
            while !status.upstreams().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(CUT_WITHIN, gone).await;
        let (workers, http) = (self.workers, self.http.take());
        // Joining threads blocks.
        let _ = tokio::task::spawn_blocking(move || {
            workers.stop();
            if let Some(http) = http {
                http.stop();
            }
        })
        .await;
        cut
    }

    fn prepare_tls(&self, new: &Config, errors: &mut Vec<String>) -> BTreeMap<String, Arc<ClientTls>> {
        let mut made = BTreeMap::new();
        for (name, upstream) in &new.upstreams {
            let Some(settings) = &upstream.tls else { continue };
            if self.tls_of(name) == Some(settings) {
                continue;
            }
            match ClientTls::new(settings) {
                Ok(tls) => {
                    made.insert(name.clone(), Arc::new(tls));
                }
                Err(fault) => errors.push(format!("{name}: {fault}")),
            }
        }
        made
    }

    fn tls_of(&self, upstream: &str) -> Option<&Tls> {
        self.config.upstreams.get(upstream)?.tls.as_ref()
    }

    fn prepare_http(&self, new: &Config, errors: &mut Vec<String>) -> HashMap<SocketAddr, TcpListener> {
        let mut bound = HashMap::new();
        for address in new.http.listen.iter().filter(|address| !self.http_bound.contains_key(address)) {
            match socket::bind_listener(*address) {
                Ok(listener) => {
                    bound.insert(*address, listener);
                }
                Err(error) => errors.push(format!("http.listen: cannot listen on {address}: {error}")),
            }
        }
        bound
    }

    fn prepare_admin(&self, new: &Config, errors: &mut Vec<String>) -> Option<Option<AdminListener>> {
        if new.admin == self.config.admin {
            return None;
        }
        let Some(admin) = &new.admin else { return Some(None) };
        match AdminListener::bind(&admin.socket) {
            Ok(listener) => Some(Some(listener)),
            Err(error) => {
                errors.push(format!("admin.socket: {error}"));
                None
            }
        }
    }

    fn change_upstreams(&mut self, new: &Config, mut tls: BTreeMap<String, Arc<ClientTls>>) {
        let gone: Vec<_> = self.upstreams.keys().filter(|name| !new.upstreams.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(upstream) = self.upstreams.remove(&name) {
                upstream.remove();
            }
        }
        for (name, settings) in &new.upstreams {
            let tls = tls.remove(name);
            if let Some(tls) = &tls {
                self.show_certificates(name, tls);
            }
            match self.upstreams.get(name) {
                None => {
                    let handles = self.workers.handles();
                    let upstream =
                        Upstream::start(settings, &self.status, &self.resolver, handles, tls, self.drain.subscribe());
                    self.upstreams.insert(name.clone(), upstream);
                }
                Some(upstream) => {
                    if let Some(tls) = tls {
                        upstream.pool.tls.store(Some(tls));
                    } else if settings.tls.is_none() && upstream.pool.tls.swap(None).is_some() {
                        for role in ["client", "ca"] {
                            self.status.metrics.remove_certificate(role, name);
                        }
                    }
                    if self.config.upstreams.get(name) != Some(settings) {
                        upstream.pool.apply(settings);
                    }
                }
            }
        }
    }

    fn change_http(&mut self, new: &Config, bound: HashMap<SocketAddr, TcpListener>) {
        let before = self.http_bound.len();
        self.http_bound.retain(|address, _| new.http.listen.contains(address));
        if self.http_bound.len() == before && bound.is_empty() {
            return;
        }
        for address in bound.values().filter_map(|listener| listener.local_addr().ok()) {
            tracing::info!(%address, "metrics, health and status are served");
        }
        self.http_bound.extend(bound);
        // A clone is the same socket: what is kept is never closed.
        let listeners = self.http_bound.values().filter_map(|listener| listener.try_clone().ok()).collect();
        if let Some(http) = &self.http {
            http.rebind(listeners);
        }
    }

    fn show_certificates(&self, upstream: &str, tls: &ClientTls) {
        for (role, end) in [("client", tls.client_not_after()), ("ca", tls.ca_not_after())] {
            match end {
                Some(end) => self.status.metrics.certificate_not_after(role, upstream).set(end as f64),
                None => self.status.metrics.remove_certificate(role, upstream),
            }
        }
    }

    fn pools(&self) -> HashMap<String, Arc<Pool>> {
        self.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.pool.clone())).collect()
    }

    /// `chat: heartbeat.interval 5s → 3s, live, 2 links kept`.
    fn tell(&self, change: &config::Change) -> String {
        let kept = match &change.upstream {
            Some(name) if change.class == config::Class::Live && !change.is_added() && !change.is_removed() => {
                self.upstreams.get(name).map(|upstream| upstream.pool.status.links().len())
            }
            _ => None,
        };
        match kept {
            Some(1) => format!("{change}, 1 link kept"),
            Some(links) => format!("{change}, {links} links kept"),
            None => change.to_string(),
        }
    }
}

/// What is cut is gone after this.
const CUT_WITHIN: Duration = Duration::from_secs(2);
