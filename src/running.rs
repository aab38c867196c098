//! What runs by one configuration, and how it becomes what runs by the next.
//!
//! A change is made in two steps. First everything that can fail: certificates are read, listeners bound. Then what
//! differs is changed, and that cannot fail. The start is a change from nothing.

mod doors;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::admin::AdminListener;
use crate::config::{self, Config, Tls};
use crate::direct::in_use::Order;
use crate::direct::pool::Pool;
use crate::lifecycle::Clients;
use crate::link::resolve::Resolver;
use crate::listener::Listeners;
use crate::net::tls::ClientTls;
use crate::status::Status;
use crate::upstream::Upstream;
use crate::workers::Workers;
use doors::Doors;

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
    http: Doors,
    /// Pools of removed upstreams whose clients may stay for a while.
    leaving: Vec<Arc<Pool>>,
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
        Ok(Self {
            config: Config::empty(),
            status: status.clone(),
            workers,
            resolver: Resolver::default(),
            upstreams: HashMap::new(),
            listeners: Listeners::default(),
            drain: watch::Sender::new(Duration::ZERO),
            http: Doors::closed(status)?,
            leaving: Vec::new(),
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Clients of all upstreams, removed ones included while theirs may stay.
    pub fn clients(&self) -> Clients {
        let mut clients = Clients::default();
        for pool in self.upstreams.values().map(|upstream| &upstream.pool).chain(&self.leaving) {
            clients.open += pool.clients();
            clients.came += pool.status.metrics.connections_total.get();
        }
        clients
    }

    /// Changes to `new`. Errors: why not, one line for each reason; nothing has changed then.
    pub fn apply(&mut self, new: Config) -> Result<Applied, Vec<String>> {
        let changes = config::diff(&self.config, &new);
        let mut errors = Vec::new();
        let tls = self.prepare_tls(&new, &mut errors);
        let admin = self.prepare_admin(&new, &mut errors);
        let http = self.http.prepare(&new.http.listen, &mut errors);
        let wanted: Vec<_> = new
            .upstreams
            .values()
            .flat_map(|upstream| upstream.listen.iter().map(|address| (address.clone(), upstream.name.clone())))
            .collect();
        // Last, for what it has to close first is bound again only by itself.
        let listeners = if errors.is_empty() {
            let told = |unbound: Vec<_>| errors.extend(unbound.iter().map(ToString::to_string));
            self.listeners.prepare(&wanted, self.workers.handles()).map_err(told).ok()
        } else {
            None
        };
        let Some(listeners) = listeners else {
            self.http.undo(http);
            return Err(errors);
        };

        // From here on nothing fails.
        self.drain.send_replace(new.drain.timeout);
        self.change_upstreams(&new, tls);
        let pools = self.pools();
        self.listeners.commit(listeners, &pools, self.workers.handles());
        // Only now, when nobody is sent to them any more: a renamed upstream turns no client away.
        self.remove_upstreams(&new);
        self.http.commit(&new.http.listen, http, new.http.public_status);
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
                    // Perhaps what they hold is what the links were waiting for.
                    upstream.retry();
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
            let waiting = upstream.pool.status.links().iter().filter(|link| link.view().is_waiting()).count();
            upstream.retry();
            waiting
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
        cut += self.leaving.iter().map(|pool| pool.in_use.tell_all(Order::Drained)).sum::<usize>();
        let (status, leaving) = (self.status.clone(), self.leaving);
        let gone = async {
            while !status.upstreams().is_empty() || leaving.iter().any(|pool| pool.clients() > 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(CUT_WITHIN, gone).await;
        let (workers, http) = (self.workers, self.http);
        // Joining threads blocks; one that is stuck is not waited for.
        let joined = tokio::task::spawn_blocking(move || {
            workers.stop();
            http.stop();
        });
        let _ = tokio::time::timeout(JOINED_WITHIN, joined).await;
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
        for (name, settings) in &new.upstreams {
            let tls = tls.remove(name);
            let shown = tls.clone();
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
            // Last, for a start forgets the series of a predecessor.
            if let Some(tls) = shown {
                self.show_certificates(name, &tls);
            }
        }
    }

    /// Ends the upstreams that are not in `new`; their clients may stay until `drain.timeout`.
    fn remove_upstreams(&mut self, new: &Config) {
        self.leaving.retain(|pool| pool.clients() > 0);
        let gone: Vec<_> = self.upstreams.keys().filter(|name| !new.upstreams.contains_key(*name)).cloned().collect();
        for upstream in gone.into_iter().filter_map(|name| self.upstreams.remove(&name)) {
            self.leaving.push(upstream.pool.clone());
            upstream.remove();
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
/// Threads that can end have ended after this.
const JOINED_WITHIN: Duration = Duration::from_secs(2);
