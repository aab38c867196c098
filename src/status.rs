//! What everlink knows about itself at this moment.
//!
//! Supervisors publish here, HTTP and the commands read. Nothing blocks: numbers are atomics, everything else is
//! swapped whole, so a slow reader never holds up a link.

#![forbid(unsafe_code)]

mod drill;
mod gateway;
mod link;
mod session;
mod upstream;

pub use drill::DrillStatus;
pub use gateway::{Connection, GatewaySession, GatewayStatus, Shown};
pub use link::{LinkStatus, LinkView};
pub use session::{SessionFigures, SessionView, ShortId};
pub use upstream::{Event, Outage, UpstreamStatus};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::config;
use crate::metrics::Metrics;

/// Why the last link of an upstream ends that is removed, or that a drain has no more clients for.
pub const LET_GO: &str = "let go";

/// The whole process.
pub struct Status {
    pub metrics: Metrics,
    pub started: SystemTime,
    pub config: ArcSwap<ConfigStatus>,
    upstreams: ArcSwap<BTreeMap<String, Arc<UpstreamStatus>>>,
    gateway: ArcSwapOption<GatewayStatus>,
    /// Held while one comes or goes, so that map and series tell the same. Readers do without.
    roster: Mutex<()>,
    /// The configuration is in and every listener bound.
    pub ready: AtomicBool,
    pub draining: AtomicBool,
    /// Commands are taken on an admin socket.
    pub takes_commands: AtomicBool,
    pub loops: Vec<LoopStamp>,
    /// Seconds that the HTTP thread has ticked, several at a time; it stands still while the process does.
    pub ticks: AtomicU64,
    /// Counts how often the machine has come back from a suspension.
    pub wakes: watch::Sender<u64>,
}

/// The last sign of life of one data loop, by [`Status::ticks`].
#[derive(Default)]
pub struct LoopStamp(AtomicU64);

/// The configuration in force, and what became of the last reload.
#[derive(Debug, Clone, Default)]
pub struct ConfigStatus {
    pub path: String,
    pub generation: u64,
    /// The first 12 hexadecimal digits of the content's SHA-256.
    pub hash: String,
    pub last_reload: Option<ReloadStatus>,
    /// What is in force, as a file that means the same; secrets masked.
    pub effective: Arc<str>,
}

#[derive(Debug, Clone)]
pub struct ReloadStatus {
    pub at: SystemTime,
    pub outcome: &'static str,
    /// What changed, or why it was rejected; one line each.
    pub lines: Vec<String>,
}

impl Status {
    /// `loops`: how many data loops will renew a stamp.
    pub fn new(metrics: Metrics, loops: usize) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            started: SystemTime::now(),
            config: ArcSwap::default(),
            upstreams: ArcSwap::default(),
            gateway: ArcSwapOption::empty(),
            roster: Mutex::default(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            takes_commands: AtomicBool::new(false),
            loops: (0..loops).map(|_| LoopStamp::default()).collect(),
            ticks: AtomicU64::new(0),
            wakes: watch::Sender::new(0),
        })
    }

    /// A data loop is alive.
    pub fn stamp(&self, data_loop: usize) {
        if let Some(stamp) = self.loops.get(data_loop) {
            stamp.0.store(self.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// How many seconds ago the slowest data loop was last alive.
    pub fn slowest_loop(&self) -> u64 {
        let now = self.ticks.load(Ordering::Relaxed);
        self.loops.iter().map(|stamp| now.saturating_sub(stamp.0.load(Ordering::Relaxed))).max().unwrap_or(0)
    }

    /// How an operator cuts an upstream's waits short: there may be no socket to ask for it.
    pub fn how_to_retry(&self, upstream: &str) -> String {
        if self.takes_commands.load(Ordering::Relaxed) {
            format!("`everlink retry {upstream}`")
        } else {
            "SIGHUP".to_owned()
        }
    }

    pub fn upstreams(&self) -> Arc<BTreeMap<String, Arc<UpstreamStatus>>> {
        self.upstreams.load_full()
    }

    /// Adds an upstream, its series at 0. One of the same name whose clients are still draining is shown no more, and
    /// counts on where nobody looks: its end would else be taken for trouble of the new one.
    pub fn add_upstream(&self, settings: &Arc<config::Upstream>) -> Arc<UpstreamStatus> {
        let _roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = self.upstreams.load().get(&settings.name) {
            self.forget_series(old);
        }
        let upstream = Arc::new(UpstreamStatus::new(settings, self.metrics.upstream(settings)));
        self.upstreams.rcu(|all| {
            let mut all = BTreeMap::clone(all);
            all.insert(upstream.name.clone(), upstream.clone());
            all
        });
        upstream
    }

    /// Forgets an upstream and its series, unless another one has its name by now.
    pub fn remove_upstream(&self, upstream: &Arc<UpstreamStatus>) {
        let _roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.upstreams.load().get(&upstream.name).is_some_and(|shown| Arc::ptr_eq(shown, upstream)) {
            return;
        }
        self.upstreams.rcu(|all| {
            let mut all = BTreeMap::clone(all);
            all.remove(&upstream.name);
            all
        });
        self.forget_series(upstream);
    }

    /// The gateway, if this process is one.
    pub fn gateway(&self) -> Option<Arc<GatewayStatus>> {
        self.gateway.load_full()
    }

    /// Shows a gateway, its series at 0. One that is still draining is shown no more.
    pub fn add_gateway(&self, settings: &Arc<config::Gateway>) -> Arc<GatewayStatus> {
        let _roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        self.metrics.remove_gateway();
        let gateway = Arc::new(GatewayStatus::new(settings, self.metrics.gateway(settings)));
        self.gateway.store(Some(gateway.clone()));
        gateway
    }

    /// Forgets a gateway and its series, unless another one has come by now.
    pub fn remove_gateway(&self, gateway: &Arc<GatewayStatus>) {
        let _roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gateway.load().as_ref().is_some_and(|shown| Arc::ptr_eq(shown, gateway)) {
            self.gateway.store(None);
            self.metrics.remove_gateway();
        }
    }

    /// Brings what is summed up only when somebody looks up to now; called before each scrape.
    pub fn refresh(&self) {
        for upstream in self.upstreams.load().values() {
            upstream.refresh();
        }
        if let Some(gateway) = self.gateway.load().as_ref() {
            gateway.refresh();
        }
    }

    fn forget_series(&self, upstream: &UpstreamStatus) {
        for endpoint in &upstream.settings.load().endpoints {
            self.metrics.remove_endpoint(&upstream.name, &endpoint.name);
        }
        self.metrics.remove_upstream(&upstream.name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use crate::http::example;

    #[test]
    fn a_command_is_advised_only_where_commands_are_taken() {
        let status = example::status();
        assert_eq!(status.how_to_retry("chat"), "SIGHUP");
        status.takes_commands.store(true, Ordering::Relaxed);
        assert_eq!(status.how_to_retry("chat"), "`everlink retry chat`");
    }
}
