//! What everlink knows about itself at this moment.
//!
//! Supervisors publish here, HTTP and the commands read. Nothing blocks: numbers are atomics, everything else is
//! swapped whole, so a slow reader never holds up a link.

#![forbid(unsafe_code)]

mod drill;
mod gateway;
mod session;

pub use drill::DrillStatus;
pub use gateway::{Connection, GatewaySession, GatewayStatus, Shown};
pub use session::{SessionFigures, SessionView, ShortId};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::config;
use crate::metrics::{Label, LinkState, LossReason, Metrics, Mode, UpstreamMetrics};
use crate::net::rehearsal::Rehearsal;

/// How many events an upstream remembers.
const EVENTS_KEPT: usize = 50;

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
    pub loops: Vec<LoopStamp>,
    /// Ticks once a second on the HTTP thread, so it stands still while the process does.
    pub ticks: AtomicU64,
    /// Counts how often the machine has come back from a suspension.
    pub wakes: watch::Sender<u64>,
}

/// The last sign of life of one data loop, in ticks of [`Status::ticks`].
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

/// One upstream.
pub struct UpstreamStatus {
    pub name: String,
    pub settings: ArcSwap<config::Upstream>,
    pub metrics: Arc<UpstreamMetrics>,
    links: ArcSwap<Vec<Arc<LinkStatus>>>,
    events: ArcSwap<Vec<Arc<Event>>>,
    /// Addresses really bound, as the kernel tells them, of all forwards together.
    pub listening: ArcSwap<Vec<String>>,
    /// The same by forward, in the order of the settings; empty in direct mode.
    pub forwards: ArcSwap<Vec<Vec<String>>>,
    /// Learned from a server that cuts idle connections; 0 milliseconds: nothing learned.
    learned_max_age: AtomicU64,
    /// Shown since then: the start, or the reload that brought it.
    pub added: SystemTime,
    /// When it first came up; before that is no outage.
    pub first_up: OnceLock<SystemTime>,
    /// When the upstream last changed between up and down.
    pub up_since: ArcSwap<SystemTime>,
    /// The last outages, newest last; the oldest is forgotten past the bound of the events.
    pub outages: ArcSwap<Vec<Outage>>,
    /// The outage that is being rehearsed on one of its links.
    pub drill: ArcSwapOption<DrillStatus>,
    /// Outages so far, those that are forgotten too.
    pub outages_total: AtomicU64,
    /// Held while the wait shown is brought up to date, so that of two who do, the later has the last word.
    wait: Mutex<()>,
}

/// A time without any live link.
#[derive(Debug, Clone)]
pub struct Outage {
    pub from: SystemTime,
    /// `None`: it still lasts.
    pub until: Option<SystemTime>,
    pub reason: String,
}

/// One link: a place in the pool, or a tunnel.
pub struct LinkStatus {
    pub id: u64,
    view: ArcSwap<LinkView>,
    /// Tunnel: the session it carries.
    session: ArcSwapOption<SessionFigures>,
    metrics: Arc<UpstreamMetrics>,
}

/// What a link shows of itself.
#[derive(Debug, Clone)]
pub struct LinkView {
    pub state: LinkState,
    pub since: SystemTime,
    /// The endpoint's name in the configuration.
    pub endpoint: Option<String>,
    /// The address connected to.
    pub address: Option<String>,
    /// Round trip of the last answered beat, or of the connect, or of a busy tunnel link by the kernel.
    pub rtt: Option<Duration>,
    /// Beats unanswered in a row.
    pub misses: u32,
    /// Dials since the link last stood.
    pub attempt: u32,
    pub retry_at: Option<SystemTime>,
    /// Why the link was last lost or could not be dialled.
    pub last_error: Option<String>,
}

/// Something that happened to an upstream.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: SystemTime,
    /// A short word from a closed list: `up`, `suspect`, `lost`, `dial_failed`, `failed`, `learned`, `drill`, `drill_over`, …
    pub kind: &'static str,
    pub link: Option<u64>,
    pub endpoint: Option<String>,
    pub reason: Option<LossReason>,
    pub text: String,
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

    /// How many ticks ago the slowest data loop was last alive.
    pub fn slowest_loop(&self) -> u64 {
        let now = self.ticks.load(Ordering::Relaxed);
        self.loops.iter().map(|stamp| now.saturating_sub(stamp.0.load(Ordering::Relaxed))).max().unwrap_or(0)
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
        let upstream = Arc::new(UpstreamStatus {
            name: settings.name.clone(),
            settings: ArcSwap::new(settings.clone()),
            metrics: self.metrics.upstream(settings),
            links: ArcSwap::default(),
            events: ArcSwap::default(),
            listening: ArcSwap::default(),
            forwards: ArcSwap::default(),
            learned_max_age: AtomicU64::new(0),
            added: SystemTime::now(),
            first_up: OnceLock::new(),
            up_since: ArcSwap::from_pointee(SystemTime::now()),
            outages: ArcSwap::default(),
            drill: ArcSwapOption::empty(),
            outages_total: AtomicU64::new(0),
            wait: Mutex::default(),
        });
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
        let gateway = Arc::new(GatewayStatus::new(settings, self.metrics.gateway()));
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

impl UpstreamStatus {
    pub fn links(&self) -> Arc<Vec<Arc<LinkStatus>>> {
        self.links.load_full()
    }

    pub fn events(&self) -> Arc<Vec<Arc<Event>>> {
        self.events.load_full()
    }

    /// The addresses bound, for each forward; in direct mode there is one list.
    pub fn listens(&self, forwards: Vec<Vec<String>>) {
        self.listening.store(Arc::new(forwards.concat()));
        let by_forward = if self.metrics.mode == Mode::Tunnel { forwards } else { Vec::new() };
        self.forwards.store(Arc::new(by_forward));
    }

    /// The drill that runs, if it is not over.
    pub fn running_drill(&self) -> Option<Arc<DrillStatus>> {
        self.drill.load_full().filter(|drill| !drill.rehearsal.is_over())
    }

    /// The outage that is being rehearsed on this link, if it is about this endpoint and not over.
    pub fn rehearsal_of(&self, link: u64, endpoint: &str) -> Option<Arc<Rehearsal>> {
        let drill = self.drill.load();
        let is_here = |drill: &&Arc<DrillStatus>| drill.link == link && drill.endpoint == endpoint;
        let drill = drill.as_ref().filter(is_here).filter(|drill| !drill.rehearsal.is_over())?;
        Some(drill.rehearsal.clone())
    }

    fn refresh(&self) {
        self.metrics.refresh();
        if let Some(of_sessions) = &self.metrics.session {
            let (mut unacknowledged, mut buffer) = (0, 0u64);
            for session in self.links().iter().filter_map(|link| link.session()) {
                unacknowledged += session.unacknowledged;
                buffer = buffer.saturating_add(session.buffer);
            }
            of_sessions.unacknowledged.set(i64::try_from(unacknowledged).unwrap_or(i64::MAX));
            of_sessions.buffer.set(i64::try_from(buffer).unwrap_or(i64::MAX));
        }
    }

    /// A new link, counted as `connecting` until it says otherwise. Dropping the last handle uncounts it.
    pub fn add_link(&self, id: u64) -> Arc<LinkStatus> {
        let view = LinkView {
            state: LinkState::Connecting,
            since: SystemTime::now(),
            endpoint: None,
            address: None,
            rtt: None,
            misses: 0,
            attempt: 1,
            retry_at: None,
            last_error: None,
        };
        let link = Arc::new(LinkStatus {
            id,
            view: ArcSwap::from_pointee(view),
            session: ArcSwapOption::empty(),
            metrics: self.metrics.clone(),
        });
        self.metrics.links[LinkState::Connecting.index()].inc();
        self.links.rcu(|links| links.iter().cloned().chain([link.clone()]).collect::<Vec<_>>());
        link
    }

    pub fn remove_link(&self, id: u64) {
        self.links.rcu(|links| links.iter().filter(|link| link.id != id).cloned().collect::<Vec<_>>());
    }

    /// Shows the longest of the waits for a redial that are running now, 0 if none. Called when one begins or ends.
    pub fn show_wait(&self) {
        let _last_word = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |link: &Arc<LinkStatus>| {
            let view = link.view();
            view.retry_at?.duration_since(view.since).ok()
        };
        let longest = self.links().iter().filter_map(wait).max().unwrap_or_default();
        self.metrics.retry_delay.set((longest.as_secs_f64() * 1000.0).round() / 1000.0);
    }

    /// Remembers an event, forgetting the oldest past the bound.
    pub fn record(&self, event: Event) {
        let event = Arc::new(event);
        self.events.rcu(|events| {
            let skip = (events.len() + 1).saturating_sub(EVENTS_KEPT);
            events.iter().skip(skip).cloned().chain([event.clone()]).collect::<Vec<_>>()
        });
    }

    pub fn learned_max_age(&self) -> Option<Duration> {
        match self.learned_max_age.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    pub fn set_learned_max_age(&self, age: Option<Duration>) {
        self.learned_max_age.store(age.map_or(0, |age| age.as_millis().max(1) as u64), Ordering::Relaxed);
    }

    /// The upstream has come up or gone down; keeps metrics, outage history and the time of the change. Returns how long
    /// the state that ended had lasted.
    pub fn set_alive(&self, alive: bool, reason: &str) -> Duration {
        let was = self.metrics.up.get() == 1;
        if was == alive {
            return Duration::ZERO;
        }
        let now = SystemTime::now();
        self.metrics.set_alive(alive);
        let since = self.up_since.swap(Arc::new(now));
        if alive {
            let _ = self.first_up.set(now);
        } else {
            self.outages_total.fetch_add(1, Ordering::Relaxed);
        }
        self.outages.rcu(|outages| {
            let mut outages = Vec::clone(outages);
            if alive {
                if let Some(last) = outages.last_mut() {
                    last.until.get_or_insert(now);
                }
            } else {
                if outages.len() >= EVENTS_KEPT {
                    outages.remove(0);
                }
                outages.push(Outage { from: now, until: None, reason: reason.to_owned() });
            }
            outages
        });
        now.duration_since(*since).unwrap_or_default()
    }
}

impl LinkView {
    /// Not connected and not being dialled: a retry would help.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, LinkState::Waiting | LinkState::Failed)
    }
}

impl LinkStatus {
    pub fn view(&self) -> Arc<LinkView> {
        self.view.load_full()
    }

    /// The session it carries, if it carries one.
    pub fn session(&self) -> Option<SessionView> {
        self.session.load().as_ref().map(|figures| figures.view())
    }

    /// Shows a session, or that there is none any more.
    pub fn show_session(&self, figures: Option<Arc<SessionFigures>>) {
        self.session.store(figures);
    }

    /// Changes the view; the gauge of links by state follows.
    pub fn update(&self, change: impl FnOnce(&mut LinkView)) {
        let mut view = LinkView::clone(&self.view.load());
        let before = view.state;
        change(&mut view);
        if view.state != before {
            view.since = SystemTime::now();
            self.metrics.links[before.index()].dec();
            self.metrics.links[view.state.index()].inc();
        }
        self.view.store(Arc::new(view));
    }
}

impl Drop for LinkStatus {
    fn drop(&mut self) {
        self.metrics.links[self.view.load().state.index()].dec();
    }
}
