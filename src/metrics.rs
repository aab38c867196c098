//! Every metric everlink exports, registered in one place.
//!
//! Handles are resolved once for each upstream, so the data path touches atomics only, never a map or a lock. Series
//! appear at 0 with their upstream and go with it. Label values come from the configuration or from the closed lists
//! here, never from a peer.

#![forbid(unsafe_code)]

mod endpoints;
mod families;
mod gateway;
mod histograms;
mod labels;
mod session;
mod trips;
mod upstream;

pub use endpoints::EndpointSeries;
pub use gateway::GatewayMetrics;
pub use labels::{
    CloseReason, DialOutcome, Direction, Label, LinkState, LossReason, Mode, PerMode, Refusal, RefuseReason,
    ReloadOutcome, ResumeOutcome,
};
pub use session::{SessionMetrics, VIOLATIONS, Violations};
pub use trips::Trip;
pub use upstream::UpstreamMetrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::config;
use families::{Families, gauge, gauge_vec, int_counter, int_counter_vec, int_gauge};
use session::Counted;

/// The registry and every family in it.
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Protocol violations, told while somebody speaks the protocol.
    violations: Arc<Counted>,
    pub reloads: [IntCounter; 3],
    pub reload_successful: IntGauge,
    pub reload_success_timestamp: Gauge,
    pub config_generation: IntGauge,
    pub tls_reload_failures: IntCounter,
    pub log_dropped: IntCounter,
    pub task_panics: IntCounter,
    pub accept_errors: IntCounter,
    pub process_stalls: IntCounter,
    pub drills: IntGauge,
}

/// The certificates of an upstream.
const UPSTREAM_ROLES: [&str; 2] = ["client", "ca"];
/// The certificates of the gateway.
const GATEWAY_ROLES: [&str; 2] = ["server", "client_ca"];

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
                "Times this process was stopped or starved, or its machine suspended, for longer than a second.",
            )?,
            drills: int_gauge(
                &registry,
                "everlink_drills_active",
                "Rehearsed outages that run now, each on one link of an upstream.",
            )?,
            violations: Arc::new(Counted::new(families.violations.clone())),
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

    /// The handles of an upstream, all series of its mode present at 0.
    pub fn upstream(&self, upstream: &config::Upstream) -> Arc<UpstreamMetrics> {
        let f = &self.families;
        let name = upstream.name.as_str();
        let mode = Mode::of(upstream);
        let metrics = UpstreamMetrics {
            mode,
            up: f.upstream_up.with_label_values(&[name]),
            links: f.gauges::<LinkState>(&f.links, name, mode),
            dials: f.counters::<DialOutcome>(&f.dials, name, mode),
            reconnects: f.reconnects.with_label_values(&[name]),
            losses: f.counters::<LossReason>(&f.losses, name, mode),
            downtime: f.downtime.with_label_values(&[name]),
            down_since: Default::default(),
            last_change: f.last_change.with_label_values(&[name]),
            last_received: f.last_received.with_label_values(&[name]),
            retry_delay: f.retry_delay.with_label_values(&[name]),
            dial_duration: f.dial_duration.of(name, mode),
            lifetime: f.lifetime.of(name, mode),
            beats_sent: f.beats_sent.with_label_values(&[name]),
            beats_missed: f.beats_missed.with_label_values(&[name]),
            rtt: f.rtt.of(name, mode),
            trips: Default::default(),
            interval: f.interval.with_label_values(&[name]),
            budget: f.budget.with_label_values(&[name]),
            connections: f.connections.with_label_values(&[name]),
            waiting: f.waiting.with_label_values(&[name]),
            connections_total: f.connections_total.with_label_values(&[name]),
            closed: f.counters::<CloseReason>(&f.closed, name, mode),
            refused: f.counters::<RefuseReason>(&f.refused, name, mode),
            wait: f.wait.of(name, mode),
            bytes: f.counters::<Direction>(&f.bytes, name, mode),
            drills: self.drills.clone(),
            session: (mode == Mode::Tunnel).then(|| SessionMetrics {
                resumes: f.counters::<ResumeOutcome>(&f.resumes, name, mode),
                replayed: f.replayed.with_label_values(&[name]),
                streams_saved: f.streams_saved.with_label_values(&[name]),
                unacknowledged: f.unacknowledged.with_label_values(&[name]),
                buffer: f.buffer.with_label_values(&[name]),
                outage: f.outage.of(name, mode),
                violations: Counted::one_more(&self.violations),
            }),
        };
        metrics.set_alive(false);
        metrics.configure(upstream);
        Arc::new(metrics)
    }

    /// The handles of the gateway, all its series present at 0.
    pub fn gateway(&self) -> Arc<GatewayMetrics> {
        let f = &self.families;
        const NONE: &[&str] = &[];
        Arc::new(GatewayMetrics {
            sessions: f.gateway_sessions.with_label_values(NONE),
            streams: f.gateway_streams.with_label_values(NONE),
            pending: f.gateway_pending.with_label_values(NONE),
            refusals: Refusal::ALL
                .iter()
                .map(|reason| f.gateway_refusals.with_label_values(&[reason.name()]))
                .collect(),
            violations: Counted::one_more(&self.violations),
        })
    }

    /// Forgets every series of the gateway but the violations, which go with the last who counts them.
    pub fn remove_gateway(&self) {
        let f = &self.families;
        const NONE: &[&str] = &[];
        for family in [&f.gateway_sessions, &f.gateway_streams, &f.gateway_pending] {
            let _ = family.remove_label_values(NONE);
        }
        for reason in Refusal::ALL {
            let _ = f.gateway_refusals.remove_label_values(&[reason.name()]);
        }
        for role in GATEWAY_ROLES {
            self.remove_certificate(role, "");
        }
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

    /// When a certificate in use ends, in seconds of Unix time. `role` is one of `client`, `ca`. The gateway's own are
    /// `server` and `client_ca`, of no upstream: the empty name, which no upstream can have.
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
        for family in [&f.dial_duration, &f.lifetime, &f.rtt, &f.wait, &f.outage] {
            family.remove(name);
        }
        for family in [&f.beats_sent, &f.beats_missed, &f.connections_total, &f.replayed, &f.streams_saved] {
            let _ = family.remove_label_values(one);
        }
        for family in [&f.connections, &f.waiting, &f.unacknowledged, &f.buffer] {
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
        remove_each::<ResumeOutcome>(&f.resumes, name);
        for role in UPSTREAM_ROLES {
            self.remove_certificate(role, name);
        }
    }

    /// How many series an upstream in this mode with so many endpoints exports at most.
    pub fn series_of(mode: Mode, endpoints: usize, tls: bool) -> usize {
        let lists = LinkState::each(mode).count()
            + DialOutcome::each(mode).count()
            + LossReason::each(mode).count()
            + CloseReason::each(mode).count()
            + RefuseReason::each(mode).count()
            + Direction::each(mode).count()
            + ResumeOutcome::each(mode).count();
        // up, reconnects, downtime, last_change, last_received, retry_delay, beats sent and missed, interval, budget,
        // connections, waiting, connections_total; replayed, streams_saved, unacknowledged, buffer
        let single = match mode {
            Mode::Direct => 13,
            Mode::Tunnel => 17,
        };
        let of_tls = if tls { UPSTREAM_ROLES.len() } else { 0 };
        histograms::series_of(mode) + lists + single + 2 * endpoints + of_tls
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

fn remove_each<L: Label>(family: &IntCounterVec, upstream: &str) {
    for label in L::ALL {
        let _ = family.remove_label_values(&[upstream, label.name()]);
    }
}

#[cfg(test)]
mod tests;
