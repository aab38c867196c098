//! Every metric everlink exports, registered in one place.
//!
//! Handles are resolved once for each upstream, so the data path touches atomics only, never a map or a lock. Series
//! appear at 0 with their upstream and go with it. Label values come from the configuration or from the closed lists
//! here, never from a peer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::config;

/// A label whose values are a closed list, used as an index into ready-made handles.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// `everlink_links{state}`.
    LinkState {
        Connecting = "connecting", Up = "up", InUse = "in_use", Suspect = "suspect", Waiting = "waiting",
        Draining = "draining", Failed = "failed",
    }
}
label! {
    /// `everlink_link_dials_total{outcome}` as direct mode can produce it.
    DialOutcome { Ok = "ok", Resolve = "resolve", Refused = "refused", Timeout = "timeout", Tls = "tls", Local = "local" }
}
label! {
    /// `everlink_link_losses_total{reason}`; the last two are planned.
    LossReason {
        Heartbeat = "heartbeat", Closed = "closed", Reset = "reset", Error = "error", Protocol = "protocol",
        Reload = "reload", Aged = "aged",
    }
}
label! {
    /// `everlink_connections_closed_total{reason}`.
    CloseReason {
        /// Both directions ended in order.
        Finished = "finished",
        ClientReset = "client_reset",
        UpstreamReset = "upstream_reset",
        /// everlink judged the far end dead while a client used the connection.
        Dead = "dead",
        Idle = "idle",
        /// Cut at the end of a drain, or when its upstream was removed.
        Drained = "drained",
        Error = "error",
    }
}
label! {
    /// `everlink_connections_refused_total{reason}`.
    RefuseReason { LinkDown = "link_down", Limit = "limit" }
}
label! {
    /// `everlink_bytes_total{direction}`: to, and from, the upstream.
    Direction { Sent = "sent", Received = "received" }
}
label! {
    /// `everlink_config_reloads_total{outcome}`.
    ReloadOutcome { Applied = "applied", Unchanged = "unchanged", Rejected = "rejected" }
}

/// Seconds; six buckets keep an upstream within its series budget.
const ROUND_TRIP_BUCKETS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5];
const WAIT_BUCKETS: &[f64] = &[0.0005, 0.005, 0.05, 0.25, 1.0, 5.0];
const LIFETIME_BUCKETS: &[f64] = &[1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0];

/// The registry and every family in it.
pub struct Metrics {
    registry: Registry,
    families: Families,
    pub reloads: [IntCounter; 3],
    pub reload_successful: IntGauge,
    pub reload_success_timestamp: Gauge,
    pub config_generation: IntGauge,
    pub tls_reload_failures: IntCounter,
    pub log_dropped: IntCounter,
    pub task_panics: IntCounter,
    pub accept_errors: IntCounter,
    pub process_stalls: IntCounter,
}

struct Families {
    upstream_up: IntGaugeVec,
    endpoint_up: IntGaugeVec,
    endpoint_losses: IntCounterVec,
    links: IntGaugeVec,
    dials: IntCounterVec,
    reconnects: IntCounterVec,
    losses: IntCounterVec,
    downtime: CounterVec,
    last_change: GaugeVec,
    last_received: GaugeVec,
    retry_delay: GaugeVec,
    dial_duration: HistogramVec,
    lifetime: HistogramVec,
    beats_sent: IntCounterVec,
    beats_missed: IntCounterVec,
    rtt: HistogramVec,
    interval: GaugeVec,
    budget: GaugeVec,
    connections: IntGaugeVec,
    waiting: IntGaugeVec,
    connections_total: IntCounterVec,
    closed: IntCounterVec,
    refused: IntCounterVec,
    wait: HistogramVec,
    bytes: IntCounterVec,
    certificate_not_after: GaugeVec,
}

/// One upstream's handles. Cheap to share; every method is lock-free.
pub struct UpstreamMetrics {
    pub up: IntGauge,
    pub links: Vec<IntGauge>,
    pub dials: Vec<IntCounter>,
    pub reconnects: IntCounter,
    pub losses: Vec<IntCounter>,
    downtime: Counter,
    /// Milliseconds of `monotonic_ms` since which no link lives and the time is not yet in `downtime`; 0: a link lives.
    down_since: AtomicU64,
    pub last_change: Gauge,
    pub last_received: Gauge,
    pub retry_delay: Gauge,
    pub dial_duration: Histogram,
    pub lifetime: Histogram,
    pub beats_sent: IntCounter,
    pub beats_missed: IntCounter,
    pub rtt: Histogram,
    pub interval: Gauge,
    pub budget: Gauge,
    pub connections: IntGauge,
    pub waiting: IntGauge,
    pub connections_total: IntCounter,
    pub closed: Vec<IntCounter>,
    pub refused: Vec<IntCounter>,
    pub wait: Histogram,
    pub bytes: Vec<IntCounter>,
}

/// One endpoint's handles.
#[derive(Clone)]
pub struct EndpointMetrics {
    pub up: IntGauge,
    pub losses: IntCounter,
}

/// Every endpoint's figures at one moment, by upstream and endpoint.
#[derive(Debug, Default)]
pub struct EndpointFigures(HashMap<String, HashMap<String, EndpointFigure>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointFigure {
    pub up: bool,
    pub losses: u64,
}

impl EndpointFigures {
    /// Down and never lost, for an endpoint without series.
    pub fn get(&self, upstream: &str, endpoint: &str) -> EndpointFigure {
        self.0.get(upstream).and_then(|endpoints| endpoints.get(endpoint)).copied().unwrap_or_default()
    }
}

impl Metrics {
    /// Registers everything. Errors only if two metrics share a name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        let build =
            gauge_vec(&registry, "everlink_build_info", "The build that runs; always 1.", &["version", "revision"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), revision()]).set(1.0);
        let reloads = int_counter_vec(
            &registry,
            "everlink_config_reloads_total",
            "Reloads of the configuration by outcome.",
            &["outcome"],
        )?;
        let outcome = |o: ReloadOutcome| reloads.with_label_values(&[o.name()]);
        let metrics = Self {
            reloads: [
                outcome(ReloadOutcome::Applied),
                outcome(ReloadOutcome::Unchanged),
                outcome(ReloadOutcome::Rejected),
            ],
            reload_successful: int_gauge(
                &registry,
                "everlink_config_last_reload_successful",
                "1 if the newest content of the configuration file is in force.",
            )?,
            reload_success_timestamp: gauge(
                &registry,
                "everlink_config_last_reload_success_timestamp_seconds",
                "When a configuration was last taken.",
            )?,
            config_generation: int_gauge(
                &registry,
                "everlink_config_generation",
                "Counts the configurations taken since the start.",
            )?,
            tls_reload_failures: int_counter(
                &registry,
                "everlink_tls_reload_failures_total",
                "Changed TLS files that could not be used; the old ones stay.",
            )?,
            log_dropped: int_counter(
                &registry,
                "everlink_log_dropped_total",
                "Log lines dropped because the output was blocked or failed.",
            )?,
            task_panics: int_counter(
                &registry,
                "everlink_task_panics_total",
                "Tasks that panicked and were restarted.",
            )?,
            accept_errors: int_counter(
                &registry,
                "everlink_accept_errors_total",
                "Local connections that could not be accepted.",
            )?,
            process_stalls: int_counter(
                &registry,
                "everlink_process_stalls_total",
                "Times this process was stopped or starved for longer than a second.",
            )?,
            families,
            registry,
        };
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Everything as of now, for an encoder.
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// The handles of an upstream, all its series present at 0.
    pub fn upstream(&self, upstream: &config::Upstream) -> Arc<UpstreamMetrics> {
        let f = &self.families;
        let name = upstream.name.as_str();
        let metrics = UpstreamMetrics {
            up: f.upstream_up.with_label_values(&[name]),
            links: int_gauges::<LinkState>(&f.links, name),
            dials: int_counters::<DialOutcome>(&f.dials, name),
            reconnects: f.reconnects.with_label_values(&[name]),
            losses: int_counters::<LossReason>(&f.losses, name),
            downtime: f.downtime.with_label_values(&[name]),
            down_since: AtomicU64::new(0),
            last_change: f.last_change.with_label_values(&[name]),
            last_received: f.last_received.with_label_values(&[name]),
            retry_delay: f.retry_delay.with_label_values(&[name]),
            dial_duration: f.dial_duration.with_label_values(&[name]),
            lifetime: f.lifetime.with_label_values(&[name]),
            beats_sent: f.beats_sent.with_label_values(&[name]),
            beats_missed: f.beats_missed.with_label_values(&[name]),
            rtt: f.rtt.with_label_values(&[name]),
            interval: f.interval.with_label_values(&[name]),
            budget: f.budget.with_label_values(&[name]),
            connections: f.connections.with_label_values(&[name]),
            waiting: f.waiting.with_label_values(&[name]),
            connections_total: f.connections_total.with_label_values(&[name]),
            closed: int_counters::<CloseReason>(&f.closed, name),
            refused: int_counters::<RefuseReason>(&f.refused, name),
            wait: f.wait.with_label_values(&[name]),
            bytes: int_counters::<Direction>(&f.bytes, name),
        };
        metrics.set_alive(false);
        metrics.configure(upstream);
        Arc::new(metrics)
    }

    /// The handles of one endpoint, by its name in the configuration.
    pub fn endpoint(&self, upstream: &str, endpoint: &str) -> EndpointMetrics {
        let labels = &[upstream, endpoint];
        EndpointMetrics {
            up: self.families.endpoint_up.with_label_values(labels),
            losses: self.families.endpoint_losses.with_label_values(labels),
        }
    }

    /// What the endpoints' series say, without creating one for an endpoint that has just been removed.
    pub fn endpoint_figures(&self) -> EndpointFigures {
        let mut figures = EndpointFigures::default();
        for family in self.families.endpoint_up.collect().iter().chain(&self.families.endpoint_losses.collect()) {
            let losses = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            for metric in family.get_metric() {
                let label = |name| metric.get_label().iter().find(|l| l.name() == name).map_or("", |l| l.value());
                let endpoints = figures.0.entry(label("upstream").to_owned()).or_default();
                let figure = endpoints.entry(label("endpoint").to_owned()).or_default();
                if losses {
                    figure.losses = metric.get_counter().get_value() as u64;
                } else {
                    figure.up = metric.get_gauge().get_value() == 1.0;
                }
            }
        }
        figures
    }

    /// Forgets an endpoint that left the configuration.
    pub fn remove_endpoint(&self, upstream: &str, endpoint: &str) {
        let labels = &[upstream, endpoint];
        let _ = self.families.endpoint_up.remove_label_values(labels);
        let _ = self.families.endpoint_losses.remove_label_values(labels);
    }

    /// When a certificate in use ends, in seconds of Unix time. `role` is one of `client`, `ca`.
    pub fn certificate_not_after(&self, role: &'static str, upstream: &str) -> Gauge {
        self.families.certificate_not_after.with_label_values(&[role, upstream])
    }

    pub fn remove_certificate(&self, role: &'static str, upstream: &str) {
        let _ = self.families.certificate_not_after.remove_label_values(&[role, upstream]);
    }

    /// Forgets every series of an upstream that left the configuration. Its endpoints are removed one by one.
    pub fn remove_upstream(&self, name: &str) {
        let f = &self.families;
        let one = &[name];
        let _ = f.upstream_up.remove_label_values(one);
        let _ = f.reconnects.remove_label_values(one);
        let _ = f.downtime.remove_label_values(one);
        for family in [&f.last_change, &f.last_received, &f.retry_delay, &f.interval, &f.budget] {
            let _ = family.remove_label_values(one);
        }
        for family in [&f.dial_duration, &f.lifetime, &f.rtt, &f.wait] {
            let _ = family.remove_label_values(one);
        }
        for family in [&f.beats_sent, &f.beats_missed, &f.connections_total] {
            let _ = family.remove_label_values(one);
        }
        for family in [&f.connections, &f.waiting] {
            let _ = family.remove_label_values(one);
        }
        for state in LinkState::ALL {
            let _ = f.links.remove_label_values(&[name, state.name()]);
        }
        remove_each::<DialOutcome>(&f.dials, name);
        remove_each::<LossReason>(&f.losses, name);
        remove_each::<CloseReason>(&f.closed, name);
        remove_each::<RefuseReason>(&f.refused, name);
        remove_each::<Direction>(&f.bytes, name);
        for role in ["client", "ca"] {
            self.remove_certificate(role, name);
        }
    }

    /// How many series a direct upstream with so many endpoints exports at most.
    pub fn series_of(endpoints: usize, tls: bool) -> usize {
        let histograms = 3 * (ROUND_TRIP_BUCKETS.len() + 3) + LIFETIME_BUCKETS.len() + 3;
        let lists = LinkState::ALL.len()
            + DialOutcome::ALL.len()
            + LossReason::ALL.len()
            + CloseReason::ALL.len()
            + RefuseReason::ALL.len()
            + Direction::ALL.len();
        // up, reconnects, downtime, last_change, last_received, retry_delay, beats sent and missed, interval, budget,
        // connections, waiting, connections_total
        const SINGLE: usize = 13;
        histograms + lists + SINGLE + 2 * endpoints + if tls { 2 } else { 0 }
    }
}

impl UpstreamMetrics {
    /// Shows the numbers now in force.
    pub fn configure(&self, upstream: &config::Upstream) {
        self.interval.set(upstream.heartbeat.interval.as_secs_f64());
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

/// The commit this was built from, if the build knew it.
pub fn revision() -> &'static str {
    option_env!("EVERLINK_REVISION").unwrap_or("unknown")
}

/// Seconds of Unix time.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Milliseconds of a clock that only goes forward; never 0.
fn monotonic_ms() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64 + 1
}

impl Families {
    fn register(r: &Registry) -> Result<Self, prometheus::Error> {
        let up = &["upstream"];
        Ok(Self {
            upstream_up: int_gauge_vec(
                r,
                "everlink_upstream_up",
                "1 while a link of the upstream is up or in use.",
                up,
            )?,
            endpoint_up: int_gauge_vec(
                r,
                "everlink_endpoint_up",
                "1 while a link to the endpoint is up or in use.",
                &["upstream", "endpoint"],
            )?,
            endpoint_losses: int_counter_vec(
                r,
                "everlink_endpoint_losses_total",
                "Links to the endpoint that were lost.",
                &["upstream", "endpoint"],
            )?,
            links: int_gauge_vec(r, "everlink_links", "Links by state.", &["upstream", "state"])?,
            dials: int_counter_vec(r, "everlink_link_dials_total", "Dials by outcome.", &["upstream", "outcome"])?,
            reconnects: int_counter_vec(
                r,
                "everlink_link_reconnects_total",
                "Links that came up again after having been lost.",
                up,
            )?,
            losses: int_counter_vec(
                r,
                "everlink_link_losses_total",
                "Links that ended, by reason; `reload` and `aged` are planned.",
                &["upstream", "reason"],
            )?,
            downtime: counter_vec(r, "everlink_link_downtime_seconds_total", "Time without any live link.", up)?,
            last_change: gauge_vec(
                r,
                "everlink_link_last_change_timestamp_seconds",
                "When a link of the upstream last came up or was lost.",
                up,
            )?,
            last_received: gauge_vec(
                r,
                "everlink_link_last_received_timestamp_seconds",
                "When a byte last came from the upstream.",
                up,
            )?,
            retry_delay: gauge_vec(
                r,
                "everlink_link_retry_delay_seconds",
                "The wait now running before a redial, 0 if none.",
                up,
            )?,
            dial_duration: histogram_vec(
                r,
                "everlink_link_dial_duration_seconds",
                "How long successful dials took.",
                up,
                ROUND_TRIP_BUCKETS,
            )?,
            lifetime: histogram_vec(
                r,
                "everlink_link_lifetime_seconds",
                "How long connections of a link lived, from their dial to their loss or hand-out.",
                up,
                LIFETIME_BUCKETS,
            )?,
            beats_sent: int_counter_vec(r, "everlink_heartbeats_sent_total", "Heartbeats sent.", up)?,
            beats_missed: int_counter_vec(
                r,
                "everlink_heartbeats_missed_total",
                "Heartbeats not answered in time.",
                up,
            )?,
            rtt: histogram_vec(
                r,
                "everlink_heartbeat_rtt_seconds",
                "Time from a heartbeat to its answer.",
                up,
                ROUND_TRIP_BUCKETS,
            )?,
            interval: gauge_vec(r, "everlink_heartbeat_interval_seconds", "The heartbeat interval now in force.", up)?,
            budget: gauge_vec(
                r,
                "everlink_detection_budget_seconds",
                "The longest a dead link may go unnoticed, as configured now.",
                up,
            )?,
            connections: int_gauge_vec(r, "everlink_connections", "Local connections being carried.", up)?,
            waiting: int_gauge_vec(r, "everlink_connections_waiting", "Local connections waiting for a link.", up)?,
            connections_total: int_counter_vec(r, "everlink_connections_total", "Local connections accepted.", up)?,
            closed: int_counter_vec(
                r,
                "everlink_connections_closed_total",
                "Carried connections that ended, by reason.",
                &["upstream", "reason"],
            )?,
            refused: int_counter_vec(
                r,
                "everlink_connections_refused_total",
                "Local connections closed without being carried.",
                &["upstream", "reason"],
            )?,
            wait: histogram_vec(
                r,
                "everlink_connection_wait_seconds",
                "From accepting a local connection until it is carried.",
                up,
                WAIT_BUCKETS,
            )?,
            bytes: int_counter_vec(
                r,
                "everlink_bytes_total",
                "Bytes of local connections carried to (sent) and from (received) the upstream.",
                &["upstream", "direction"],
            )?,
            certificate_not_after: gauge_vec(
                r,
                "everlink_tls_certificate_not_after_timestamp_seconds",
                "When a certificate in use ends.",
                &["role", "upstream"],
            )?,
        })
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, made: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

fn int_gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    add(r, IntGauge::new(name, help)?)
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    add(r, Gauge::new(name, help)?)
}

fn int_counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    add(r, IntCounter::new(name, help)?)
}

fn int_gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    add(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    add(r, GaugeVec::new(Opts::new(name, help), labels)?)
}

fn int_counter_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    add(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn counter_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, prometheus::Error> {
    add(r, CounterVec::new(Opts::new(name, help), labels)?)
}

fn histogram_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    add(r, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
}

fn int_gauges<L: Label>(family: &IntGaugeVec, upstream: &str) -> Vec<IntGauge> {
    L::ALL.iter().map(|label| family.with_label_values(&[upstream, label.name()])).collect()
}

fn int_counters<L: Label>(family: &IntCounterVec, upstream: &str) -> Vec<IntCounter> {
    L::ALL.iter().map(|label| family.with_label_values(&[upstream, label.name()])).collect()
}

fn remove_each<L: Label>(family: &IntCounterVec, upstream: &str) {
    for label in L::ALL {
        let _ = family.remove_label_values(&[upstream, label.name()]);
    }
}
