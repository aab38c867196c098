//! What one upstream shows of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{DrillStatus, LinkStatus};
use crate::config;
use crate::metrics::{LossReason, Mode, UpstreamMetrics};
use crate::net::rehearsal::Rehearsal;

/// How many events an upstream remembers, and how many outages.
const EVENTS_KEPT: usize = 50;

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
    /// It was removed: no new client comes, and those it has may stay until the end of the drain.
    pub draining: AtomicBool,
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

impl UpstreamStatus {
    /// Down, without links, and never up yet. `metrics`: its own.
    pub(super) fn new(settings: &Arc<config::Upstream>, metrics: Arc<UpstreamMetrics>) -> Self {
        Self {
            name: settings.name.clone(),
            settings: ArcSwap::new(settings.clone()),
            metrics,
            links: ArcSwap::default(),
            events: ArcSwap::default(),
            listening: ArcSwap::default(),
            forwards: ArcSwap::default(),
            learned_max_age: AtomicU64::new(0),
            added: SystemTime::now(),
            first_up: OnceLock::new(),
            up_since: ArcSwap::from_pointee(SystemTime::now()),
            draining: AtomicBool::new(false),
            outages: ArcSwap::default(),
            drill: ArcSwapOption::empty(),
            outages_total: AtomicU64::new(0),
            wait: Mutex::default(),
        }
    }

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

    /// Brings what is summed up only when somebody looks up to now.
    pub(super) fn refresh(&self) {
        self.metrics.refresh();
        if let Some(of_sessions) = &self.metrics.session {
            let (mut unacknowledged, mut buffer, mut fullest) = (0, 0u64, 0f64);
            for session in self.links().iter().filter_map(|link| link.session()) {
                unacknowledged += session.unacknowledged;
                buffer = buffer.saturating_add(session.buffer);
                fullest = fullest.max(session.fullness());
            }
            of_sessions.unacknowledged.set(i64::try_from(unacknowledged).unwrap_or(i64::MAX));
            of_sessions.fullest.set(fullest);
            of_sessions.buffer.set(i64::try_from(buffer).unwrap_or(i64::MAX));
        }
    }

    /// A new link, counted as `connecting` until it says otherwise. Dropping the last handle uncounts it.
    pub fn add_link(&self, id: u64) -> Arc<LinkStatus> {
        let link = Arc::new(LinkStatus::new(id, self.metrics.clone()));
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
        // Last: whoever reads of it there finds the outage told.
        self.metrics.set_alive(alive);
        now.duration_since(*since).unwrap_or_default()
    }
}
