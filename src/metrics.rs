//! Every metric everlink exports, registered in one place.
//!
//! Handles are resolved once for each upstream, so the data path touches atomics only, never a map or a lock. Series
//! appear at 0 with their upstream and go with it. Label values come from the configuration or from the closed lists
//! here, never from a peer.

#![forbid(unsafe_code)]

mod endpoints;
mod families;
mod files;
mod gateway;
mod histograms;
mod labels;
mod series;
mod services;
mod session;
mod trips;
mod upstream;

pub use endpoints::{EndpointFigure, EndpointFigures, EndpointMetrics, EndpointSeries};
pub use gateway::GatewayMetrics;
pub use labels::{
    CloseReason, DialOutcome, Direction, Label, LinkState, LossReason, Mode, PerMode, Refusal, RefuseReason,
    ReloadOutcome, ResumeOutcome, SessionEnd, StreamRefusal,
};
pub use services::{ServiceSeries, UNKNOWN_SERVICE};
pub use session::{SessionMetrics, VIOLATIONS, Violations};
pub use trips::Trip;
pub use upstream::UpstreamMetrics;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntCounter, IntGauge, Registry};

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
}

/// The commit this was built from, if the build knew it.
pub fn revision() -> &'static str {
    option_env!("EVERLINK_REVISION").unwrap_or("unknown")
}

/// Seconds of Unix time.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests;
