//! The tree behind `/status`: a pure reading of [`Status`], also read back by `everlink status`.
//!
//! Spans are seconds, moments RFC 3339 in UTC with their age beside them, so that a reader needs no clock of its own.

mod detail;
mod history;
mod tunnel;
mod upstream;

pub use detail::Detail;
pub use history::{DrillReport, EventReport, OutageReport, TripReport};
pub use tunnel::{ForwardReport, GatewayReport, GatewaySessionReport, SessionReport};
pub use upstream::{ConnectionsReport, EndpointReport, HeartbeatReport, LinkReport, UpstreamReport};

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde::{Deserialize, Serialize};

use super::health;
use crate::clock::rfc3339;
use crate::metrics::{Label, revision};
use crate::status::Status;

/// The whole process. A reader of another version finds what it knows and defaults for the rest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub version: String,
    pub revision: String,
    pub now: String,
    pub started: String,
    pub uptime_seconds: f64,
    /// What `/livez`, `/startupz` and `/readyz` say.
    pub live: bool,
    pub startup_done: bool,
    pub ready: bool,
    pub draining: bool,
    /// Since the slowest data loop last showed a sign of life.
    pub slowest_loop_seconds: u64,
    pub config: ConfigReport,
    /// By name.
    pub upstreams: Vec<UpstreamReport>,
    /// `None`: this process is no gateway.
    pub gateway: Option<GatewayReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigReport {
    pub path: String,
    pub generation: u64,
    pub hash: String,
    pub last_reload: Option<ReloadReport>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadReport {
    pub at: String,
    pub age_seconds: f64,
    pub outcome: String,
    pub lines: Vec<String>,
}

/// Everything `status` holds, as of `now`.
pub fn report(status: &Status, now: SystemTime) -> Report {
    detailed(status, &Detail::default(), now)
}

/// As [`report`], with the history of those upstreams only that `detail` asks for.
pub fn detailed(status: &Status, detail: &Detail<'_>, now: SystemTime) -> Report {
    let config = status.config.load();
    let figures = status.metrics.endpoint_figures();
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: revision().to_owned(),
        now: rfc3339(now),
        started: rfc3339(status.started),
        uptime_seconds: age(status.started, now),
        live: health::live(status).is_ok(),
        startup_done: health::started(status),
        ready: health::ready(status),
        draining: status.draining.load(Ordering::Relaxed),
        slowest_loop_seconds: status.slowest_loop(),
        config: ConfigReport {
            path: config.path.clone(),
            generation: config.generation,
            hash: config.hash.clone(),
            last_reload: config.last_reload.as_ref().map(|reload| ReloadReport {
                at: rfc3339(reload.at),
                age_seconds: age(reload.at, now),
                outcome: reload.outcome.to_owned(),
                lines: reload.lines.clone(),
            }),
        },
        upstreams: status
            .upstreams()
            .values()
            .map(|upstream| upstream::upstream_report(upstream, &figures, detail.is_whole(&upstream.name), now))
            .collect(),
        gateway: status.gateway().map(|gateway| tunnel::gateway_report(&gateway, now)),
    }
}

/// Counters by the names of their labels.
fn counts<L: Label>(labels: impl Iterator<Item = L>, counters: &[IntCounter]) -> BTreeMap<String, u64> {
    labels.map(|label| (label.name().to_owned(), counters[label.index()].get())).collect()
}

/// Seconds from `from` to `to`; 0 when a clock was set back between them.
fn age(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests;
