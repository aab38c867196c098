//! One upstream's handles.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::{Counter, Gauge, Histogram, IntCounter, IntGauge};

use super::labels::{CloseReason, DialOutcome, Direction, Label, LossReason, Mode, RefuseReason};
use super::session::SessionMetrics;
use super::trips::{Trip, Trips};
use super::unix_now;
use crate::config;

/// One upstream's handles. Cheap to share; every method is lock-free, but for the ring of the last round trips.
pub struct UpstreamMetrics {
    pub mode: Mode,
    pub up: IntGauge,
    pub links: Vec<IntGauge>,
    pub dials: Vec<IntCounter>,
    pub reconnects: IntCounter,
    pub losses: Vec<IntCounter>,
    pub(super) downtime: Counter,
    /// Milliseconds of `monotonic_ms` since which no link lives and the time is not yet in `downtime`; 0: a link lives.
    pub(super) down_since: AtomicU64,
    pub last_change: Gauge,
    pub last_received: Gauge,
    pub retry_delay: Gauge,
    pub dial_duration: Histogram,
    pub lifetime: Histogram,
    pub beats_sent: IntCounter,
    pub beats_missed: IntCounter,
    pub rtt: Histogram,
    pub(super) trips: Trips,
    pub interval: Gauge,
    pub timeout: Gauge,
    pub misses: IntGauge,
    pub budget: Gauge,
    pub connections: IntGauge,
    pub waiting: IntGauge,
    pub connections_total: IntCounter,
    pub closed: Vec<IntCounter>,
    pub refused: Vec<IntCounter>,
    pub wait: Histogram,
    pub bytes: Vec<IntCounter>,
    /// The process's: how many drills run.
    pub drills: IntGauge,
    /// Tunnel mode only.
    pub session: Option<SessionMetrics>,
}

impl UpstreamMetrics {
    /// Shows the numbers now in force.
    pub fn configure(&self, upstream: &config::Upstream) {
        self.interval.set(upstream.heartbeat.interval.as_secs_f64());
        self.timeout.set(upstream.heartbeat.timeout.as_secs_f64());
        self.misses.set(upstream.heartbeat.misses.into());
        self.budget.set(upstream.detection_budget().as_secs_f64());
    }

    /// A link came to live, or the last one went. Keeps `up` and the downtime.
    pub fn set_alive(&self, alive: bool) {
        self.up.set(i64::from(alive));
        let since = if alive { 0 } else { monotonic_ms() };
        let before = self.down_since.swap(since, Ordering::AcqRel);
        if before != 0 {
            self.downtime.inc_by(monotonic_ms().saturating_sub(before) as f64 / 1000.0);
        }
    }

    /// Brings the downtime counter up to now; called before each scrape.
    pub fn refresh(&self) {
        let before = self.down_since.load(Ordering::Acquire);
        if before == 0 {
            return;
        }
        let now = monotonic_ms();
        // Lost the race against `set_alive`: that call has counted the time.
        if self.down_since.compare_exchange(before, now, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.downtime.inc_by(now.saturating_sub(before) as f64 / 1000.0);
        }
    }

    /// Seconds without any live link up to now, since the upstream was added.
    pub fn downtime(&self) -> f64 {
        self.refresh();
        self.downtime.get()
    }

    /// A beat was answered.
    pub fn beat_answered(&self, trip: Duration) {
        self.rtt.observe(trip.as_secs_f64());
        self.trips.answered(trip, self.spacing(), monotonic_ms());
    }

    /// A beat was not answered in time.
    pub fn beat_missed(&self) {
        self.beats_missed.inc();
        self.trips.missed(self.spacing(), monotonic_ms());
    }

    /// A connection was made where no beats are sent, or the kernel was asked because none are needed: shown, and no
    /// heartbeat's figure.
    pub fn measured(&self, trip: Duration) {
        self.trips.answered(trip, self.spacing(), monotonic_ms());
    }

    /// The last round trips, oldest first.
    pub fn trips(&self) -> Vec<Trip> {
        self.trips.read(monotonic_ms())
    }

    fn spacing(&self) -> Duration {
        Duration::try_from_secs_f64(self.interval.get()).unwrap_or_default()
    }

    pub fn dial(&self, outcome: DialOutcome) {
        self.dials[outcome.index()].inc();
    }

    pub fn lose(&self, reason: LossReason) {
        self.losses[reason.index()].inc();
    }

    pub fn close(&self, reason: CloseReason) {
        self.closed[reason.index()].inc();
    }

    pub fn refuse(&self, reason: RefuseReason) {
        self.refused[reason.index()].inc();
    }

    pub fn moved(&self, direction: Direction, bytes: u64) {
        self.bytes[direction.index()].inc_by(bytes);
    }

    pub fn changed(&self) {
        self.last_change.set(unix_now());
    }
}

/// Milliseconds of a clock that only goes forward; never 0.
fn monotonic_ms() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64 + 1
}
