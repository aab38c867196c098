//! What runs by one configuration, and how it becomes what runs by the next.
//!
//! A change is made in two steps. First everything that can fail: certificates are read, listeners bound. Then what
//! differs is changed, and that cannot fail. The start is a change from nothing.

#![forbid(unsafe_code)]

mod far_end;
mod http_sockets;
mod sockets;
mod upstreams;

pub use far_end::Gateway;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::admin::{AdminListener, Trace};
use crate::config::told::Met;
use crate::config::{self, Config, ListenAddress};
use crate::lifecycle::Clients;
use crate::link::drill;
use crate::link::resolve::Resolver;
use crate::listener::{Listeners, Wanted};
use crate::net::renewal::{News, Reread};
use crate::status::Status;
use crate::surroundings::Surroundings;
use crate::systemd::Passed;
use crate::workers::Workers;
use far_end::FarEnd;
use http_sockets::HttpSockets;
use upstreams::Upstreams;

/// Everything that runs.
pub struct Running {
    config: Config,
    status: Arc<Status>,
    workers: Workers,
    resolver: Resolver,
    upstreams: Upstreams,
    passed: Passed,
    listeners: Listeners,
    /// How long clients of a removed upstream may stay.
    drain: watch::Sender<Duration>,
    http: HttpSockets,
    far_end: FarEnd,
    /// The admin socket's file, if it is ours.
    admin_file: Option<Trace>,
}

/// What a change of the configuration asks of the caller.
pub struct Applied {
    /// What changed, one line each.
    pub lines: Vec<String>,
    /// The admin socket to serve from now on, if that changed; `Some(None)`: none.
    pub admin: Option<Option<AdminListener>>,
}

impl Running {
    /// Nothing yet: no upstream, no listener. `passed`: what listens already. Errors: the HTTP thread could not be started.
    pub fn empty(status: &Arc<Status>, workers: Workers, passed: Passed) -> std::io::Result<Self> {
        Ok(Self {
            config: Config::empty(),
            status: status.clone(),
            workers,
            resolver: Resolver::default(),
            upstreams: Upstreams::default(),
            listeners: Listeners::with(passed.clone()),
            drain: watch::Sender::new(Duration::ZERO),
            http: HttpSockets::closed(status, &passed)?,
            far_end: FarEnd::none(&passed),
            passed,
            admin_file: None,
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Clients of all upstreams and streams of the gateway, removed ones included while theirs may stay.
    pub fn clients(&self) -> Clients {
        let (ours, far) = (self.upstreams.clients(), self.far_end.clients());
        Clients { open: ours.open + far.open, came: ours.came + far.came }
    }

    /// Changes to `new`. Errors: why not, one line for each reason; nothing has changed then.
    pub fn apply(&mut self, new: Config) -> Result<Applied, Vec<String>> {
        let changes = config::diff(&self.config, &new);
        let mut errors = Vec::new();
        let files = self.upstreams.prepare(&self.config, &new, &mut errors);
        let admin = self.prepare_admin(&new, &mut errors);
        let http = self.http.prepare(&new.http.listen, &mut errors);
        let far_end = self.far_end.prepare(new.gateway.as_ref(), &mut errors);
        let wanted: Vec<_> = new.upstreams.values().flat_map(|upstream| Wanted::of(upstream)).collect();
        // Last, for what it has to close first is bound again only by itself.
        let listeners = if errors.is_empty() {
            let told = |unbound: Vec<_>| errors.extend(unbound.iter().map(ToString::to_string));
            self.listeners.prepare(&wanted, self.workers.handles()).map_err(told).ok()
        } else {
            None
        };
        let Some(listeners) = listeners else {
            self.http.undo(http);
            self.far_end.undo(far_end);
            return Err(errors);
        };

        // From here on nothing fails.
        self.drain.send_replace(new.drain.timeout);
        self.status.takes_commands.store(new.admin.is_some(), Ordering::Relaxed);
        let around = || Surroundings {
            status: &self.status,
            resolver: &self.resolver,
            workers: self.workers.handles(),
            drain: self.drain.subscribe(),
        };
        let gone = self.upstreams.change(&self.config, &new, files, around);
        let listening = self.listeners.commit(listeners, &self.upstreams.arrivals(), self.workers.handles());
        self.upstreams.show_listening(listening);
        // Only now, when nobody is sent to them any more: a renamed upstream turns no client away.
        self.upstreams.let_go(gone);
        self.far_end.commit(new.gateway.as_ref(), far_end, around());
        self.http.commit(&new.http.listen, http, new.http.public_status);
        for line in self.passed.are_named(&addresses(&wanted, &new)) {
            tracing::warn!("{line}");
        }
        if let Some(admin) = &admin {
            self.admin_file = admin.as_ref().and_then(AdminListener::trace);
        }
        let lines = config::told::lines(&changes, |change| self.met(change, &new), new.drain.timeout);
        self.config = new;
        Ok(Applied { lines, admin })
    }

    /// Reads changed TLS files again. Errors are told and counted here; the old files stay in use.
    pub fn reload_files(&self) -> Vec<String> {
        let of_upstreams = self.upstreams.reload_files(&self.status.metrics);
        let of_gateway = self.far_end.reload_files();
        let all = of_upstreams.into_iter().map(|(name, reread)| (Some(name), reread));
        let mut lines = Vec::new();
        for (upstream, Reread { what, news }) in all.chain(of_gateway.into_iter().map(|reread| (None, reread))) {
            let whose = upstream.as_deref().unwrap_or("gateway");
            let settings = upstream.as_ref().and_then(|name| self.config.upstreams.get(name));
            match news {
                News::Unusable(fault) => {
                    self.status.metrics.tls_reload_failures.inc();
                    let stay = "cannot be used, the old ones stay";
                    tracing::error!(upstream, "{whose}: changed {what} {stay}: {fault}");
                }
                News::PutBack => lines.push(format!("{whose}: {what} can be used again and hold what is in use")),
                News::Used if settings.is_some_and(|upstream| upstream.tunnel.is_some()) => {
                    lines.push(format!("{whose}: {what} changed, next dial, {}", config::MOVES));
                }
                News::Used => lines.push(format!("{whose}: {what} changed, next dial")),
            }
        }
        lines
    }

    /// The admin socket, bound anew, if its file was taken away. Whatever comes of it is told.
    pub fn rebind_admin(&mut self) -> Option<AdminListener> {
        let path = self.admin_file.as_ref().filter(|file| !file.is_in_place())?.path();
        match AdminListener::open(path, &self.passed) {
            Ok(listener) => {
                tracing::info!(path = %path.display(), "the admin socket's file was gone: it is bound again");
                self.admin_file = listener.trace();
                Some(listener)
            }
            Err(error) => {
                tracing::warn!("the admin socket's file was taken away, and cannot be made again: {error}");
                None
            }
        }
    }

    /// The process is about to leave: drills are over, and the gateway's dialers are told. Clients beside us are still served, but those of
    /// sockets that were passed are left to our successor. Returns whether no new ones can come at all.
    pub fn drain(&self) -> bool {
        self.upstreams.stop_drills();
        self.far_end.drain();
        self.listeners.hold() && self.config.gateway.is_none()
    }

    /// Cuts the waits of one upstream's links short, or of all. Returns how many waited; `None`: there is no such upstream.
    pub fn retry(&self, upstream: Option<&str>) -> Option<usize> {
        self.upstreams.retry(upstream)
    }

    /// This machine was suspended: nobody waits for timers that stood still with it.
    pub fn woken(&self) {
        self.upstreams.woken();
        self.far_end.woken();
    }

    /// Begins a drill of one upstream. Errors: why not, for people.
    pub fn drill(&self, upstream: &str, order: drill::Order) -> Result<drill::Begun, String> {
        self.upstreams.drill(upstream, order)
    }

    /// Ends the drill of one upstream. Returns what ended, for people. Errors: there is none.
    pub fn stop_drill(&self, upstream: &str) -> Result<String, String> {
        self.upstreams.stop_drill(upstream)
    }

    /// Begins the same at each upstream in tunnel mode. Returns what is done, for people.
    pub fn drill_tunnels(&self, order: drill::Order) -> Vec<String> {
        self.upstreams.drill_tunnels(order)
    }

    /// That there is no such upstream, for people.
    pub fn unknown(&self, upstream: &str) -> String {
        self.upstreams.unknown(upstream)
    }

    /// Ends every connection that is left, and then everything else. Returns how many were cut.
    pub async fn stop(mut self) -> usize {
        self.listeners.close();
        let cut = self.upstreams.stop() + self.far_end.stop();
        let (status, upstreams, far_end) = (&self.status, &self.upstreams, &self.far_end);
        let gone = async {
            while !status.upstreams().is_empty()
                || status.gateway().is_some()
                || upstreams.clients().open + far_end.clients().open > 0
            {
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

    fn prepare_admin(&self, new: &Config, errors: &mut Vec<String>) -> Option<Option<AdminListener>> {
        if new.admin == self.config.admin {
            return None;
        }
        let Some(admin) = &new.admin else { return Some(None) };
        match AdminListener::open(&admin.socket, &self.passed) {
            Ok(listener) => Some(Some(listener)),
            Err(error) => {
                errors.push(error.to_string());
                None
            }
        }
    }

    /// What a change to `new`, which has been made, has met.
    fn met(&self, change: &config::Change, new: &Config) -> Met {
        let Some(name) = &change.upstream else { return Met::default() };
        if change.is_removed() || change.class == config::Class::Replace {
            return Met { kept: None, clients: self.upstreams.leaving_clients(name) };
        }
        let is_live = change.class == config::Class::Live && !change.is_added();
        let links = if is_live { self.upstreams.links_of(name) } else { None };
        // Those that a smaller pool lets go may be there yet.
        let stay = new.upstreams.get(name).map_or(usize::MAX, |upstream| match change.key.as_str() {
            "pool.size" => upstream.pool.size,
            _ => usize::MAX,
        });
        Met { kept: links.map(|links| links.min(stay)), clients: 0 }
    }
}

/// Every address at which a configuration listens.
fn addresses(wanted: &[Wanted], config: &Config) -> HashSet<ListenAddress> {
    let far_end = config.gateway.iter().flat_map(|gateway| &gateway.listen);
    let tcp = config.http.listen.iter().chain(far_end).copied().map(ListenAddress::Tcp);
    let admin = config.admin.iter().map(|admin| ListenAddress::Unix(admin.socket.clone()));
    wanted.iter().map(|wanted| wanted.address.clone()).chain(tcp).chain(admin).collect()
}

/// What is cut is gone after this.
const CUT_WITHIN: Duration = Duration::from_secs(2);
/// Threads that can end have ended after this.
const JOINED_WITHIN: Duration = Duration::from_secs(2);
